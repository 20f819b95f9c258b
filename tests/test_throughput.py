"""The harness on a clock and models of known speed, its counting of other processes, and a failure in the middle."""

import itertools
import json
import math
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from mmalib import runtimes
from mmalib.app import bench
from mmalib.prune import sparsity
from mmalib.records import machine, store
from mmalib.speed import shapes, throughput


class Clock:
    """Time that passes only when a model computes, and ever faster: a machine that slows down steadily."""

    def __init__(self, drift=0.0):
        self.now, self.drift = 0.0, drift

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds * (1 + self.drift * self.now)


class Model:
    """A session that takes a known time for each row."""

    process, threads, streams = None, 1, 1

    def __init__(self, clock, seconds, calls, name, folder=None):
        self.clock, self.seconds, self.calls, self.name = clock, seconds, calls, name
        self.runtime, self.path, self.facts = name, folder and folder / "model.onnx", {"version": "0"}

    def __call__(self, ids, mask):
        assert ids.shape == mask.shape
        self.calls.append(self.name)
        self.clock.spend(self.seconds * len(ids))

    def stream(self, pairs):
        self.calls.append((self.name, len(pairs)))
        self.clock.spend(self.seconds * sum(len(ids) for ids, _ in pairs) / self.streams)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls.append(f"{self.name} closed")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", clock)
    return clock


def test_the_numbers_are_those_of_the_clock(clock):
    calls = []
    row = throughput.compare(
        Model(clock, 0.01, calls, "fast"), Model(clock, 0.04, calls, "base"), 4, 8, seconds=2.0, turns=5
    )
    assert row["samples_per_second"] == pytest.approx(100) and row["baseline_samples_per_second"] == pytest.approx(25)
    assert row["ratio"] == row["ratio_low"] == row["ratio_high"] == pytest.approx(4)
    assert row["milliseconds_p50"] == row["milliseconds_p95"] == pytest.approx(40)
    assert len(row["samples"]) == len(row["baseline_samples"]) == 5
    json.dumps(row, allow_nan=False)


def test_both_take_turns_and_each_goes_first_as_often(clock):
    calls = []
    throughput.compare(Model(clock, 1, calls, "a"), Model(clock, 1, calls, "b"), 1, 8, seconds=4.0, turns=4)
    # Each warms up with two calls (0 and 1 seconds long), then has one call in each turn.
    assert "".join(calls) == "aabb" + "ba" + "ab" + "ba" + "ab"


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock):
    clock.drift = 0.01
    row = throughput.compare(Model(clock, 0.1, [], "a"), Model(clock, 0.4, [], "b"), 1, 8, seconds=8.0, turns=8)
    assert max(row["baseline_samples"]) > 1.15 * min(row["baseline_samples"])  # it did slow down
    assert row["ratio"] == pytest.approx(4, rel=0.02)


def test_a_runtime_with_streams_is_kept_full(clock):
    calls = []
    wide = Model(clock, 0.1, calls, "wide")
    wide.streams = 2
    row = throughput.compare(wide, Model(clock, 0.1, calls, "base"), 3, 8, seconds=2.0)
    assert ("wide", 2 * throughput.IN_FLIGHT) in calls and "wide" not in calls
    assert row["ratio"] == pytest.approx(2) and row["samples_per_second"] == pytest.approx(20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two random models, the second with half the layers, and a folder whose file is no model."""
    root = tmp_path_factory.mktemp("models")
    for name, layers in (("dense", 2), ("half", 1), ("broken", None)):
        (root / name).mkdir()
        path = root / name / "model.onnx"
        if layers is None:
            path.write_text("no graph")
            continue
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=200, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64
        )
        config._attn_implementation = "eager"
        model = BertForTokenClassification(config).eval()
        names = ["input_ids", "attention_mask"]
        torch.onnx.export(
            model,
            (torch.ones(2, 4, dtype=torch.int64),) * 2,
            path,
            dynamo=False,
            opset_version=14,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in (*names, "logits")},
        )
    return root


def test_what_fails_is_a_row_and_the_rest_goes_on(folders):
    rows = list(
        throughput.measure(
            throughput.named([folders / "dense", folders / "broken", folders / "half"]),
            ["onnxruntime", "openvino"],
            [1, 2],
            8,
            threads=1,
            baseline=folders / "dense",
            seconds=0.02,
            turns=2,
        )
    )
    keys = [(row["model"], row["runtime"], row["batch"]) for row in rows]
    assert keys == list(itertools.product(("dense", "broken", "half"), ("onnxruntime", "openvino"), (1, 2)))
    for row in rows:
        if row["model"] == "broken":
            assert "could not be loaded in" in row["failed"] and "\n" not in row["failed"]
        else:
            assert row["samples_per_second"] > 0 and row["ratio"] > 0 and len(row["samples"]) == 2
            assert row["facts"]["version"]


def test_a_model_that_dies_is_loaded_anew_for_the_next_batch(folders, clock, monkeypatch):
    calls = []

    class Dying(Model):
        def __call__(self, ids, mask):
            if len(ids) == 2:
                raise RuntimeError("deepsparse failed on it: the worker\nended")
            super().__call__(ids, mask)

    def load(folder, threads, runtime="onnxruntime"):
        calls.append(f"{runtime} loaded")
        return (Model if runtime == "onnxruntime" else Dying)(clock, 0.1, calls, runtime, folder)

    monkeypatch.setattr(runtimes, "load", load)
    dense = folders / "dense"
    how = {"threads": 1, "seconds": 1.0, "turns": 1, "baseline": dense}
    rows = list(throughput.measure({"dense": dense}, ["deepsparse"], [1, 2, 4], 8, **how))
    assert [row.get("failed") for row in rows] == [None, "deepsparse failed on it: the worker ended", None]
    kept = [call for call in calls if " " in call]
    assert kept == [
        "onnxruntime loaded",
        "deepsparse loaded",
        "deepsparse closed",
        "deepsparse loaded",
        "deepsparse closed",
        "onnxruntime closed",
    ]


def test_a_runtime_that_is_not_here_is_a_row(folders, monkeypatch):
    monkeypatch.setattr(machine, "deepsparse", lambda: (None, "no Python 3.8 to 3.11 was found"))
    dense = folders / "dense"
    how = {"threads": 1, "seconds": 0.01, "baseline": dense}
    (row,) = throughput.measure({"dense": dense}, ["deepsparse"], [1], 8, **how)
    assert row["failed"] == "deepsparse is not available: no Python 3.8 to 3.11 was found."


GOOD = {"runtime_names": ["onnxruntime"], "batches": [1], "length": 8, "threads": 1, "seconds": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": [1, 0]}, "batch is 0. Give a whole number of at least 1"),
        ({"batches": []}, "nothing to measure"),
        ({"length": 0}, "length is 0"),
        ({"threads": 0}, "0 threads were asked for"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"runtime_names": ["onnx"]}, "There is no runtime 'onnx'"),
        ({"turns": 0}, "turns is 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(change, message, folders, monkeypatch):
    monkeypatch.setattr(runtimes, "load", None)
    with pytest.raises(ValueError, match=message):
        next(throughput.measure({"dense": folders / "dense"}, baseline=folders / "dense", **{**GOOD, **change}))


def test_folders_are_told_apart(folders, tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        next(throughput.measure({"gone": tmp_path / "gone"}, baseline=folders / "dense", **GOOD))
    with pytest.raises(ValueError, match="Two of the folders have the same name"):
        throughput.named([folders / "dense", folders / "half" / ".." / "dense"])


def test_busy_time_is_that_of_our_cores_without_what_is_idle(monkeypatch):
    fields = "user nice system idle iowait irq softirq steal guest guest_nice"
    times = namedtuple("times", fields)
    cores = [times(1.0, 0.1, 0.2, 50, 7, 0.01, 0.02, 0.03, 9, 9), times(2, 0, 0.4, 50, 7, 0, 0, 0, 0, 0), None]
    monkeypatch.setattr(throughput.psutil, "cpu_times", lambda percpu: cores)
    for ours, busy in (({0}, 1.36), ({0, 1}, 3.76)):
        monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda _, ours=ours: ours)
        assert throughput.Watch()._now()[1] == pytest.approx(busy)


@pytest.mark.parametrize(
    ("cores", "threads", "others", "busy"),
    [(2, 2, 0.25, True), (2, 2, 0.15, False), (16, 2, 4.0, True), (16, 2, 3.0, False)],
)
def test_a_machine_is_busy_when_others_are_in_the_way(monkeypatch, cores, threads, others, busy):
    monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda _: set(range(cores)))
    states = iter([(10.0, 100.0, 40.0), (12.0, 102.0 + 2 * others, 42.0)])  # time, everybody, we
    monkeypatch.setattr(throughput.Watch, "_now", lambda self: next(states))
    assert throughput.Watch().others(threads) == {"others_cores": pytest.approx(others), "busy": busy}


def test_a_row_may_lack_what_the_system_does_not_tell(clock, monkeypatch):
    monkeypatch.delattr(throughput.os, "sched_getaffinity")
    row = throughput.compare(Model(clock, 1, [], "a"), Model(clock, 1, [], "b"), 1, 8, seconds=1.0)
    assert row["others_cores"] is None and row["busy"] is None


def test_bench_records_what_it_prints_and_may_be_repeated(folders, tmp_path, capsys):
    settings = {"length": 8, "threads": 1, "seconds": 0.02, "baseline": folders / "dense", "records": tmp_path}
    for _ in range(2):
        assert bench.run([folders / "half"], ["onnxruntime", "openvino:shapes=fixed"], batches=[1, 2], **settings) == 0
    text = capsys.readouterr().out
    first, second = store.read(tmp_path)
    assert first["settings"]["runtime"] == "onnxruntime" and second["settings"]["runtime"] == "openvino:shapes=fixed"
    assert first["settings"]["weights"] != first["settings"]["baseline"] and first["scores"] == {}
    for record in (first, second):
        assert [row["batch"] for row in record["throughput"]] == [1, 2]
        for row in record["throughput"]:
            assert f"| {row['samples_per_second']:.1f} | " in text and f"| {row['ratio']:.2f} | " in text


def test_bench_says_so_when_something_failed(folders, tmp_path, capsys):
    settings = {"length": 8, "threads": 1, "seconds": 0.02, "baseline": folders / "dense", "records": tmp_path}
    assert bench.run([folders / "broken", folders / "half"], ["onnxruntime"], batches=[1], **settings) == 1
    assert "| broken | onnxruntime | 1 |  |  |  |  | failed: " in capsys.readouterr().out
    assert len(store.read(tmp_path)) == 2


# What the models' own cards count, without the pooler that a token classifier does not have; the head is 9 labels.
CARDS = {"base": 277_453_056, "distilbert": 134_734_080, "minilm": 117_505_920}


@pytest.mark.parametrize("name", CARDS)
def test_a_shape_has_as_many_weights_as_the_model_it_is_the_shape_of(name):
    with torch.device("meta"):
        model = shapes.shape(name)
    width = model.classifier.in_features
    assert sum(weight.numel() for weight in model.parameters()) == CARDS[name] + 9 * width + 9
    assert not model.training


def test_depth_and_vocabulary_may_be_others():
    with torch.device("meta"):
        three, small = shapes.shape("bert-3"), shapes.shape("base", vocabulary=1000, layers=2)
    assert len(sparsity.weights(three)) == 18 and len(sparsity.weights(small)) == 12
    assert small.get_input_embeddings().num_embeddings == 1000


@pytest.mark.parametrize("pattern", ["1", "4"])
def test_zeros_are_imposed_exactly_and_in_the_pattern(pattern):
    model = shapes.shape("minilm", vocabulary=1000, layers=1)
    sparsity.one_shot_(model, sparsity.at_random(), 0.8, pattern)
    weights = [weight.detach().numpy() for weight in sparsity.weights(model).values()]
    zeros, size = sum((weight == 0).sum() for weight in weights), sum(weight.size for weight in weights)
    assert zeros == 0.8 * size or abs(zeros / size - 0.8) < 4 / size
    blocks = np.concatenate([(weight == 0).reshape(-1, 4).sum(1) for weight in weights])
    mixed = np.isin(blocks, (1, 2, 3)).mean()
    assert mixed == 0 if pattern == "4" else mixed > 0.4
    shares = [(weight == 0).mean() for weight in weights]
    assert max(shares) - min(shares) < 0.02  # at random, so alike everywhere


def test_a_candidates_process_stands_still_in_the_baselines_turns():
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    states = {"ours": set(), "base": set()}

    class Session(Model):
        def __call__(self, ids, mask):
            states[self.name].add(Path(f"/proc/{spinning.pid}/stat").read_text().rpartition(") ")[2][0])
            time.sleep(0.01)

    try:
        candidate, base = Session(None, 0, [], "ours"), Session(None, 0, [], "base")
        candidate.process = spinning.pid
        throughput._turn(candidate, throughput.random_batch(1, 4), 0)
        states["base"].clear()
        with throughput._stopped(candidate.process):
            pass
        row = throughput.compare(candidate, base, 1, 4, seconds=0.1, turns=2, calls=3)
    finally:
        spinning.kill()
        spinning.wait()
    assert "T" not in states["ours"] and "T" in states["base"]
    assert len(row["baseline_samples"]) == 2


def test_a_turn_of_the_baseline_has_as_many_calls_as_asked(clock):
    calls = []
    base = Model(clock, 1, calls, "base")
    throughput.compare(Model(clock, 0.1, [], "ours"), base, 1, 8, seconds=0.4, turns=2, calls=5)
    assert len(calls) == 2 + 2 * 5  # after two calls that warm up


@pytest.mark.parametrize(("again", "told"), [(10.1, None), (13.0, 0.3)])
def test_a_row_beside_another_baseline_is_measured_again_or_marked(monkeypatch, tmp_path, again, told):
    speeds = iter([10.0, 10.2, 14.0, again, 9.9])

    def compare(*_, **__):
        row = {"samples_per_second": 20.0, "baseline_samples_per_second": next(speeds), "ratio": 2.0}
        return row | {"busy": False, "others_cores": 0.0}

    monkeypatch.setattr(throughput, "compare", compare)
    for name in ("dense", *"abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_text("")
    fake = Model(Clock(), 1, [], "onnxruntime", tmp_path / "dense")
    monkeypatch.setattr(throughput.runtimes, "load", lambda *_, **__: fake)
    folders = {name: tmp_path / name for name in "abcd"}
    rows = list(throughput.measure(folders, ["openvino"], [1], 8, threads=1, seconds=1, baseline=tmp_path / "dense"))
    assert [row["baseline_samples_per_second"] for row in rows] == [10.0, 10.2, again, 9.9]
    off = [row.get("baseline_off") for row in rows]
    assert off == [None, None, told and pytest.approx(13.0 / 10.1 - 1), None]


class Given:
    """A session with the speed of every turn given."""

    process, threads, streams = None, 1, 1

    def __init__(self, speeds):
        self.speeds = iter([0.0, 0.0, *speeds])  # two calls warm up


def test_the_ratio_is_the_median_of_pairs(monkeypatch):
    monkeypatch.setattr(throughput, "_turn", lambda model, *_: (next(model.speeds), np.ones(1)))
    row = throughput.compare(Given([10, 20, 30]), Given([1, 4, 3]), 1, 8, seconds=1, turns=3)
    assert row["ratio"] == 10 and row["samples_per_second"] == 20


def test_what_a_candidates_worker_spends_is_ours(monkeypatch):
    class Process:
        def __init__(self, number):
            self.number = number

        def cpu_times(self):
            return (self.number, 1.0, 99.0)

    monkeypatch.setattr(throughput.psutil, "Process", Process)
    monkeypatch.setattr(throughput.os, "getpid", lambda: 5)
    assert throughput.Watch(7, None)._now()[2] == 5 + 1 + 7 + 1


def test_of_two_measurements_the_one_beside_the_nearer_baseline_counts(monkeypatch, tmp_path):
    speeds = iter([10.0, 10.2, 14.0, 16.0])
    row = {"samples_per_second": 20.0, "ratio": 2.0, "busy": False, "others_cores": 0.0}
    monkeypatch.setattr(throughput, "compare", lambda *_, **__: row | {"baseline_samples_per_second": next(speeds)})
    for name in ("dense", *"abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_text("")
    fake = Model(Clock(), 1, [], "onnxruntime", tmp_path / "dense")
    monkeypatch.setattr(throughput.runtimes, "load", lambda *_, **__: fake)
    how = {"threads": 1, "seconds": 1, "baseline": tmp_path / "dense"}
    rows = list(throughput.measure({name: tmp_path / name for name in "abc"}, ["openvino"], [1], 8, **how))
    assert rows[2]["baseline_samples_per_second"] == 14.0
