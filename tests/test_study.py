"""The one life of a run: made, read, refused, made again, varied, locked."""

import threading
from dataclasses import replace

import pytest
from smoke import SMOKE

from mmalib import reports
from mmalib.data import corpus, sample
from mmalib.model import disk
from mmalib.records import lock, store
from mmalib.studies import training
from mmalib.studies.study import Study


@pytest.fixture
def study(tiny_backbone, tmp_path):
    folder = str(tiny_backbone)
    profile = replace(SMOKE, name="tiny", backbones=(folder,), teacher=folder, students=(folder,))
    return Study.open(profile, tmp_path, "sample")


@pytest.fixture
def base(study):
    return study.runs(kind="baseline")[0]


def forbid(monkeypatch):
    monkeypatch.setattr(training, "tune", None)


def test_a_run_is_made_once_and_read_afterwards(study, base, monkeypatch):
    record = study.make(base)
    assert record["settings"]["kind"] == "baseline" and record["needs"] == {}
    assert study.missing("01") == [] and study.missing("02") == [run.name for run in study.runs("02")]
    assert list((study.home / "unfinished").iterdir()) == []
    forbid(monkeypatch)
    assert study.make(base) == record == Study.open(study.profile, study.top, "sample").make(base.name)


def test_what_a_run_needs_is_made_first(study):
    record = study.make(study.runs(kind="vocabulary")[0])
    assert [other["run"] for other in study.records()] == [record["needs"]["base"], record["run"]]


def test_other_settings_under_the_same_name_are_refused_with_the_way_out(study, base):
    study.make(base)
    other = Study.open(replace(study.profile, learning_rate=1e-3), study.top, "sample")
    with pytest.raises(ValueError, match=r"(?s)learning_rate: 0.0001 -> 0.001.*study.vary.*--fresh"):
        other.make(base.name)


def test_a_folder_keeps_to_the_sentences_that_its_records_are_of(study, monkeypatch):
    corpora = study.corpora
    assert study.vary(train_sentences=2).corpora.fingerprints == corpora.fingerprints  # a cap is a setting
    generated = sample.generate()
    generated["nl"]["test"][0][1][0] = "B-PER"  # one tag
    monkeypatch.setattr(sample, "generate", lambda: generated)
    with pytest.raises(ValueError, match="of other sample sentences.*--fresh"):
        Study.open(study.profile, study.top, "sample").corpora  # noqa: B018
    assert Study.open(study.profile, study.top / "other", "sample").corpora.fingerprints != corpora.fingerprints


def test_a_further_language_may_come_later_and_then_stays_the_same(study, monkeypatch):
    def load(**others):
        monkeypatch.setattr(corpus, "load", lambda *_: corpus.Corpora({}, of={"": 1, **others}))
        return Study.open(study.profile, study.top, "sample").corpora

    load()
    load(fr=2)
    load(fr=2, pt=3)
    with pytest.raises(ValueError, match="of other sample-fr sentences.*--fresh"):
        load(fr=9)


def test_records_of_another_corpus_are_no_part_of_a_study(tmp_path):
    study = Study.open("quick", tmp_path, "sample")
    for name in ("sample", "conll"):
        store.save(study.home / "records", f"01-{name}", {"corpus": name}, scores={})
    assert [record["run"] for record in study.records()] == ["01-sample"]


def test_a_varied_run_lies_beside_and_is_a_row_of_its_own(study, base):
    plain = study.make(base)
    varied = study.vary(learning_rate=1e-3)
    (record,) = varied.make_all(varied.runs(kind="baseline"))
    assert record["run"] == f"{base.name}+learning_rate=0.001" and study.make(base) == plain
    assert study.folder(record["run"]).is_dir() and study.folder(base.name).is_dir()
    table = reports.baselines.table_1(study.records())
    ours = table[table["source"] != "paper"]["model"].tolist()
    assert ours == [base.settings["label"], f"{base.settings['label']}, learning_rate 0.001"]


def test_without_pairs_entities_are_studied_alone(study, tmp_path):
    kinds = {run.kind for run in study.plan.values()}
    assert {"pairs int8", "crossed"} <= kinds
    alone = Study(study.profile, study.top, str(tmp_path))
    assert {run.settings.get("task") for run in alone.plan.values()} == {None, "entities"}
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb" / "en-train.csv").touch()
    assert len(Study(study.profile, study.top, str(tmp_path)).plan) == len(study.plan)


def test_unfinished_work_is_never_continued_under_other_settings(study, base):
    shrink = study.runs(kind="structured")[0]
    store.add_point(study.home / "unfinished" / f"{shrink.name}-{shrink.digest}", {"step": 0, "mark": "of this one"})
    varied = study.vary(curve_sentences=9)
    other = varied.plan[f"{shrink.name}+curve_sentences=9"]
    assert not any("mark" in point for point in varied.make(other)["curve"])
    with pytest.raises(KeyError):  # the plain one goes on with the point that it finds
        reports.structured.falling(store.curves([study.make(shrink)]), shrink.settings["method"])


@pytest.mark.parametrize("loss", ("gone", "of other settings"))
def test_a_record_without_its_model_is_made_again(study, base, loss):
    first = study.make(base)
    folder = study.folder(base.name)
    if loss == "gone":
        folder.rename(folder.with_name("elsewhere"))
    else:
        model, tokenizer = disk.load(folder)
        disk.save(model, tokenizer, folder, about=study.about(base) | {"settings": "another"})
    assert study.done(base) is None
    again = study.make(base)
    assert again["scores"] == first["scores"] and study.done(base) == again


def test_a_trajectory_whose_steps_miss_a_share_is_done_all_the_same(study):
    odd = study.vary(head_share=0.3)  # of 8 heads, two a step
    run = odd.runs(kind="structured")[0]
    record = odd.make(run)
    assert [leaf[-3:] for leaf in record["leaves"]] == ["-25", "-50", "-75"] and run.leaves == ()
    assert odd.done(run) == record


def test_a_run_that_somebody_else_makes_is_waited_for_and_read(study, base, monkeypatch, capsys):
    record = study.make(base)
    path = study.home / "records" / f"{base.name}.json"
    text = path.read_text()
    path.unlink()
    forbid(monkeypatch)
    waited = []
    with lock.hold(study.home / "locks" / f"{base.name}.lock", "x"):
        assert lock.held(study.home / "locks") == [base.name]
        waiter = threading.Thread(target=lambda: waited.append(study.make(base)))
        waiter.start()
        waiter.join(0.5)
        assert waiter.is_alive() and not waited
        path.write_text(text)
    waiter.join(10)
    assert waited == [record] and lock.held(study.home / "locks") == []
