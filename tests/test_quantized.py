"""Notebook 05's runs and drawings: which graph is made from what, a killed run, the tables and losses by hand."""

import copy
import dataclasses
import json

import pytest
from datasets import DatasetDict

from mmalib import profiles
from mmalib.data import corpus
from mmalib.data.corpus import fewer
from mmalib.graph import export, quantize, ranges
from mmalib.model.evaluate import score
from mmalib.records import machine, store
from mmalib.reports import quantization as report
from mmalib.reports import quantization_figures, tables
from mmalib.studies import baselines, int8_choices, quantization, tipped


@pytest.fixture(scope="module")
def setting(tiny_backbone, tmp_path_factory):
    tiny = str(tiny_backbone)
    profile = dataclasses.replace(
        profiles.PROFILES["smoke"],
        name="tiny",
        backbones=(tiny,),
        train_sentences=32,
        eval_sentences=10,
        epochs=8,
        batch_size=4,
        learning_rate=5e-3,
        rate_after=5e-3,
        int8_graphs=None,
        floor_layers=None,
    )
    where = {"corpus": "sample", "runs": tmp_path_factory.mktemp("runs")}
    # A tiny model learns its own sentences by heart and no others: scored on them, it has an F1 to lose.
    corpora = {
        language: DatasetDict(train=splits["train"], dev=splits["train"].select(range(10)), test=splits["train"])
        for language, splits in corpus.load(profile, "sample").items()
    }
    corpora = corpus.Corpora(corpora)
    return profile, tiny, corpora, where


@pytest.fixture(scope="module")
def study(setting):
    """The records of all graphs of one seed, by graph; the floor over all dev sets as well, needed or not."""
    profile, tiny, corpora, where = setting
    graphs = [*quantization.planned(profile), "floor-all"]
    return {graph: quantization.make(profile, graph, tiny, 1, corpora, **where) for graph in graphs}


@pytest.fixture(scope="module")
def compared(setting, study):
    profile, tiny, corpora, where = setting
    return tipped.compare(profile, tiny, 1, corpora, **where)


def folder(setting, graph):
    _, tiny, _, where = setting
    return where["runs"] / "tiny" / "models" / quantization.run_name(graph, tiny, "sample", 1)


def about(setting, graph):
    return json.loads((folder(setting, graph) / "mmalib.json").read_text(encoding="utf-8"))


def test_the_graph_itself_is_scored_and_float_is_what_pytorch_says(setting, study):
    profile, tiny, corpora, where = setting
    some = corpus.fewer_to_score(corpora, profile.int8_sentences)
    model, tokenizer = baselines.load(profile, tiny, 1, corpora, **where)
    assert study["float"]["scores"] == score(model, tokenizer, some, max_length=profile.max_length)
    assert study["float"]["scores"]["en"]["dev"]["f1"] > 0.2
    for graph in ("dynamic", "qat-qoperator"):
        run = export.session(folder(setting, graph), 1)
        assert study[graph]["scores"] == export.score(run, tokenizer, some, max_length=profile.max_length)


def test_a_baseline_comes_back_on_the_machines_device(setting, study, monkeypatch):
    profile, tiny, corpora, where = setting
    monkeypatch.setattr(machine, "device", lambda: "meta")  # stands in for a GPU, where there is none
    model, _ = baselines.load(profile, tiny, 1, corpora, **where)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_every_folder_has_the_form_that_its_record_says(setting, study):
    for graph, (kind, form) in quantization.FORMS.items():
        record = study[graph]
        assert (record["config"]["graph"], record["config"]["kind"], record["config"]["format"]) == (graph, kind, form)
        if kind == "float" or record.get("same_as"):
            continue
        said = about(setting, graph)
        assert said["quantization"]["kind"] == kind and said["run"] == record["run"]
        assert said["quantization"]["format"] == form
        assert said["quantization"]["embeddings"] == (graph == "static-embeddings")
        assert record["size"]["megabytes"] == said["megabytes"] < study["float"]["size"]["megabytes"]
    assert study["static-embeddings"]["size"]["megabytes"] < study["static"]["size"]["megabytes"]


def test_the_calibration_is_chosen_on_english_dev_and_used_by_all_static_graphs(setting, study, monkeypatch):
    profile, tiny, corpora, where = setting
    found = study["static"]["calibration"]
    assert set(found["tried"]) == {"minmax", "percentile"}
    best = max(found["tried"].values(), key=lambda seen: (seen["f1"], -seen["drift"]))
    assert found["tried"][found["chosen"]] == best
    tokenizer = baselines.load(profile, tiny, 1, corpora, **where)[1]
    rows = ranges.sentence_rows(
        fewer(corpora["en"]["train"], profile.calibration_sentences)["words"], tokenizer, profile.max_length
    )
    known = ranges.calibrate(folder(setting, "float"), rows, method=found["chosen"])
    assert {name: list(pair) for name, pair in known.items()} == study["static"]["ranges"]
    given = []
    monkeypatch.setattr(quantize, "quantize", lambda *_, ranges, **__: given.append(ranges) or about(setting, "static"))
    whole, static = study["float"], study["static"]
    for graph in ("static-qoperator", "static-embeddings"):
        quantization._quantized(
            profile, graph, tokenizer, corpora, whole, static, folder(setting, "float"), where["runs"] / "x", {}
        )
    assert given == [static["ranges"]] * 2


def test_the_choice_does_not_look_beyond_english(setting, study):
    profile, tiny, corpora, where = setting
    tokenizer = baselines.load(profile, tiny, 1, corpora, **where)[1]
    only = {"en": corpora["en"]}  # another language is not even there
    known = study["static"]["ranges"]
    source = folder(setting, "float")
    assert (
        int8_choices.calibrated(profile, source, tokenizer, only["en"])["calibration"] == study["static"]["calibration"]
    )
    found = int8_choices.searched(profile, ("en",), source, known, tokenizer, only, study["float"]["places"])
    assert (
        found["sensitivity"] == study["floor"]["sensitivity"]
        and found["floor"]["skip"] == study["floor"]["floor"]["skip"]
    )


def test_qat_learns_its_ranges_and_agrees_with_its_graph(study):
    for graph in ("qat", "qat-qoperator"):
        assert study[graph]["ranges"] and study[graph]["ranges"] != study["static"]["ranges"]
        assert study[graph]["agreement"] >= 0.95  # a tiny model is sure of little
    # the form for DeepSparse rounds outputs as well, and learns their ranges
    assert len(study["qat-qoperator"]["ranges"]) > len(study["qat"]["ranges"])
    assert "ranges" not in study["longer"] and study["longer"]["history"]["dev_f1"]


def test_the_floor_tells_what_it_looked_at_and_what_every_language_lost(setting, study):
    whole = study["float"]["scores"]
    assert len(study["floor"]["sensitivity"]) == 12 and "sensitivity" not in study["floor-all"]
    assert all(row["drift"] > 0 for row in study["floor"]["sensitivity"])
    for graph, languages in quantization.FLOORS.items():
        record = study[graph]
        assert record["floor"]["languages"] == sorted(languages) == sorted(record["config"]["floor_languages"])
        lost = {name: 100 * (whole[name]["dev"]["f1"] - record["scores"][name]["dev"]["f1"]) for name in whole}
        assert record["floor"]["lost_on_dev"] == pytest.approx(lost)
        assert record["floor"]["met_everywhere"] == (max(lost.values()) <= 1)
        if record["floor"]["skip"]:
            assert about(setting, graph)["quantization"]["skip"] == sorted(record["floor"]["skip"])
        else:
            assert record["same_as"] == study["static"]["run"] and record["scores"] == study["static"]["scores"]


def test_a_broken_floor_leaves_maps_in_float(setting, study, monkeypatch, tmp_path):
    profile, tiny, corpora, where = setting
    name = next(iter(study["float"]["places"]))
    broken = {"floor": {"skip": [name], "languages": ["en"]}, "sensitivity": []}
    monkeypatch.setattr(int8_choices, "searched", lambda *_: copy.deepcopy(broken))
    tokenizer = baselines.load(profile, tiny, 1, corpora, **where)[1]
    size, found = quantization._quantized(
        profile,
        "floor",
        tokenizer,
        corpora,
        study["float"],
        study["static"],
        folder(setting, "float"),
        tmp_path / "f",
        {},
    )
    assert found == broken and size["quantized"] == 11
    assert export.size_mb(tmp_path / "f") > study["static"]["size"]["megabytes"]


def test_a_second_call_reads_and_a_lost_folder_is_made_again(setting, study, monkeypatch):
    profile, tiny, corpora, where = setting
    for graph in study:
        with monkeypatch.context() as nothing:
            nothing.setattr(export, "score", None)
            assert quantization.make(profile, graph, tiny, 1, corpora, **where) == study[graph]
    (folder(setting, "without-data") / "model.onnx").unlink()
    again = quantization.make(profile, "without-data", tiny, 1, corpora, **where)
    assert again["scores"] == study["without-data"]["scores"] and export.size_mb(folder(setting, "without-data"))


def test_a_killed_run_goes_on_to_the_same_graph(setting, study, monkeypatch):
    profile, tiny, corpora, where = setting
    path = store.records_folder(where["runs"], "tiny") / f"{study['qat']['run']}.json"
    path.unlink()

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(export, "score", kill)
        (folder(setting, "qat") / "model.onnx").unlink()
        with pytest.raises(KeyboardInterrupt):
            quantization.make(profile, "qat", tiny, 1, corpora, **where)
    checkpoints = where["runs"] / "tiny" / "checkpoints" / study["qat"]["run"]
    assert checkpoints.is_dir() and not path.exists()
    again = quantization.make(profile, "qat", tiny, 1, corpora, **where)
    assert again["scores"] == study["qat"]["scores"] and again["ranges"] == study["qat"]["ranges"]
    assert not checkpoints.exists()


def test_what_is_tipped_is_the_difference_of_the_scores(setting, study, compared, monkeypatch):
    profile, tiny, corpora, where = setting
    assert list(compared["tipped"]) == ["longer", "dynamic", "static", "qat", "without-data"]
    for graph, languages in compared["tipped"].items():
        for language, found in languages.items():
            one, other = (study[name]["scores"][language]["test"]["f1"] for name in (graph, "float"))
            assert found["points"] == pytest.approx(100 * (one - other))
    monkeypatch.setattr(export, "session", None)  # a second call reads
    assert tipped.compare(profile, tiny, 1, corpora, **where) == compared
    table = report.tipped_words([compared])
    assert len(table) == 15 and set(table["language"]) == {"en", "es", "nl"}


def test_layers_are_taken_evenly():
    where = {f"{layer}.{part}": [layer, part] for layer in range(6) for part in "ab"}
    assert int8_choices.scanned(where, None) == list(where) == int8_choices.scanned(where, 9)
    assert [name[0] for name in int8_choices.scanned(where, 3)] == ["0", "0", "2", "2", "5", "5"]
    assert int8_choices.scanned(where, 1) == ["0.a", "0.b"]


def record(graph, seed, f1, size=(10.0, 40.0), **found):
    """A run with these F1 of English, Spanish and Dutch, the same on both splits."""
    kind, form = quantization.FORMS[graph]
    config = {"notebook": "05", "method": "quantization", "graph": graph, "kind": kind, "format": form}
    config |= {"backbone": "e5", "corpus": "sample", "seed": seed}
    scores = {
        name: {split: {"f1": one} for split in ("dev", "test")}
        for name, one in zip(("en", "es", "nl"), f1, strict=True)
    }
    zeros = {"sparsity": 0.5, "sparsity_int8": None if kind == "float" else 0.52}
    about = {"megabytes": size[0], "megabytes_float": size[1], "quantized": 36, **zeros}
    run = quantization.run_name(graph, "e5", "sample", seed)
    return {"run": run, "config": config, "scores": scores, "size": about, **found}


@pytest.fixture
def by_hand():
    """Static loses 1 point of English and 3 of Spanish with seed 1, twice that with seed 2."""
    tried = {"minmax": {"f1": 0.8, "drift": 0.01}, "entropy": {"f1": 0.7, "drift": 0.1234}}
    calibration = {"chosen": "minmax", "tried": tried}
    rows = []
    for seed in (1, 2):
        places = {f"encoder.layer.{layer}.b": [layer, part] for layer, part in ((0, "query"), (1, "narrow"))}
        rows.append(record("float", seed, (0.8, 0.6, 0.5), (40.0, 40.0), places=places))
        lost = (0.8 - 0.01 * seed, 0.6 - 0.03 * seed, 0.5)
        rows.append(record("static", seed, lost, calibration=calibration))
        rows.append(record("qat", seed, (0.8, 0.605, 0.5)))
        found = {"languages": ["en"], "skip": ["encoder.layer.1.b"], "measured": 5, "met": True, "drift_at_first": 0.2}
        found |= {"lost_on_dev": {"en": 0.0, "es": 2.5, "nl": 0.0}, "met_everywhere": False}
        scan = [
            {"map": f"encoder.layer.{layer}.b", "layer": layer, "part": part, "drift": drift}
            for layer, part, drift in ((0, "query", 0.2), (1, "narrow", 0.05 * seed))
        ]
        rows.append(record("floor", seed, (0.8, 0.575, 0.5), floor=found, sensitivity=scan))
    return rows


def test_table_6_by_hand(by_hand):
    made = report.table_6(by_hand)
    ours = ["e5, float", "e5, Static", "e5, QAT", "e5, Static with a floor, English dev"]
    assert made["model"].tolist() == [*ours, *tables.paper(6)["model"]]
    static = made.iloc[1]
    assert static["es test mean"] == pytest.approx(0.555) and static["es test std"] == pytest.approx(0.03 / 2**0.5)
    assert static["mls dev mean"] == pytest.approx(-0.045) and made.iloc[2]["mls test mean"] == pytest.approx(0.005)
    assert made.iloc[0]["mls dev mean"] == 0 and made["seeds"].tolist()[:2] == [2, 2]
    shown = tables.formatted(made)
    assert shown["mls dev"].tolist()[-4:] == ["-0.013", "-0.029", "-0.006", "-0.045"]
    assert "not measured" not in shown.to_string()
    no_float = tables.formatted(report.table_6([r for r in by_hand if r["config"]["graph"] != "float"]))
    assert no_float["mls test"].tolist()[:3] == ["not measured"] * 3


def test_the_paper_takes_dev_of_its_base_for_test_too():
    printed = tables.paper(6)
    for split in ("dev", "test"):
        assert (report.printed_mls("dev")[f"mls {split}"] - printed[f"mls_{split}"]).abs().max() < 0.0006
    assert (report.printed_mls("test")["mls test"] - printed["mls_test"]).abs().min() > 0.02


def test_sizes_calibration_and_floor_by_hand(by_hand):
    made = report.sizes(by_hand).set_index("model")
    assert made.loc["e5, Static", ["MB", "of float", "zeros in int8"]].tolist() == [10.0, "25%", "52.0%"]
    assert made.loc["e5, float", ["MB", "of float", "zeros in int8"]].tolist() == [40.0, "100%", ""]
    tried = report.calibration(by_hand)
    assert tried["chosen"].tolist() == ["yes", ""] * 2 and tried["drift"].tolist()[:2] == [0.01, 0.123]
    held = report.floors(by_hand).iloc[0]
    assert (held["maps in float"], held["es dev lost"], held["met there"], held["met everywhere"]) == (
        "narrow 2", 2.5, "yes", "no",
    )  # fmt: skip


def test_losses_and_sensitivity_by_hand(by_hand):
    points = report.changes(by_hand).set_index(["graph", "seed", "language", "split"])["points"]
    assert points[("static", 2, "es", "dev")] == pytest.approx(-6) and points[
        ("qat", 1, "es", "test")
    ] == pytest.approx(0.5)
    panels = quantization_figures.losses(report.changes(by_hand)).axes
    dots = [
        line.get_ydata()[0] for line in panels[0].lines if line.get_color() == "#EE6677" and len(line.get_xdata()) == 1
    ]
    assert dots == pytest.approx([-4.5, 0.5])  # static, QAT: means over seeds
    alone = report.alone(by_hand).set_index(["seed", "layer", "part"])["share"]
    assert alone[(1, 2, "narrow")] == pytest.approx(0.25) and alone[(2, 2, "narrow")] == pytest.approx(0.5)
    axes = quantization_figures.sensitivity(report.alone(by_hand)).axes[0]
    assert axes.images[0].get_array()[1, 5] == pytest.approx(0.375) and len(axes.patches) == 1


def test_everything_is_drawn_and_what_lacks_is_named(setting, study, compared, by_hand):
    profile, tiny, _, _ = setting
    records = [*study.values(), compared]
    drawn = report.draw(records)
    assert set(drawn) == {
        "table_6", "table_int8_sizes", "table_calibration", "table_floor", "table_tipped", "quantization",
        "sensitivity",
    }  # fmt: skip
    assert report.draw([]) == {} and report.gaps(records, profile) == []
    assert report.gaps(records[:-1], profile) == [compared["run"]]
    lacking = [study["qat"]["run"], study["floor"]["run"]]
    assert report.gaps([r for r in records if r["run"] not in lacking], profile) == lacking
    e5 = dataclasses.replace(profile, backbones=("e5",), int8_graphs=("static", "qat", "floor"))
    words = {"run": "05-tipped-e5-sample-seed1", "config": {"notebook": "05", "method": "", "corpus": "sample"}}
    assert report.gaps([*by_hand[:4], words], e5) == ["05-floor-all-e5-sample-seed1"]  # Spanish loses 3 points
    mended = [*by_hand[:1], record("static", 1, (0.8, 0.595, 0.5)), *by_hand[2:4], words]
    assert report.gaps(mended, e5) == []
    assert set(report.draw(by_hand[:1])) == {"table_6", "table_int8_sizes"}


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_profile_has_the_paper_s_four_kinds_and_the_floor(name):
    planned = quantization.planned(profiles.PROFILES[name])
    assert {"float", "floor", *quantization.KINDS} <= set(planned) and "floor-all" not in planned
    wrong = dataclasses.replace(profiles.PROFILES[name], int8_graphs=("int4",))
    with pytest.raises(ValueError, match="has 'int4'"):
        quantization.planned(wrong)
