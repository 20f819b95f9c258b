"""Notebook 06's runs and drawings: every combination from start to record, on a tiny model and a few sentences."""

import copy

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmalib import plan, profiles, reports
from mmalib.graph import export
from mmalib.model import disk
from mmalib.reports import combined as report
from mmalib.studies import quantization

COLUMNS = ("en", "es", "nl")


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(left_out=())


@pytest.fixture(scope="module")
def records(study):
    """All records of one seed that the notebook makes, and of the runs that those need."""
    study.make_all(study.runs("06"))
    return study.records()


@pytest.fixture
def made(study, records):
    def get(name):
        (record,) = (r for r in records if r["settings"].get("combination") == name)
        return record, study.folder(record["run"])

    return get


def test_a_study_has_the_papers_combinations_and_one_for_the_open_runtimes():
    small = ["80-q", "90-q", "distil-q", "distil-text-q", "halved-q", "distil-halved-q"]
    assert plan.combinations(profiles.PROFILES["small"]) == small
    assert set(report.PRINTED) < set(plan.combinations(profiles.PROFILES["paper"]))


def test_zeros_of_the_pruned_model_are_zeros_of_the_int8_graph(study, made):
    record, folder = made("50-q")
    pruned, _ = disk.load(study.folder(record["needs"]["start"]))
    graph = onnx.load(folder / export.GRAPH).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zeros = total = 0
    for name, weight in pruned.named_parameters():
        if f"{name}_quantized" in stored and ".layer." in name:
            gone = (weight == 0).numpy()
            assert not stored[f"{name}_quantized"].T[gone].any()
            zeros, total = zeros + gone.sum(), total + gone.size
    assert total and zeros == round(0.5 * total)
    assert record["sparsity"]["measured"] == zeros / total <= record["size"]["sparsity_int8"]


@pytest.mark.parametrize("name", plan.HALVED)
def test_the_halved_ones_are_smaller_in_every_way_and_their_graphs_are_int8_throughout(study, made, name):
    record, folder = made(name)
    small, tokenizer = disk.load(study.folder(record["needs"]["start"]))
    whole, its_tokenizer = disk.load(study.folder(record["needs"]["base"]))
    assert [len(left) for left in disk.heads_left(small)] == [2, 2]
    assert disk.neurons_left(small) == [32, 32]
    assert len(tokenizer) < len(its_tokenizer)
    assert record["parameters"] < sum(p.numel() for p in whole.parameters())
    graph = onnx.load(folder / export.GRAPH).graph
    large = [t for t in graph.initializer if np.prod(t.dims) > 1000 and t.data_type == onnx.TensorProto.FLOAT]
    assert all("position" in tensor.name for tensor in large)


def test_the_parts_are_runs_with_records_and_a_second_call_trains_nothing(study, records, made, monkeypatch):
    runs, teacher = {record["run"] for record in records}, study.profile.teacher
    for name in plan.combinations(study.profile):
        parts = report.parts(made(name)[0])
        assert {part[key] for part in parts for key in ("run", "against")} <= runs
        graph = {"50-q": "qat-taught-qoperator", "halved-q": None, "distil-halved-q": None}.get(name, "qat-taught")
        assert not graph or parts[-1]["run"] == plan.named("05", graph, teacher, "sample", 1)
        assert bool(parts) == bool(graph)
    monkeypatch.setattr(quantization, "finetune", None)
    record, _ = made("50-q")
    assert study.make(record["run"]) == record


def test_one_reads_unlabelled_text_in_both_trainings(study, made, monkeypatch):
    record, folder = made("distil-text-q")
    start = record["settings"]["start"]
    assert start["setting"] == "unlabelled" and start["sees_target_text"]
    assert report.target_text(record["settings"]) == "read, without labels"
    asked, real = {}, quantization.lesson
    monkeypatch.setattr(quantization, "lesson", lambda *given: asked.update(tags=given[-1].tags) or real(*given))
    folder.rename(folder.with_name("away"))
    assert study.make(record["run"])["scores"] == record["scores"]
    assert asked["tags"].count(None) == 2 * study.profile.unlabelled_sentences
    assert sum(tags is not None for tags in asked["tags"]) == study.profile.qat_sentences


def test_a_kept_model_is_made_again_as_it_was(study, records, tmp_path):
    run = plan.named("02", "uniform", study.profile.teacher, "sample", 1)
    folder = study.folder(plan.kept_leaf(run, plan.HALF))
    study.make(run)
    before = (folder / disk.WEIGHTS).read_bytes()
    folder.rename(tmp_path / "away")
    study.make(run)
    assert (folder / disk.WEIGHTS).read_bytes() == before


def test_the_sum_of_the_parts_is_counted_by_hand(study, records):
    records, where = copy.deepcopy(records), (study.profile.teacher, "sample", 1)
    by_run = {record["run"]: record for record in records}
    f1 = {
        plan.baseline_name(*where): 0.8,
        plan.named("05", "float", *where): 0.8,
        plan.named("05", "qat-taught-qoperator", *where): 0.79,
        plan.gradual_name("obs", 0.5, "cubic", *where, taught=True): 0.7,
        next(run for run in by_run if run.startswith("06-50-q-")): 0.72,
    }
    for run, value in f1.items():
        by_run[run]["scores"]["es"]["test"]["f1"] = value
    found = report.sums(records)
    row = found[(found["combination"] == "50-q") & (found["language"] == "es")].iloc[0]
    assert row["predicted"] == pytest.approx(11.0) and row["measured"] == pytest.approx(8.0)
    table = report.sums_table(records)
    line = table[table["model"].str.endswith("50_q") & (table["language"] == "es")].iloc[0]
    assert line["less than the sum by"] == pytest.approx(3.0)
    assert line["alone"] == "sparse, taught +10.0, int8 (QAT) +1.0"
    assert not set(plan.HALVED) & set(found["combination"])


def test_table_8_stands_beside_the_papers_and_goals_need_speeds(study, records):
    table = report.table_8(records)
    assert list(table["source"]).count("paper") == 3
    assert table["seeds"].dropna().tolist() == [1, 1, 1, 1, 1]
    assert [name.endswith("*") for name in table["model"]] == [False, True, *[False] * 6]
    drawn = reports.draw(records, "combination")
    assert set(drawn) == {"table_8", "table_combined", "table_sums", "table_best"}
    contents = drawn["table_combined"]
    assert (contents["runtime"] == "not measured").all() and (contents["MB by gzip"] < contents["MB"]).all()
    best = drawn["table_best"]
    assert list(best["goal"]) == list(report.GOALS)
    assert "not measured" in best["run"].iloc[1]
    assert reports.draw([]) == {} and study.missing("06") == []
    lacking = [record["run"] for record in records if "halved-q" in record["run"]]
    fewer = [record for record in records if record["run"] not in lacking]
    assert len(lacking) == len(plan.HALVED) and sorted(plan.missing(fewer, study.runs("06"))) == sorted(lacking)


def test_goals_are_chosen_on_dev_and_shown_with_test():
    float_graph = plan.named("05", "float", "e5", "conll", 1)

    def record(run, kind, unseen, megabytes, graph="static", english=0.8):
        test = {name: 0.8 if name == "en" else unseen[1] for name in COLUMNS}
        scores = {
            name: {"dev": {"f1": english if name == "en" else unseen[0]}, "test": {"f1": test[name]}}
            for name in COLUMNS
        }
        settings = {"kind": kind, "graph": graph, "corpus": "conll", "seed": 1}
        size = {"megabytes": megabytes, "quantized": int(graph != "float")}
        return {"run": run, "settings": settings, "needs": {"float": float_graph}, "scores": scores, "size": size}

    def trained(run, ratio, **more):
        settings = {"kind": "trained", "model": run, "trained_in": "05"}
        row = {"ratio": ratio, "samples_per_second": 9 * ratio, "runtime": "openvino:hint=throughput", "batch": 1}
        return {"run": f"07-{run}", "settings": settings, "scores": {}, "throughput": [row, {"failed": "why"}], **more}

    in_openvino = {"openvino": {"en": 0.79, "es": 0.45, "nl": 0.44}}
    records = [
        record(float_graph, "graph", (0.6, 0.5), 60, "float"),
        record("a", "graph", (0.60, 0.45), 30, english=0.7),
        record("b", "combination", (0.55, 0.46), 10),
        record("c", "combination", (0.50, 0.60), 5),  # best on test, and below nine tenths on dev
        trained("a", 2.0, f1={}),
        trained("b", 3.0, f1={}, f1_in=in_openvino),
        trained("c", 9.0, f1={}),
    ]
    best = report.goals(records)
    assert best["run"].tolist() == ["b", "b", "a", "b"] and best["of"].tolist() == [2, 2, 3, 3]
    assert best["unseen F1 kept"].tolist() == ["89%", "89%", "90%", "89%"]  # of the F1 in the same row
    assert best["speed-up"].tolist() == [3.0, 3.0, 2.0, 3.0]
    assert best["F1 in"].tolist() == ["openvino", "openvino", "onnxruntime", "openvino"]
    assert best["F1 es"].tolist() == [0.45, 0.45, 0.45, 0.45] and best["F1 nl"].tolist() == [0.44, 0.44, 0.45, 0.44]
    with_text, searched = (
        record("d", "combination", (0.65, 0.5), 40, english=0.9),
        record("e", "graph", (0.64, 0.5), 40, english=0.9),
    )
    with_text["settings"]["start"] = {"sees_target_text": True}
    searched["settings"]["floor_languages"] = ("en", "es", "nl")
    best = report.goals([*records, with_text, searched])
    assert best["run"].tolist() == ["b", "b", "d", "b"]
    assert best["Spanish and Dutch text"].tolist() == ["none", "none", "read, without labels", "none"]


def test_text_that_a_backbone_read_while_pruned_and_cut_vocabularies_count():
    runs = {run.name: run.settings for run in plan.runs(profiles.load_profile("small"), "conll")}
    three, english = (runs[f"08-transfer-{name}-90-e5-conll-seed1"] for name in ("three", "english"))
    assert report.target_text(three) in report.HAS_READ and report.target_text(english) == "none"
    for name in ("06-halved-e5-conll-seed1", "02-vocabulary-e5-conll-seed1"):
        assert report.target_text(runs[name]) == "to choose subwords"
