"""What was tried to tune a backbone, from trial to table; and F1 in further languages, from corpus to figure."""

from dataclasses import replace

import pytest
from datasets import Dataset, DatasetDict
from smoke import SMOKE

from mmalib import plan, reports
from mmalib.data.corpus import Corpora
from mmalib.data.subwords import predict_tags
from mmalib.profiles import load_profile
from mmalib.records import store
from mmalib.studies import training
from mmalib.studies.study import Study

FURTHER = Dataset.from_dict({"words": [["Paris", "."], ["Rien"]], "tags": [["B-LOC", "O"], ["O"]]})
SMALL = replace(load_profile("small"), seeds=(1,))


@pytest.fixture
def study(tiny_backbone, tmp_path):
    tiny = str(tiny_backbone)
    profile = replace(SMOKE, backbones=(tiny,), teacher=tiny, learning_rate=3e-3, trials=True)
    study = Study.open(profile, tmp_path, "sample")
    study.corpora = Corpora(study.corpora, {"fr": DatasetDict(test=FURTHER)})
    return study


@pytest.fixture
def base(study):
    return study.runs("01", "baseline")[0]


def test_a_trial_is_made_once_with_its_settings(study, base, monkeypatch):
    monkeypatch.setitem(plan.RECIPES, "faster", {"learning_rate": 3e-3, "average_from": 1.0})
    record = study.make(plan.recipe(study.profile, base, "faster"))
    settings = record["settings"]
    assert (settings["learning_rate"], settings["average_from"], settings["epochs"]) == (3e-3, 1.0, 3)
    assert set(record["scores"]) == {"en", "es", "nl"} and set(record["scores"]["es"]) == {"dev"}
    assert record["history"]["average_dev_f1"] == pytest.approx(record["scores"]["en"]["dev"]["f1"], abs=0.02)
    monkeypatch.setattr(training, "finetune", None)  # done: nothing is trained again
    assert study.make(plan.recipe(study.profile, base, "faster")) == record
    monkeypatch.setitem(plan.RECIPES, "faster", {"learning_rate": 1e-3})
    with pytest.raises(ValueError, match="learning_rate: 0.003 -> 0.001"):
        study.make(plan.recipe(study.profile, base, "faster"))


def trial(name, en):
    scores = {language: {"dev": {"f1": en - less}} for language, less in (("en", 0), ("es", 0.2), ("nl", 0.1))}
    run = plan.recipe(SMALL, plan.baseline(SMALL, "e5", "conll", 1), name)
    return {"run": run.name, "settings": run.settings, "scores": scores, "timings": {"training": 90.0}}


def test_the_table_of_trials_has_the_best_english_first():
    table = reports.baselines.recipes_table([trial("start", 0.8), trial("head", 0.9)])
    assert table["trial"].tolist() == ["head", "start"]
    assert table.loc[0, ["changed", "en dev", "es dev", "nl dev", "minutes"]].tolist() == [
        "head_rate 10", 0.9, 0.7, 0.8, 1.5,
    ]  # fmt: skip


def test_a_profile_with_trials_lacks_those_that_were_not_made():
    records = [score_of("01-e5-conll-seed1", "baseline", 0.8), trial("head", 0.9)]
    lacking = plan.missing(records, plan.runs(SMALL, "conll"))
    assert "01-trial-start-e5-conll" in lacking and "01-trial-head-e5-conll" not in lacking
    without = plan.runs(replace(SMALL, trials=False), "conll")
    assert not any("trial" in run for run in plan.missing(records, without))


def test_a_baseline_is_scored_in_further_languages_apart_from_the_papers(study, base):
    record = study.make(base)
    assert set(record["scores"]) == {"en", "es", "nl"} and set(record["further"]) == {"fr"}
    model, tokenizer = study.model(base.name)
    predicted = predict_tags(model, tokenizer, FURTHER["words"], max_length=study.profile.max_length)
    right = predicted[0][0] == "B-LOC"
    said = sum(tag.startswith("B-") for tags in predicted for tag in tags)
    assert record["further"]["fr"]["test"]["recall"] == float(right) and said >= float(right)
    assert set(store.frame([record])["language"]) == {"en", "es", "nl"}  # the paper's tables see no others


def score_of(run, method, f1, further=None, **more):
    one = {"f1": f1, "f1_low": f1 - 0.01, "f1_high": f1 + 0.01, "precision": f1, "recall": f1}
    scores = {language: {"dev": one, "test": one} for language in ("en", "es", "nl")}
    kind, needs = ("baseline", {}) if method == "baseline" else ("gradual", {"base": "a"})
    settings = {"kind": kind, "method": method, "label": "e5", "corpus": "conll", "seed": 1, **more}
    beside = {name: {"test": {**one, "f1": value}} for name, value in (further or {}).items()}
    return {"run": run, "settings": settings, "needs": needs, "scores": scores, "further": beside}


def test_languages_show_f1_and_what_is_left_of_it():
    dense = score_of("a", "baseline", 0.8, {"fr": 0.7, "pt": 0.6})
    pruned = score_of("b", "obs", 0.4, {"fr": 0.35, "pt": 0.6}, share=0.8, schedule="cubic")
    other = score_of("c", "obs", 0.4, share=0.9, schedule="cubic")  # scored before there were such sets
    frame = reports.languages.kept([dense, pruned, other]).set_index(["model", "language"])
    assert frame.loc[("second order 80%, cubic", "fr"), "kept"] == 0.5
    assert frame.loc[("second order 80%, cubic", "pt"), "kept"] == 1.0
    assert len(frame) == 10
    drawn = reports.draw([dense, pruned, other], "languages", "table_languages")
    table = drawn["table_languages"].set_index("model")
    assert list(table.columns) == ["dense model", "seeds", "English", "Spanish", "Dutch", "French", "Portuguese"]
    assert table.loc["dense", "French"] == "0.700"
    left, right = drawn["languages"].axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(table.columns[2:])
    assert right.lines[0].get_xdata() == pytest.approx([50, 50, 50, 50, 100])
    assert reports.languages.figure([score_of("a", "baseline", 0.8), other]) is None
    assert len(reports.languages.figure([dense]).axes) == 1
