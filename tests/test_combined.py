"""Notebook 06's runs and drawings: every combination from start to record, on a tiny model and a few sentences."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmalib import profiles
from mmalib.data import corpus
from mmalib.graph import export
from mmalib.model import disk
from mmalib.records import store
from mmalib.reports import combined as report
from mmalib.studies import baselines, combined, distillation, int8_training, quantization, structured, unstructured

COLUMNS = ("en", "es", "nl")


@pytest.fixture(scope="module")
def setting(tiny_backbone, tmp_path_factory):
    profile = dataclasses.replace(
        profiles.PROFILES["smoke"],
        name="tiny",
        backbones=(str(tiny_backbone),),
        teacher=str(tiny_backbone),
        students=(str(tiny_backbone),),
        unlabelled_students=(str(tiny_backbone),),
    )
    where = {"corpus": "sample", "runs": tmp_path_factory.mktemp("runs")}
    return profile, corpus.load(profile, "sample"), where


@pytest.fixture(scope="module")
def study(setting):
    """All records of one seed."""
    profile, corpora, where = setting
    for name in combined.planned(profile):
        combined.make(profile, name, 1, corpora, **where)
    return store.read(store.records_folder(where["runs"], "tiny"))


@pytest.fixture
def made(setting, study):
    profile, _, where = setting

    def get(name):
        run = combined.run_name(name, profile.teacher, "sample", 1)
        return next(r for r in study if r["run"] == run), where["runs"] / "tiny" / "models" / run

    return get


def test_a_study_has_the_papers_combinations_and_one_for_the_open_runtimes():
    assert combined.planned(profiles.PROFILES["small"]) == ["80-q", "90-q", "distil-q", "distil-text-q", "small-q"]
    assert set(report.PRINTED) < set(combined.planned(profiles.PROFILES["paper"]))


def test_zeros_of_the_pruned_model_are_zeros_of_the_int8_graph(setting, made):
    record, folder = made("50-q")
    profile, _, where = setting
    pruned, _ = disk.load(where["runs"] / "tiny" / "models" / combined.start_run("50-q", profile, "sample", 1))
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


def test_the_small_one_is_smaller_in_every_way_and_its_graph_is_int8_throughout(setting, made):
    profile, _, where = setting
    record, folder = made("small-q")
    home = where["runs"] / "tiny" / "models"
    small, tokenizer = disk.load(home / combined.run_name("small-float", profile.teacher, "sample", 1))
    whole, its_tokenizer = disk.load(home / baselines.run_name(profile.teacher, "sample", 1))
    assert [len(left) for left in disk.heads_left(small)] == [2, 2]
    assert disk.neurons_left(small) == [32, 32]
    assert len(tokenizer) < len(its_tokenizer)
    assert record["parameters"] < sum(p.numel() for p in whole.parameters())
    graph = onnx.load(folder / export.GRAPH).graph
    large = [t for t in graph.initializer if np.prod(t.dims) > 1000 and t.data_type == onnx.TensorProto.FLOAT]
    assert all("position" in tensor.name for tensor in large)


def test_the_parts_are_runs_with_records_and_a_second_call_trains_nothing(setting, study, made, monkeypatch):
    profile, corpora, where = setting
    runs = {record["run"] for record in study}
    for name in combined.planned(profile):
        record, _ = made(name)
        parts = combined.parts(record["config"])
        assert {part[key] for part in parts for key in ("run", "against")} <= runs
        graph = {"50-q": "qat-qoperator", "small-q": None}.get(name, "qat")
        assert not graph or parts[-1]["run"] == quantization.run_name(graph, profile.teacher, "sample", 1)
        assert bool(parts) == bool(graph)
    monkeypatch.setattr(int8_training, "finetune", None)
    assert combined.make(profile, "50-q", 1, corpora, **where) == made("50-q")[0]


def test_one_reads_unlabelled_text_in_both_trainings(setting, made, monkeypatch):
    profile, corpora, where = setting
    record, folder = made("distil-text-q")
    start = record["config"]["start"]
    assert start["setting"] == "unlabelled" and start["sees_target_text"]
    assert report._target_text(record) == "read, without labels"
    asked = {}
    real = combined._taught
    monkeypatch.setattr(combined, "_taught", lambda *given, **more: asked.update(tags=given[4]) or real(*given, **more))
    folder.rename(folder.with_name("away"))
    again = combined.make(profile, "distil-text-q", 1, corpora, **where)
    assert again["scores"] == record["scores"]
    text = distillation.unlabelled(profile, corpora)
    assert len(text) == 2 * profile.unlabelled_sentences and asked["tags"].count(None) == len(text)
    assert sum(tags is not None for tags in asked["tags"]) == profile.qat_sentences


def test_a_kept_model_is_made_again_as_it_was(setting, study, tmp_path):
    profile, corpora, where = setting
    folder = structured.kept(profile, "uniform", 0.5, profile.teacher, 1, corpora, **where)
    before = (folder / disk.WEIGHTS).read_bytes()
    folder.rename(tmp_path / "away")
    again = structured.kept(profile, "uniform", 0.5, profile.teacher, 1, corpora, **where)
    assert again == folder and (again / disk.WEIGHTS).read_bytes() == before
    with pytest.raises(ValueError, match="No step of 02-uniform-.* leaves 70% of the heads"):
        structured.kept(profile, "uniform", 0.3, profile.teacher, 1, corpora, **where)


def test_the_sum_of_the_parts_is_counted_by_hand(setting, study):
    profile, *_ = setting
    study = copy.deepcopy(study)
    by_run = {record["run"]: record for record in study}
    names = {
        "dense": baselines.run_name(profile.teacher, "sample", 1),
        "float": quantization.run_name("float", profile.teacher, "sample", 1),
        "qat": quantization.run_name("qat-qoperator", profile.teacher, "sample", 1),
        "pruned": unstructured.run_name("obs", 0.5, "cubic", profile.teacher, "sample", 1, taught=True),
        "own": combined.run_name("50-q", profile.teacher, "sample", 1),
    }
    f1 = {"dense": 0.8, "float": 0.8, "qat": 0.79, "pruned": 0.7, "own": 0.72}
    for key, name in names.items():
        by_run[name]["scores"]["es"]["test"]["f1"] = f1[key]
    found = report.sums(study)
    row = found[(found["combination"] == "50-q") & (found["language"] == "es")].iloc[0]
    assert row["predicted"] == pytest.approx(11.0) and row["measured"] == pytest.approx(8.0)
    table = report.sums_table(found)
    line = table[table["model"].str.endswith("50_q") & (table["language"] == "es")].iloc[0]
    assert line["less than the sum by"] == pytest.approx(3.0)
    assert line["alone"] == "sparse, taught +10.0, int8 (QAT) +1.0"
    assert "small-q" not in set(found["combination"])


def test_table_8_stands_beside_the_papers_and_wishes_need_speeds(setting, study):
    table = report.table_8(study)
    assert list(table["source"]).count("paper") == 3
    assert table["seeds"].dropna().tolist() == [1, 1, 1, 1]
    assert [name.endswith("*") for name in table["model"]] == [False, True, *[False] * 5]
    drawn = report.draw(study)
    assert set(drawn) == {"table_8", "table_combined", "table_sums", "sums", "table_best"}
    contents = drawn["table_combined"]
    assert (contents["runtime"] == "not measured").all() and (contents["MB by gzip"] < contents["MB"]).all()
    best = drawn["table_best"]
    assert list(best["wish"]) == list(report.WISHES)
    assert "not measured" in best["run"].iloc[1]
    assert report.gaps(study, setting[0]) == [] and report.draw([]) == {}
    fewer = [record for record in study if "small-q" not in record["run"]]
    assert len(report.gaps(fewer, setting[0])) == 1


def test_wishes_are_chosen_on_dev_and_shown_with_test():
    def record(run, notebook, unseen, megabytes, graph="static", english=0.8):
        test = {name: 0.8 if name == "en" else unseen[1] for name in COLUMNS}
        scores = {
            name: {"dev": {"f1": english if name == "en" else unseen[0]}, "test": {"f1": test[name]}}
            for name in COLUMNS
        }
        config = {"notebook": notebook, "method": "quantization", "graph": graph}
        config |= {"backbone": "e5", "corpus": "conll", "seed": 1}
        return {"run": run, "config": config, "scores": scores, "size": {"megabytes": megabytes, "quantized": 1}}

    def trained(run, ratio, **more):
        config = {"notebook": "07", "method": "trained", "model": run, "trained_in": "05"}
        row = {"ratio": ratio, "samples_per_second": 9 * ratio, "runtime": "openvino:hint=throughput", "batch": 1}
        return {"run": f"07-{run}", "config": config, "scores": {}, "throughput": [row, {"failed": "why"}], **more}

    whole = record(quantization.run_name("float", "e5", "conll", 1), "05", (0.6, 0.5), 60, "float")
    whole["size"]["quantized"] = 0
    in_openvino = {"openvino": {"en": 0.79, "es": 0.45, "nl": 0.44}}
    records = [
        whole,
        record("a", "05", (0.60, 0.45), 30, english=0.7),
        record("b", "06", (0.55, 0.46), 10),
        record("c", "06", (0.50, 0.60), 5),  # best on test, and below nine tenths on dev
        trained("a", 2.0, f1={}),
        trained("b", 3.0, f1={}, f1_in=in_openvino),
        trained("c", 9.0, f1={}),
    ]
    best = report.wishes(records)
    assert best["run"].tolist() == ["b", "b", "a", "b"] and best["of"].tolist() == [2, 2, 3, 3]
    assert best["unseen F1 kept"].tolist() == ["89%", "89%", "90%", "89%"]  # of the F1 in the same row
    assert best["speed-up"].tolist() == [3.0, 3.0, 2.0, 3.0]
    assert best["F1 in"].tolist() == ["openvino", "openvino", "onnxruntime", "openvino"]
    assert best["F1 es"].tolist() == [0.45, 0.45, 0.45, 0.45] and best["F1 nl"].tolist() == [0.44, 0.44, 0.45, 0.44]
    with_text, searched = (
        record("d", "06", (0.65, 0.5), 40, english=0.9),
        record("e", "05", (0.64, 0.5), 40, english=0.9),
    )
    with_text["config"]["start"] = {"sees_target_text": True}
    searched["config"]["floor_languages"] = ("en", "es", "nl")
    best = report.wishes([*records, with_text, searched])
    assert best["run"].tolist() == ["b", "b", "d", "b"]
    assert best["Spanish and Dutch text"].tolist() == ["none", "none", "read, without labels", "none"]
