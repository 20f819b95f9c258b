"""Notebook 05's runs and drawings: which graph is made from what, a killed run, the tables and losses by hand."""

import copy
import dataclasses
import shutil
from functools import partial

import pytest
from datasets import DatasetDict

from mmalib import plan, profiles, reports
from mmalib.data.corpus import Corpora, fewer, fewer_to_score
from mmalib.data.subwords import encode_split, tagged
from mmalib.graph import export, quantize, ranges
from mmalib.model import disk
from mmalib.model.evaluate import score, scored
from mmalib.records import machine, store
from mmalib.reports import quantization as report
from mmalib.reports import tables
from mmalib.studies import quantization


@pytest.fixture(scope="module")
def study(tiny_study):
    rates = {"learning_rate": 5e-3, "rate_after": 5e-3}
    sizes = {"train_sentences": 32, "eval_sentences": 10, "epochs": 8, "batch_size": 4}
    study = tiny_study(**rates, **sizes, int8_graphs=None, floor_layers=None)
    # A tiny model learns its own sentences by heart and no others: scored on them, it has an F1 to lose.
    study.corpora = Corpora(
        {
            language: DatasetDict(train=splits["train"], dev=splits["train"].select(range(10)), test=splits["train"])
            for language, splits in study.corpora.items()
        }
    )
    return study


@pytest.fixture(scope="module")
def made(study):
    """The records of all graphs of one seed, by graph."""
    return {run.settings["graph"]: study.make(run) for run in study.runs("05", "graph")}


@pytest.fixture(scope="module")
def compared(study, made):
    (run,) = study.runs("05", "changed words")
    return study.make(run)


@pytest.fixture(scope="module")
def folder(study, made):
    return lambda graph: study.folder(made[graph]["run"])


@pytest.fixture(scope="module")
def run_of(study, made):
    return lambda graph: study.plan[made[graph]["run"]]


@pytest.fixture(scope="module")
def its_tokenizer(study, made):
    return study.model(made["float"]["needs"]["base"])[1]


def test_the_graph_itself_is_scored_and_float_is_what_pytorch_says(study, made, folder):
    some, size = fewer_to_score(study.corpora, study.profile.int8_sentences), study.profile.max_length
    model, tokenizer = study.model(made["float"]["needs"]["base"])
    assert made["float"]["scores"] == score(model, tokenizer, some, max_length=size)
    assert made["float"]["scores"]["en"]["dev"]["f1"] > 0.2
    for graph in ("dynamic", "qat-qoperator"):
        session = export.session(folder(graph), 1)
        assert made[graph]["scores"] == scored(partial(tagged, session, tokenizer, max_length=size), some)


def test_a_baseline_comes_back_on_the_machines_device(study, made, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: "meta")  # stands in for a GPU, where there is none
    model, _ = study.model(made["float"]["needs"]["base"])
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_every_folder_has_the_form_that_its_record_says(made, folder):
    for graph, (kind, form) in plan.GRAPHS.items():
        record = made[graph]
        assert [record["settings"][name] for name in ("graph", "int8", "format")] == [graph, kind, form]
        if kind == "float" or record.get("same_as"):
            continue
        said = store.read_json(folder(graph) / "mmalib.json")
        assert said["quantization"]["kind"] == kind and said["run"] == record["run"]
        assert said["quantization"]["format"] == form
        assert said["quantization"]["embeddings"] == (graph == "static-embeddings")
        assert record["size"]["megabytes"] == said["megabytes"] < made["float"]["size"]["megabytes"]
    assert made["static-embeddings"]["size"]["megabytes"] < made["static"]["size"]["megabytes"]


def test_the_calibration_is_chosen_on_english_dev_and_used_by_all_static_graphs(
    study, made, folder, run_of, its_tokenizer, monkeypatch, tmp_path
):
    found, profile = made["static"]["calibration"], study.profile
    assert set(found["tried"]) == {"minmax", "percentile"}
    best = max(found["tried"].values(), key=lambda seen: (seen["f1"], -seen["drift"]))
    assert found["tried"][found["chosen"]] == best
    train = fewer(study.corpora["en"]["train"], profile.calibration_sentences)
    rows = ranges.sentence_rows(train["words"], its_tokenizer, profile.max_length)
    known = ranges.calibrate(folder("float"), rows, method=found["chosen"])
    assert {name: list(pair) for name, pair in known.items()} == made["static"]["ranges"]
    given, about = [], store.read_json(folder("static") / "mmalib.json")
    monkeypatch.setattr(quantize, "quantize", lambda *_, ranges, **__: given.append(ranges) or about)
    for graph in ("static-qoperator", "static-embeddings"):
        quantization._from_graph(study, run_of(graph), tmp_path)
    assert given == [made["static"]["ranges"]] * 2


def test_the_choice_does_not_look_beyond_english(study, made, folder, run_of, its_tokenizer):
    only, source = {"en": study.corpora["en"]}, folder("float")  # another language is not even there
    settings = run_of("static").settings
    caps = {"train": settings["calibration_sentences"], "dev": settings["int8_sentences"]}
    english = [encode_split(fewer(only["en"][split], cap), its_tokenizer, 128) for split, cap in caps.items()]
    chosen = quantization.calibrated(settings, source, *english)
    assert chosen["calibration"] == made["static"]["calibration"]
    graph, places = folder("static"), made["float"]["places"]
    found = quantization.searched(run_of("floor").settings, source, graph, its_tokenizer, only, places)
    assert found["sensitivity"] == made["floor"]["sensitivity"]
    assert found["floor"]["skip"] == made["floor"]["floor"]["skip"]


def test_qat_learns_its_ranges_and_agrees_with_its_graph(made):
    for graph in ("qat", "qat-qoperator"):
        assert made[graph]["ranges"] and made[graph]["ranges"] != made["static"]["ranges"]
        assert made[graph]["agreement"] >= 0.95  # a tiny model is sure of little
    # the form for DeepSparse rounds outputs as well, and learns their ranges
    assert len(made["qat-qoperator"]["ranges"]) > len(made["qat"]["ranges"])
    assert "ranges" not in made["longer"] and made["longer"]["history"]["dev_f1"]


def test_the_floor_tells_what_it_looked_at_and_what_every_language_lost(made, folder):
    whole = made["float"]["scores"]
    assert len(made["floor"]["sensitivity"]) == 12 and "sensitivity" not in made["floor-all"]
    assert all(row["drift"] > 0 for row in made["floor"]["sensitivity"])
    for graph, languages in plan.FLOORS.items():
        record = made[graph]
        assert record["floor"]["languages"] == sorted(languages) == record["settings"]["floor_languages"]
        lost = {name: 100 * (whole[name]["dev"]["f1"] - record["scores"][name]["dev"]["f1"]) for name in whole}
        assert record["floor"]["lost_on_dev"] == pytest.approx(lost)
        assert record["floor"]["met_everywhere"] == (max(lost.values()) <= 1)
        if record["floor"]["skip"]:
            said = store.read_json(folder(graph) / "mmalib.json")
            assert said["quantization"]["skip"] == sorted(record["floor"]["skip"])
        else:
            assert record["same_as"] == made["static"]["run"] and record["scores"] == made["static"]["scores"]


@pytest.fixture
def broken(made, monkeypatch):
    """Whatever is searched, one map is found that has to stay in float."""
    name = next(iter(made["float"]["places"]))
    found = {"floor": {"skip": [name], "languages": ["en"]}, "sensitivity": []}
    monkeypatch.setattr(quantization, "searched", lambda *_: copy.deepcopy(found))
    return found


def test_a_broken_floor_leaves_maps_in_float(study, made, run_of, broken, tmp_path):
    size, found = quantization._from_graph(study, run_of("floor"), tmp_path / "f")
    assert found == broken and size["quantized"] == 11
    assert disk.size_mb(tmp_path / "f", export.GRAPH) > made["static"]["size"]["megabytes"]


@pytest.mark.parametrize(("lost", "searched"), [(1.1, True), (0.9, False)])
def test_all_dev_sets_are_searched_only_where_static_breaks_the_floor_in_one(
    study, made, run_of, broken, monkeypatch, tmp_path, lost, searched
):
    monkeypatch.setattr(quantization, "losses", lambda *_: {"en": 0.0, "es": lost, "nl": 0.0})
    size, found = quantization._from_graph(study, run_of("floor-all"), tmp_path / "f")
    if searched:
        assert found == broken and size["quantized"] == 11
    else:
        assert found["same_as"] == made["static"]["run"] and size == made["static"]["size"]
        assert found["floor"] == {"skip": [], "languages": ("en", "es", "nl"), "measured": 0, "met": True}


def test_a_second_call_reads_and_a_lost_folder_is_made_again(study, made, folder, monkeypatch):
    for record in made.values():
        with monkeypatch.context() as nothing:
            nothing.setattr(quantization, "scored", None)
            assert study.make(record["run"]) == record
    shutil.rmtree(folder("without-data"))
    again = study.make(made["without-data"]["run"])
    assert again["scores"] == made["without-data"]["scores"] and disk.size_mb(folder("without-data"), export.GRAPH)


def test_a_killed_run_goes_on_to_the_same_graph(study, made, run_of, monkeypatch):
    run = run_of("qat")
    path = study.home / "records" / f"{run.name}.json"
    unfinished = study.home / "unfinished" / f"{run.name}-{run.digest}"
    path.unlink()

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(quantization, "scored", kill)
        study.make(run)
    assert unfinished.is_dir() and not path.exists()
    again = study.make(run)
    assert again["scores"] == made["qat"]["scores"] and again["ranges"] == made["qat"]["ranges"]
    assert not unfinished.exists()


def test_what_changed_is_the_difference_of_the_scores(study, made, compared, monkeypatch):
    assert list(compared["changed"]) == ["longer", "dynamic", "static", "qat", "without-data"]
    for graph, languages in compared["changed"].items():
        for language, found in languages.items():
            one, other = (made[name]["scores"][language]["test"]["f1"] for name in (graph, "float"))
            assert found["points"] == pytest.approx(100 * (one - other))
    monkeypatch.setattr(export, "session", None)  # a second call reads
    assert study.make(compared["run"]) == compared
    table = report.changed_words([compared])
    assert len(table) == 15 and set(table["language"]) == {"en", "es", "nl"}


def test_layers_are_taken_evenly():
    where = {f"{layer}.{part}": [layer, part] for layer in range(6) for part in "ab"}
    assert quantization.scanned(where, None) == list(where) == quantization.scanned(where, 9)
    assert [name[0] for name in quantization.scanned(where, 3)] == ["0", "0", "2", "2", "5", "5"]
    assert quantization.scanned(where, 1) == ["0.a", "0.b"]


def record(graph, seed, f1, size=(10.0, 40.0), **found):
    """A run with these F1 of English, Spanish and Dutch, the same on both splits."""
    kind, form = plan.GRAPHS[graph]
    settings = {"kind": "graph", "graph": graph, "int8": kind, "format": form}
    settings |= {"label": "e5", "corpus": "sample", "seed": seed}
    scores = {
        name: {split: {"f1": one} for split in ("dev", "test")}
        for name, one in zip(("en", "es", "nl"), f1, strict=True)
    }
    zeros = {"sparsity": 0.5, "sparsity_int8": None if kind == "float" else 0.52}
    about = {"megabytes": size[0], "megabytes_float": size[1], "quantized": 36, **zeros}
    run, whole = (plan.named("05", name, "e5", "sample", seed) for name in (graph, "float"))
    return {"run": run, "settings": settings, "needs": {"float": whole}, "scores": scores, "size": about, **found}


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
    no_float = tables.formatted(report.table_6([r for r in by_hand if r["settings"]["graph"] != "float"]))
    assert no_float["mls test"].tolist()[:3] == ["not measured"] * 3


def test_the_paper_takes_dev_of_its_base_for_test_too():
    printed = tables.paper(6)
    for split in ("dev", "test"):
        assert (tables.printed_mls(6, "mlbert", "dev")[f"mls {split}"] - printed[f"mls_{split}"]).abs().max() < 0.0006
    assert (tables.printed_mls(6, "mlbert")["mls test"] - printed["mls_test"]).abs().min() > 0.02


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
    panels = report.losses(by_hand).axes
    means = [line.get_ydata() for line in panels[0].lines if line.get_color() == "#EE6677"]
    assert means[0] == pytest.approx([-4.5, 0.5])  # static, QAT: means over seeds
    alone = report.alone(by_hand).set_index(["seed", "layer", "part"])["share"]
    assert alone[(1, 2, "narrow")] == pytest.approx(0.25) and alone[(2, 2, "narrow")] == pytest.approx(0.5)
    axes = report.sensitivity(by_hand).axes[0]
    assert axes.images[0].get_array()[1, 5] == pytest.approx(0.375) and len(axes.patches) == 1


def test_everything_is_drawn_and_what_lacks_is_named(study, made, compared, by_hand):
    records, runs = [*made.values(), compared], study.runs("05")
    assert set(reports.draw(records, "graph", "changed words")) == {
        "table_6", "table_int8_sizes", "table_calibration", "table_floor", "table_changed_words", "quantization",
        "sensitivity",
    }  # fmt: skip
    assert reports.draw([]) == {} and plan.missing(records, runs) == []
    assert plan.missing(records[:-1], runs) == [compared["run"]]
    lacking = [made["qat"]["run"], made["floor"]["run"]]
    assert plan.missing([r for r in records if r["run"] not in lacking], runs) == lacking
    assert set(reports.draw(by_hand[:1], "graph")) == {"table_6", "table_int8_sizes"}


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_profile_has_the_paper_s_four_kinds_and_the_floors(name):
    assert {"float", *plan.FLOORS, *plan.INT8_KINDS} <= set(plan.graphs(profiles.PROFILES[name]))
    wrong = dataclasses.replace(profiles.PROFILES[name], int8_graphs=("int4",))
    with pytest.raises(ValueError, match="has 'int4'"):
        plan.runs(wrong, "conll")
