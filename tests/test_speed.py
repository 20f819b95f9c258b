"""Notebook 07: models of a case hold what it says, text is tagged alike in all ways, tables beside the paper's."""

import dataclasses
import gzip
import itertools
import math
import re

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from smoke import SMOKE

from mmalib import plan, profiles, reports, runtimes
from mmalib.data import subwords
from mmalib.graph import export
from mmalib.model import backbones, disk
from mmalib.prune import sparsity
from mmalib.reports import speed as report
from mmalib.reports import speed_real as real
from mmalib.reports import words
from mmalib.speed import cases, realtext, shapes, throughput
from mmalib.speed.cases import Case
from mmalib.studies import quantization, speed
from mmalib.studies.study import Study


def test_a_case_is_taken_out_of_its_model_exactly():
    case = Case("x", "minilm", depth=2, sparsity=0.8, pattern="4", uniform=0.5)
    model = shapes.random_model(case, 50)
    assert sparsity.measured(model) == pytest.approx(0.8, abs=1e-5)
    weight = next(iter(sparsity.weights(model).values()))
    assert set((weight.reshape(-1, 4) == 0).sum(1).tolist()) == {0, 4}
    assert [len(left) for left in disk.heads_left(model)] == [6, 6] and disk.neurons_left(model) == [768, 768]
    ids = torch.ones(1, 5, dtype=torch.long)
    assert model(input_ids=ids, attention_mask=ids).logits.shape == (1, 5, 9)
    assert len(backbones.layers(shapes.random_model(case, 50, deepest=1))) == 1


@pytest.mark.parametrize("share", cases.SHARES)
def test_scattered_heads_are_as_many_as_asked_and_leave_every_layer_one(share):
    gone = shapes.scattered(12, 12, share)
    assert sum(map(len, gone.values())) == round(share * 144)
    assert all(len(set(some)) == len(some) <= 11 and set(some) <= set(range(12)) for some in gone.values())
    assert share > 0.9 or len({len(gone.get(layer, ())) for layer in range(12)}) > 1  # unevenly


def test_case_names_are_one_record_each_and_the_profiles_know_them():
    names = [case.name for case in cases.cases()]
    assert len({plan.speed_name(name, "c") for name in names}) == len(names) and names[0] == "base"
    for profile in profiles.PROFILES.values():
        assert set(profile.speed_cases or ()) <= set(names)
    printed = {name for cases in report.PRINTED.values() for some in cases.values() for name in some}
    assert printed <= set(names)
    assert {report._obert_name(row) for row in report.tables.paper("obert").to_dict("records")} <= set(names)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_backbone):
    """The three forms of a small case, with a tokenizer that knows the sample."""
    tokenizer = backbones.load_tokenizer(str(tiny_backbone))
    case = Case("small", "minilm", depth=1, int8="static")
    target = tmp_path_factory.mktemp("case")
    return shapes.build(case, ["float", "qdq", "qoperator"], tokenizer, target, deepest=None), tokenizer


def test_every_runtime_gets_its_own_form_of_int8(built):
    folders, _ = built
    kinds = {form: {n.op_type for n in onnx.load(path / "model.onnx").graph.node} for form, path in folders.items()}
    assert "QLinearMatMul" in kinds["qoperator"] and "QLinearMatMul" not in kinds["qdq"]
    assert "DequantizeLinear" in kinds["qdq"] and "QuantizeLinear" not in kinds["float"]
    static = Case("s", int8="static")
    assert [cases.form(static, name) for name in cases.ALL] == ["qdq", "qdq", "qoperator"]
    assert cases.form(Case("d", int8="dynamic"), "deepsparse") == "dynamic"
    assert cases.form(Case("f"), "openvino:hint=throughput") == "float"


def test_only_the_whole_base_is_taken_for_it():
    whole = [case.name for case in cases.cases() if cases.is_whole_base(case)]
    assert whole == ["base", "base dynamic", "base int8"]


def test_what_is_built_is_not_built_again(built, monkeypatch):
    folders, tokenizer = built
    monkeypatch.setattr(shapes, "random_model", None)  # calling it would fail
    case = Case("small", "minilm", depth=1, int8="static")
    again = shapes.build(case, ["qdq"], tokenizer, folders["qdq"].parent, deepest=None)
    assert again == {"qdq": folders["qdq"]}


def test_the_size_by_gzip_is_that_of_gzip(built):
    folder = built[0]["qdq"]
    data = (folder / "model.onnx").read_bytes()
    assert speed.sizes(folder) == {
        "megabytes": len(data) / 1e6,
        "gzip_megabytes": len(gzip.compress(data, 6)) / 1e6,
    }


SENTENCES = [
    ["Anna", "visited", "Madrid", "."],
    ["Yes"],
    ["one", "two", "three", "four", "five"] * 8,  # longer than the window below
    ["Jan", "de", "Vries", "woont", "in", "Gent"],
    ["El", "Real", "Madrid", "ganó", "."],
]


def test_all_ways_give_the_tags_that_pytorch_gives(tiny_backbone, tmp_path):
    tokenizer, model = backbones.load_tokenizer(str(tiny_backbone)), backbones.load_model(str(tiny_backbone), seed=1)
    model.classifier.weight.data.normal_()  # so that the tags differ
    export.export(model, tokenizer, tmp_path / "model")
    expected = subwords.predict_tags(model, tokenizer, SENTENCES, max_length=24)
    assert len({tag for tags in expected for tag in tags}) > 2
    sizes = {way: [] for way in realtext.WAYS}
    with runtimes.load(tmp_path / "model", 1) as session:
        for way in realtext.WAYS:

            def run(ids, mask, way=way):
                sizes[way].append(ids.shape)
                return session(ids, mask)

            assert realtext.tag(run, tokenizer, SENTENCES, way=way, length=24, batch=3) == expected
        how = {"base": session, "length": 24, "batch": 3, "turns": 2}
        base, *rows = realtext.measure({"onnxruntime": session}, tokenizer, SENTENCES, **how)
    assert set(sizes["padded"]) == {(3, 24)} and set(sizes["padded, single"]) == {(1, 24)}
    assert max(n * width for n, width in sizes["sorted"]) <= 3 * 24
    assert len({width for _, width in sizes["single"]}) > 1
    assert (base["runtime"], base["way"], base["ratio"]) == (realtext.BASE, "padded", 1.0)
    assert [row["way"] for row in rows] == list(realtext.WAYS)
    turns = np.array(rows[1]["samples"]) / base["samples"]
    assert rows[1]["ratio"] == pytest.approx(np.median(turns))
    assert ["milliseconds_p95" in row for row in rows] == [False, False, True, True]
    assert all(len(row["samples"]) == 2 for row in rows)


def test_a_runtime_that_dies_over_text_is_a_row_and_the_others_go_on(tiny_backbone):
    class Session:
        process, threads = None, 1

        def __init__(self, dies):
            self.dies, self.calls = dies, 0

        def __call__(self, ids, mask):
            self.calls += 1
            if self.dies and self.calls > 4:
                raise RuntimeError("the worker ended")
            return np.zeros((*ids.shape, 9), np.float32)

    tokenizer = backbones.load_tokenizer(str(tiny_backbone))
    sessions = {"onnxruntime": Session(False), "deepsparse": Session(True)}
    how = {"base": Session(False), "length": 24, "batch": 2, "turns": 2}
    rows = realtext.measure(sessions, tokenizer, SENTENCES, **how)
    by = {(row["runtime"], row["way"]): row for row in rows}
    assert ("deepsparse", "sorted") not in by and by["deepsparse", "padded"]["failed"] == "the worker ended"
    assert all("sentences_per_second" in by["onnxruntime", way] for way in realtext.WAYS)
    with pytest.raises(ValueError, match="2 hands"):
        realtext.measure(sessions, tokenizer, SENTENCES[:1], **how)


def row(model, runtime, batch, ratio):
    return {
        **{"model": model, "runtime": runtime, "batch": batch, "ratio": ratio, "samples_per_second": 8 * ratio},
        **{"samples_per_second_low": 8 * ratio, "samples_per_second_high": 8 * ratio, "milliseconds_p50": 5.0},
        **{"busy": False, "samples": []},
    }


def test_a_second_call_reads_and_a_missing_runtime_is_made_up_for(tmp_path, monkeypatch):
    """No model is built here: what is measured, recorded, read again and cleared."""
    built, here = [], {"deepsparse": "there is no .venv-deepsparse"}

    def build(case, forms, tokenizer, target, *, deepest, source=None):
        built.append((case.name, tuple(forms), source and source.parent.name))
        target.mkdir(parents=True, exist_ok=True)
        return {form: target / form for form in forms}

    def measure(folders, names, batches, length, **_):
        for name, runtime, batch in itertools.product(folders, names, batches):
            if reason := here.get(runtime):
                yield {
                    "model": name,
                    "runtime": runtime,
                    "batch": batch,
                    "failed": f"{runtime} is not available: {reason}.",
                }
            else:
                yield row(name, runtime, batch, 2.0)

    monkeypatch.setattr(speed, "build", build)
    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr(runtimes, "available", lambda name: here.get(runtimes.parse(name)[0]))
    study = Study.open(dataclasses.replace(SMOKE, speed_runtimes=cases.ALL), tmp_path, "sample")
    run = study.plan[plan.speed_name("base int8", "sample")]
    record = study.make(run)
    assert [r["runtime"] for r in record["throughput"]] == list(cases.ALL)
    assert "not available" in record["throughput"][2]["failed"]
    assert built == [("base", ("float",), None), ("base int8", ("qdq", "qoperator"), "base-1")]  # of 1 layer
    assert [path.name for path in (study.home / "shapes").iterdir()] == ["base-1"]
    assert list((study.home / "unfinished").iterdir()) == []
    assert study.make(run) == record and len(built) == 2
    here.clear()
    assert not any("failed" in r for r in study.make(run)["throughput"])
    changed = Study.open(dataclasses.replace(study.profile, speed_seconds=9.0), tmp_path, "sample")
    with pytest.raises(ValueError, match="measured_seconds"):
        changed.make(run.name)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_models_to_time_are_of_the_first_seed_and_the_notebooks_take_turns(name):
    profile = profiles.PROFILES[name]
    runs = {run.name: run for run in plan.runs(profile, "conll")}
    timed = [run.settings for run in runs.values() if run.kind == "trained"]
    assert {runs[one["model"]].settings["seed"] for one in timed} == {min(profile.seeds)}
    assert all(one["folder"] in runs[one["model"]].leaves and one["runtimes"] for one in timed)
    of_combined = [one for one in timed if one["folder"].startswith("06")]
    turns = [one["folder"][:2] for one in timed[len(of_combined) :]]
    assert timed[: len(of_combined)] == of_combined and turns[:5] == ["01", "02", "03", "04", "05"][: len(turns)]
    assert profile.speed_models is None or len(turns) <= profile.speed_models


def test_f1_is_that_of_the_recovered_point_that_was_kept():
    def scores(f1):
        return {language: {"test": {"f1": f1}} for language in ("en", "es", "nl")}

    curve = [{"share": 0.5, "recovered": again, "scores": scores(f1)} for again, f1 in ((False, 0.1), (True, 0.6))]
    assert speed._f1({"run": "02-heads", "scores": {}, "curve": curve}, "02-heads-50") == {
        "en": 0.6,
        "es": 0.6,
        "nl": 0.6,
    }
    assert speed._f1({"run": "01-e5", "scores": scores(0.8)}, "01-e5") == {"en": 0.8, "es": 0.8, "nl": 0.8}


@pytest.fixture
def records():
    """A made-up study of two batches, in which DeepSparse has failed once."""
    profile = dataclasses.replace(SMOKE, speed_cases=None, speed_runtimes=cases.ALL, speed_batches=(1, 8))
    made = []
    for number, case in enumerate(plan.planned_cases(profile)):
        run = plan.shape(profile, case, "sample")
        speeds = [
            row(case.name, runtime, batch, (1 + number) * (1 + 0.1 * place) + batch / 100)
            for place, (runtime, batch) in enumerate(
                itertools.product(run.settings["runtimes"], run.settings["batches"])
            )
        ]
        if case.name == "base dynamic":
            speeds[-1] = {"model": case.name, "runtime": "deepsparse", "batch": 8, "failed": "the worker ended"}
        record = {"run": run.name, "settings": run.settings, "scores": {}, "throughput": speeds}
        if case.sized:
            record["sizes"] = {"float": {"megabytes": 9.0, "gzip_megabytes": 100.0 / (1 + number)}}
        made.append(record)
    return made


def test_the_paper_stands_beside_us_with_its_own_ratio(records):
    measured = report.rows(records)
    table = report.table(records, 10).set_index(["measured as", "runtime", "batch"])
    cell = table.loc[("base 90% 4-block int8", "deepsparse", "8")]
    assert cell["paper samples/s"] == 199.97 and cell["paper speed-up"] == round(199.97 / 18.7, 2)
    ours = measured[(measured["case"] == "base 90% 4-block int8") & (measured["runtime"] == "deepsparse")]
    assert cell["speed-up"] == round(ours[ours["batch"] == 8]["ratio"].iloc[0], 2)
    assert pd.isna(table.loc[("base 90% 4-block int8", "openvino", "8")]["paper samples/s"])
    dynamic = report.table(records, 11).set_index(["model", "runtime", "batch"])
    assert dynamic.loc[("Dynamic", "deepsparse", "8")]["note"] == "failed: the worker ended"
    assert set(report.table(records, 2)["paper speed-up"].dropna()) == {1.0, round(27.9 / 18.7, 2)}
    extract = report.table(records, 7)
    assert len(extract) == 6 and extract["batch"].tolist().count("8") == 5  # of what failed, the other batch
    alone = report.table([one for one in records if one["settings"]["case"] == "base"], 5)
    assert set(alone["note"]) == {"not measured"} and len(alone) == 12


def test_the_fastest_open_configurations_are_ordered_and_have_the_papers_best_among_them(records):
    table = report.fastest(records)
    assert table["speed-up"].is_monotonic_decreasing
    assert report.printed_best() == pytest.approx(219.44 / 18.7)
    paper = table[table["source"] == "paper"].iloc[0]
    assert (paper["configuration"], paper["batch"]) == ("xlm_90_q", "4")
    open_rows = table[table["source"] == "this study"]
    assert not open_rows["runtime"].str.startswith("deepsparse").any() and open_rows["configuration"].is_unique
    assert open_rows["configuration"].iloc[0] == "minilm 3 layers uniform 50% int8"


def in_turns(row, ratios):
    """The row as it is measured in turns, with the ratio of all of them."""
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    turns = {"samples": [8 * ratio for ratio in ratios], "baseline_samples": [8.0] * len(ratios)}
    return row | turns | {"ratio": middle, "ratio_low": low, "ratio_high": high}


@pytest.fixture
def lucky(records):
    """At batch 1 the static model is fast in every second turn, at batch 8 by luck in the other one."""
    (static,) = (one for one in records if one["settings"]["case"] == "base int8")
    of_batch = {1: [4.0, 3.0, 5.0], 8: [1.0, 9.0, 2.0]}
    static["throughput"] = [in_turns(one, of_batch[one["batch"]]) for one in static["throughput"]]
    return records


def test_a_speed_up_is_the_median_of_all_turns_where_nothing_is_chosen(lucky):
    table = report.table(lucky, 11).set_index(["measured as", "runtime", "batch"])["speed-up"]
    assert [table["base int8", "onnxruntime", batch] for batch in ("1", "8")] == [4.0, 2.0]
    measured = report.rows(lucky).set_index(["case", "runtime", "batch"]).loc[("base int8", "onnxruntime", 1)]
    assert (measured["ratio_low"], measured["ratio_high"]) == (3.0, 5.0)  # the range: three turns have no quartiles


def test_the_fastest_is_chosen_in_every_second_turn_and_its_speed_up_is_that_of_the_others(lucky):
    extract = report.table(lucky, 7).set_index(["measured as", "runtime"]).loc[("base int8", "onnxruntime")]
    assert (extract["batch"], extract["speed-up"]) == ("1", 3.0)
    fastest = report.fastest([one for one in lucky if one["settings"]["case"] == "base int8"])
    assert fastest["batch"].iloc[-1] == "1" and fastest["speed-up"].iloc[-1] == 3.0
    axes = report.speedups(lucky).axes[0]
    place = [label.get_text() for label in axes.get_yticklabels()].index("base int8")
    drawn = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert [drawn[name][place] for name, *_ in report.RUNTIMES.values() if name in drawn] == [3.0] * 3


def test_few_turns_have_no_quartiles_but_the_range_of_all():
    one, several = (in_turns({}, ratios) for ratios in ([5.0, 6.0, 1.0], [9.0, 1.0, 9.0, 2.0, 9.0, 3.0, 9.0]))
    many = in_turns({}, [9.0, 1.0, 9.0, 2.0, 9.0, 3.0, 9.0, 4.0, 9.0, 5.0, 9.0])
    assert report.reported(many) == {"ratio": 3.0, "ratio_low": 2.0, "ratio_high": 4.0, "turns": 5}
    assert report.reported(several, held_out=False) == {"ratio": 9.0, "ratio_low": 2.5, "ratio_high": 9.0, "turns": 7}
    assert report.reported(one) == {"ratio": 6.0, "ratio_low": 1.0, "ratio_high": 6.0, "turns": 1}
    assert report.reported(several) == {"ratio": 2.0, "ratio_low": 1.0, "ratio_high": 9.0, "turns": 3}
    assert report.reported({"ratio": 2.0, "samples": []}) == {"ratio": 2.0}


def test_table_17_is_over_the_dense_model_in_deepsparse(records):
    table = report.table_17(records)
    assert len(table) == 10 and table["speed-up"].iloc[0] == 1.0 and table["smaller by"].iloc[0] == 1.0
    sized = {r["settings"]["case"]: r for r in records if "sizes" in r}
    ratio = [
        sized[name]["throughput"][0]["ratio"] for name in ("obert 3 layers 80% 4-block int8", "obert 12 layers dense")
    ]
    assert table["speed-up"].iloc[-1] == round(ratio[0] / ratio[1], 2)
    few = [r for r in records if r["settings"]["case"] in ("base", "obert 3 layers 80% 4-block int8")]
    few[1]["throughput"][0]["batch"] = 8  # as in quick, where XLM-R base stands in for BERT at the profile's batch
    quick = report.table_17(few)
    assert len(quick) == 1 and pd.isna(quick["smaller by"].iloc[0]) and quick["speed-up"].iloc[0] > 1
    assert report.table_17(few[:1]).empty
    for record in few:  # a profile of two batches: a row each
        record["throughput"] += [row | {"batch": 1, "samples_per_second": 5.0} for row in record["throughput"][:1]]
    assert sorted(report.table_17(few)["batch"]) == ["1", "8"]


def test_the_front_is_what_brute_force_finds():
    draw = np.random.default_rng(0)
    speeds, f1 = draw.integers(0, 6, 30).tolist(), draw.integers(0, 6, 30).tolist()
    for place, found in enumerate(real.front(speeds, f1)):
        beaten = any(
            (s > speeds[place] and f >= f1[place]) or (s >= speeds[place] and f > f1[place])
            for s, f in zip(speeds, f1, strict=True)
        )
        assert found == (not beaten)


def test_everything_is_drawn_and_what_lacks_is_named(records):
    trained = {
        "run": "07-trained",
        "settings": {**records[0]["settings"], "kind": "trained", "folder": "01-e5", "trained_in": "01"},
        "needs": {},
        "scores": {},
        "throughput": [row("01-e5", "onnxruntime", 1, 1.0), row("01-e5", "openvino", 1, 1.2)],
        "f1": {"en": 0.8, "es": 0.4, "nl": 0.6},
    }
    drawn = reports.draw([*records, trained], "shape", "text", "trained")
    tables_drawn = {f"table_{number}" for number in (2, 5, 7, 9, 10, 11)}
    figures_drawn = {"figure_6_7", "figure_8_9", "speedups", "f1_against_speed"}
    assert tables_drawn | figures_drawn <= set(drawn)
    shown = ["runtime", "speed-up", "F1 in", "F1 unseen"]
    points = drawn["table_f1_speed"].set_index("model")
    assert points.loc["01-e5", shown].tolist() == ["openvino", 1.2, "pytorch", 0.5]
    assert points.loc["xlm_90_q", shown].tolist() == ["deepsparse", 11.73, "deepsparse", 0.5825]  # 219.44 / 18.7
    again = {**trained, "f1_in": {"openvino": {"en": 0.7, "es": 0.3, "nl": 0.5}}}
    points = real.trained([again]).set_index("model")
    assert points.loc["01-e5", shown].tolist() == ["openvino", 1.2, "openvino", 0.4]
    assert len(report.shrinking(records, "heads").axes) == 3
    runs = plan.runs(dataclasses.replace(SMOKE, speed_cases=None), "sample")
    runs = [run for run in runs if run.settings["notebook"] == "07"]
    lacking = [records[0]["run"], *(plan.speed_name(f"text {name}", "sample") for name in plan.READERS)]
    assert plan.missing(records[1:], [run for run in runs if run.kind != "trained"]) == lacking


@pytest.fixture(scope="module")
def study(tiny_backbone, tmp_path_factory):
    tiny = str(tiny_backbone)
    profile = dataclasses.replace(SMOKE, name="tiny", backbones=(tiny,), teacher=tiny, students=(tiny,))
    return Study.open(profile, tmp_path_factory.mktemp("runs"), "sample")


def test_the_trained_baseline_is_read_and_measured(study):
    """From a tuned model on disk to text and speed records, through everything but the runtimes' full size."""
    for run in study.runs(kind="text"):
        text = study.make(run)["text"]
        ways = {(realtext.BASE, "padded"), *itertools.product(run.settings["runtimes"], realtext.WAYS)}
        assert {(r["runtime"], r["way"]) for r in text} == ways and not any("failed" in r for r in text)
    assert len(real.text_table(study.records())) == 43 and len(real.latency_table(study.records())) == 20
    (run,) = (run for run in study.runs(kind="trained") if run.settings["trained_in"] == "01")
    measured = study.make(run)
    assert set(measured["f1"]) == {"en", "es", "nl"} and len(measured["throughput"]) == 2
    assert not any("failed" in r for r in measured["throughput"])
    assert measured["f1_in"] == {}  # of float, the run's own F1 will do
    assert study.make(run) == measured


def test_an_int8_graph_is_scored_in_every_runtime_and_one_that_is_the_same_as_static_is_timed_too(study, monkeypatch):
    monkeypatch.setattr(quantization, "losses", lambda *_: {"en": 0.0})  # static breaks no floor
    (base,) = study.runs(kind="baseline")
    for graph in ("static", "floor-all"):
        name = plan.named("05", graph, base.settings["backbone"], "sample", 1)
        timed = study.make(plan.trained(study.profile, base, study.plan[name], name))
        assert timed["f1"] == {
            language: splits["test"]["f1"] for language, splits in study.make(name)["scores"].items()
        }
        assert set(timed["f1_in"]) == {"onnxruntime", "openvino", "torch", "torch:attention=bf16"}
        assert {row["runtime"] for row in timed["dense"]} == {"onnxruntime"}
        assert timed["f1_in"]["onnxruntime"] == pytest.approx(timed["f1"])
    assert study.make(name)["same_as"] and not study.folder(name).exists()


def test_a_sized_shape_is_calibrated_with_subwords_of_its_own_vocabulary(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "bert-3", ("bert", 1, 48, 96, 40))
    assert len(tokenizer) > 40
    case = Case("small vocabulary", "bert-3", int8="static", sized=True)
    folders = shapes.build(case, ["qdq"], tokenizer, tmp_path, deepest=None)
    assert (folders["qdq"] / "model.onnx").is_file()


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_no_two_models_of_a_seed_have_the_same_words(profile):
    kinds = ("gradual", "student", "graph", "combination")  # those that the answer counts
    runs = [run for run in plan.runs(profile, "conll") if run.kind in kinds and run.settings["seed"] == 1]
    assert len({words.words(run.settings, run.name) for run in runs}) == len(runs) > 10


def test_every_model_that_a_study_times_has_words():
    profile = profiles.load_profile("small")
    runs = {run.name: run for run in plan.runs(profile, "conll")}
    timed = [run for run in runs.values() if run.kind == "trained"]
    said = {words.words(runs[run.settings["model"]].settings, run.settings["folder"]) for run in timed}
    assert len(said) == len(timed) and not any(re.search(r"seed|conll|_|-q", each) for each in said)
    assert {"e5, dense", "e5, 25% of heads gone", "e5-half, taught, int8", "e5, 90% zeros, taught, int8"} <= said
    assert {"e5, 80% zeros by second order", "e5, int8, dynamic", "e5-half, without teacher"} <= said
    assert {words.family(runs[run.settings["model"]].settings) for run in timed} == set(words.FAMILIES.values())


def test_bars_are_over_the_seeds_that_are_there(records):
    kept, speeds = {}, {}
    for seed, f1 in ((1, 0.5), (2, 0.7)):
        settings = {**records[0]["settings"], "kind": "baseline", "label": "e5", "seed": seed}
        scores = {language: {"test": {"f1": f1}} for language in ("en", "es", "nl")}
        kept[seed] = {"run": f"01-e5-conll-seed{seed}", "settings": settings, "needs": {}, "scores": scores}
    speeds = {"run": "07-x", "needs": {"model": kept[1]["run"]}, "scores": {}, "f1": {"en": 0.9, "es": 0.4, "nl": 0.6}}
    speeds["settings"] = {"kind": "trained", "folder": "01-e5-conll-seed1", "trained_in": "01"}
    speeds["throughput"] = [row("x", "openvino", 1, 2.0)]
    shown = ["what it is", "family", "F1 unseen", "± over seeds"]
    points = real.trained([speeds, *kept.values()]).set_index("model")
    assert points.loc["01-e5-conll-seed1", shown].tolist() == ["e5, dense", "dense", 0.5, 0.1414]
    changed = {**kept[2], "run": "01-e5-conll-seed2+epochs=1"}  # no other seed of the same run
    points = real.trained([speeds, kept[1], changed]).set_index("model")
    assert math.isnan(points.loc["01-e5-conll-seed1", "± over seeds"])
