"""The int8 graph has the ranges it was given, every zero of the float model, and float where it was told."""

import shutil
import warnings
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_export import PRUNED, sparse_

from mmalib.data import sample, subwords
from mmalib.graph import export, floor, quantize, ranges, trace
from mmalib.model import disk
from mmalib.records import machine

WORDS = [words for words, _ in sample.generate()["en"]["train"][:48]]


@pytest.fixture(scope="module")
def rows(tokenizer):
    return ranges.sentence_rows(WORDS, tokenizer, 64)


@pytest.fixture(scope="module")
def source(random_model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("float") / "model"
    model = random_model("xlm-r")
    sparse_(model, 0.5)
    export.export(model, tokenizer, folder, provenance={"run": "01-x", "f1": 0.5})
    return folder


@pytest.fixture(scope="module")
def minmax(source, rows):
    return ranges.calibrate(source, rows)


def stored(folder):
    graph = onnx.load(folder / "model.onnx").graph
    return graph, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def names_in(folder):
    return list(trace.matmuls(onnx.load(folder / "model.onnx").graph))


def logits(folder, tokenizer):
    return np.concatenate(subwords.word_logits(export.session(folder, 1), subwords.encode(WORDS, tokenizer, 64)))


def test_minmax_is_what_pytorch_sees(random_model, tokenizer, rows, tmp_path):
    model = random_model("distilbert")
    export.export(model, tokenizer, tmp_path / "float")
    seen = {}

    def watch(name):
        def hook(linear, given, out):
            both = {"input": given[0], "output": out - linear.bias}
            for which, values in both.items():
                low, high = seen.setdefault(name, {}).get(which, (np.inf, -np.inf))
                seen[name][which] = (min(low, values.min().item()), max(high, values.max().item()))

        return hook

    for name, linear in trace.linears(model).items():
        linear.register_forward_hook(watch(name))
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    found, wanted = ranges.calibrate(tmp_path / "float", rows), quantize.tensor_ranges(tmp_path / "float", seen)
    assert found.keys() == wanted.keys() and len(found) == 8 + 12
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], abs=1e-4)


def test_other_methods_cut_tails_and_stay_inside_the_whole_range(source, rows, minmax, monkeypatch):
    cut = {}
    kind, options = ranges.METHODS["percentile"]
    monkeypatch.setitem(ranges.METHODS, "percentile", (kind, options | {"percentile": 98.0}))
    for method in ("percentile", "entropy"):
        found = ranges.calibrate(source, rows[:12], method=method)
        assert found.keys() == minmax.keys()
        cut[method] = [(high - low) / (minmax[name][1] - minmax[name][0]) for name, (low, high) in found.items()]
        assert max(cut[method]) <= 1.001
    assert max(cut["percentile"]) < 0.9  # 2% of the values are outside
    assert min(cut["entropy"]) < 0.95  # with the library's own number of bins it would cut nothing


@pytest.mark.parametrize("format", quantize.FORMATS)
def test_given_ranges_end_up_in_the_graph(source, minmax, tmp_path, format):
    given = {name: (-1.0 - n, 2.0 + n / 2) for n, name in enumerate(minmax)}
    given[next(iter(given))] = (0.5, 2.0)  # 0 must have a level, so that this becomes 0 to 2
    quantize.quantize(source, tmp_path / "int8", kind="qat", ranges=given, format=format)
    _, found = stored(tmp_path / "int8")
    nodes = trace.matmuls(onnx.load(source / "model.onnx").graph)
    read = {node.input[0] for node in nodes.values()}
    wanted = read | ({node.output[0] for node in nodes.values()} if format == "qoperator" else set())
    for name in wanted:
        low, high = min(given[name][0], 0), given[name][1]
        assert found[f"{name}_scale"] == pytest.approx((high - low) / 255)
        assert found[f"{name}_zero_point"] == round(-low * 255 / (high - low))
        assert found[f"{name}_zero_point"].dtype == np.uint8
    assert sum(name.endswith(("output_0_scale", ".product_scale")) for name in found) == len(wanted)


@pytest.fixture(scope="module", params=[("bert", "sparse"), ("xlm-r", "uneven"), ("distilbert", "uneven")])
def pruned(request, random_model, tokenizer, rows, tmp_path_factory):
    architecture, how = request.param
    model = random_model(architecture)
    PRUNED[how](model)
    folder = tmp_path_factory.mktemp("pruned") / "float"
    export.export(model, tokenizer, folder)
    return model, folder, ranges.calibrate(folder, rows[:8])


@pytest.mark.parametrize("kind", ["dynamic", "qdq", "qoperator"])
def test_zeros_survive_and_weights_are_symmetric(pruned, tokenizer, tmp_path, kind):
    model, source, given = pruned
    given = None if kind == "dynamic" else given
    about = quantize.quantize(
        source,
        tmp_path / "int8",
        kind="static" if given else "dynamic",
        ranges=given,
        format="qoperator" if kind == "qoperator" else "qdq",
    )
    _, found = stored(tmp_path / "int8")
    zeros = total = 0
    for name, linear in trace.linears(model).items():
        weight, int8 = linear.weight.detach().numpy().T, found[f"{name}.weight_quantized"]
        scale = found[f"{name}.weight_scale"]
        assert int8.dtype == np.int8 and np.abs(int8.astype(int)).max() == 127
        assert not found[f"{name}.weight_zero_point"].any()
        assert scale.size == (1 if kind == "qoperator" else weight.shape[1])
        assert not int8[weight == 0].any()
        assert np.abs(int8 * scale - weight).max() <= scale.max() / 2 * 1.001
        zeros, total = zeros + (weight == 0).sum(), total + weight.size
    assert about["quantization"]["sparsity"] == zeros / total == about["sparsity"]
    assert about["quantization"]["sparsity_int8"] >= zeros / total
    whole, small = (logits(folder, tokenizer) for folder in (source, tmp_path / "int8"))
    assert np.isfinite(small).all() and (small != whole).any()
    if not machine.saturates():  # u8 x s8 products: there, random weights of any size may give anything
        assert np.abs(small - whole).mean() < 0.25 * np.abs(whole).mean()


def test_residuals_stay_in_float(source, minmax, tmp_path):
    quantize.quantize(source, tmp_path / "int8", kind="static", ranges=minmax)
    graph, _ = stored(tmp_path / "int8")
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in graph.node if rounded & set(node.input)}
    assert readers == {"MatMul"}


@pytest.mark.parametrize("format", quantize.FORMATS)
def test_skipped_maps_stay_as_they_were(source, minmax, tokenizer, tmp_path, format):
    names = names_in(source)
    assert len(names) == 12
    skip = [names[0], names[5], names[11]]
    about = quantize.quantize(source, tmp_path / "int8", kind="static", ranges=minmax, format=format, skip=skip)
    assert about["quantization"]["skip"] == sorted(skip) and about["quantization"]["quantized"] == 9
    _, before = stored(source)
    _, after = stored(tmp_path / "int8")
    for name in names:
        assert (f"{name}.weight" in after) == (name in skip) != (f"{name}.weight_quantized" in after)
    assert all(np.array_equal(before[f"{name}.weight"], after[f"{name}.weight"]) for name in skip)
    assert np.isfinite(logits(tmp_path / "int8", tokenizer)).all()


def test_the_folder_is_complete_and_says_what_it_is(source, minmax, tmp_path):
    files = {path.name for path in source.iterdir()}
    (source / export.CARD).write_text("the float model's own")
    about = quantize.quantize(source, tmp_path / "int8", kind="static", ranges=minmax, provenance={"f1": 0.4})
    (source / export.CARD).unlink()
    assert {path.name for path in (tmp_path / "int8").iterdir()} == files
    assert (about["run"], about["f1"]) == ("01-x", 0.4)
    assert about["quantization"]["kind"] == "static" and about["quantization"]["format"] == "qdq"
    assert about["megabytes"] == disk.size_mb(tmp_path / "int8", export.GRAPH)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


@pytest.mark.parametrize("format", quantize.FORMATS)
def test_embeddings_in_a_byte_each(source, minmax, tokenizer, tmp_path, format):
    plain = quantize.quantize(source, tmp_path / "plain", kind="static", ranges=minmax, format=format)
    small = quantize.quantize(source, tmp_path / "s", kind="static", ranges=minmax, format=format, embeddings=True)
    table = len(tokenizer) * 32
    assert plain["megabytes"] - small["megabytes"] == pytest.approx(3 * table / 1e6, abs=0.003)
    one, other = logits(tmp_path / "plain", tokenizer), logits(tmp_path / "s", tokenizer)
    assert 0 < np.abs(one - other).mean() < 0.25 * np.abs(one).mean()


def test_a_cpu_without_vnni_is_warned_of(source, minmax, tmp_path, monkeypatch):
    flags = dict.fromkeys(machine.FLAGS, False) | {"avx2": True}
    monkeypatch.setattr(machine, "flags", lambda: flags)
    with pytest.warns(UserWarning, match="no VNNI.*saturate"):
        quantize.quantize(source, tmp_path / "int8", kind="static", ranges=minmax)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flags["avx512_vnni"] = True
        quantize.quantize(source, tmp_path / "int8", kind="dynamic")
        flags.update(dict.fromkeys(flags))  # a system that does not say
        quantize.quantize(source, tmp_path / "int8", kind="dynamic")


def test_random_rows_need_no_text(source, tokenizer, tmp_path):
    found = ranges.random_rows(tokenizer, number=20, length=16, seed=3)
    assert found == ranges.random_rows(tokenizer, number=20, length=16, seed=3)
    assert found != ranges.random_rows(tokenizer, number=20, length=16, seed=4)
    special = set(tokenizer.all_special_ids)
    for row in found:
        assert (len(row), row[0], row[-1]) == (16, tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert not special & set(row[1:-1])
    about = quantize.quantize(source, tmp_path / "int8", kind="without data", ranges=ranges.calibrate(source, found))
    assert about["quantization"]["kind"] == "without data"


def test_mistakes_are_one_clear_line(source, minmax, random_model, tokenizer, tmp_path):
    def attempt(message, folder=source, **named):
        with pytest.raises(ValueError, match=message):
            quantize.quantize(folder, tmp_path / "int8", **{"kind": "static", "ranges": minmax, **named})
        assert not list(tmp_path.glob("*int8*"))

    attempt("no format 'int4'", format="int4")
    attempt("no format 'int4'", kind="dynamic", ranges=None, format="int4")
    attempt("measures activations while it runs", kind="dynamic")
    attempt("every other kind needs ranges", ranges=None)
    attempt("every other kind needs ranges", ranges={})
    attempt("nothing to quantize", skip=names_in(source))
    attempt("is nan to 1.0", ranges={name: (float("nan"), 1.0) for name in minmax})
    attempt("holds no model.onnx", folder=tmp_path)
    shutil.copytree(source, tmp_path / "alone")
    (tmp_path / "alone" / quantize.PROVENANCE).unlink()
    attempt(f"alone has no {quantize.PROVENANCE}", folder=tmp_path / "alone")
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        ranges.calibrate(source, [])
    with pytest.raises(ValueError, match="no calibration method 'mean'"):
        ranges.calibrate(source, [[1, 2]], method="mean")
    other = tmp_path / "foreign"
    other.mkdir()
    proto = onnx.load(source / "model.onnx")
    for node in proto.graph.node:
        node.name = ""
    onnx.save(proto, other / "model.onnx")
    attempt("nothing to quantize", folder=other)


# ------------------------------------------------------------------------------------------------ the floor


def test_the_floor_is_held_with_the_fewest_and_every_model_is_measured_once():
    names, calls = ["a", "b", "c", "d"], []
    gains = {"a": 0.001, "b": 0.02, "c": 0.0, "d": 0.015}

    def measure(skip):
        calls.append(skip)
        lost = 0.05 - sum(gains[name] for name in skip)
        return {"en": 0.9 - lost, "es": 0.8 - 2 * lost}, lost

    found = floor.hold_floor(measure, names, {"en": 0.9, "es": 0.8}, points=4.0, most=6)
    assert found["skip"] == ["b", "d"] and found["met"]
    assert found["lost"] == pytest.approx({"en": 1.5, "es": 3.0})
    assert found["lost_at_first"] == pytest.approx({"en": 5.0, "es": 10.0})
    assert list(found["scan"]) == ["b", "d", "a", "c"] and found["scan"]["b"]["gain"] == pytest.approx(4.0)
    assert len(calls) == len(set(calls)) == found["measured"] == 6
    assert floor.hold_floor(measure, names, {"en": 0.9, "es": 0.8}, points=2.9, most=6)["skip"] == ["b", "d", "a"]


def test_a_floor_that_holds_at_once_costs_one_measurement_and_one_that_cannot_be_met_says_so():
    def measure(skip):
        return {"en": 0.9 - 0.05 / (1 + len(skip))}, 1.0

    base = {"en": 0.9}
    assert floor.hold_floor(measure, ["a", "b"], base, points=6, most=6)["measured"] == 1
    found = floor.hold_floor(measure, list("abcde"), base, points=0.1, most=2)
    assert not found["met"] and len(found["skip"]) == 2 and found["lost"]["en"] == pytest.approx(5 / 3)
    single = floor.hold_floor(measure, ["a"], base, points=0.1, most=6)
    assert not single["met"] and single["skip"] == []


def test_ties_in_f1_are_broken_by_the_drift_and_a_worse_model_is_never_taken():
    drifts = {"a": 0.3, "b": 0.1, "c": 0.2}

    def measure(skip):
        worse = 0.02 if len(skip) > 1 else 0.0
        return {"en": 0.8 - worse}, min((drifts[name] for name in skip), default=0.5)

    found = floor.hold_floor(measure, list(drifts), {"en": 0.9}, points=1, most=6)
    assert list(found["scan"]) == ["b", "c", "a"] and found["skip"] == ["b"] and not found["met"]


@pytest.mark.parametrize("number", [1, 3, 11])
def test_maps_put_back_into_float_are_those_never_quantized(source, minmax, tmp_path, number):
    quantize.quantize(source, tmp_path / "int8", kind="static", ranges=minmax)
    skip = set(names_in(source)[:number])
    quantize.in_float_again(source, tmp_path / "int8", tmp_path / "again", skip=skip)
    quantize.quantize(source, tmp_path / "never", kind="static", ranges=minmax, skip=skip)
    ids = np.random.default_rng(0).integers(5, 90, (3, 17))
    runs = [export.session(tmp_path / name) for name in ("again", "never", "int8")]
    again, never, whole = (run(ids, np.ones_like(ids)) for run in runs)
    assert (again == never).all() and (again != whole).any()


def test_the_floor_on_real_graphs(source, minmax, tokenizer, tmp_path):
    run = export.session(source)
    texts = {"en": WORDS[:12], "es": WORDS[12:24]}
    # What the float model says is taken for right: its F1 is 1, and every loss is quantization's.
    dev = {
        name: subwords.encode(words, tokenizer, 64, subwords.tagged(run, tokenizer, words, 64))
        for name, words in texts.items()
    }
    names = names_in(source)
    narrow = {name: (low / 30, high / 30) for name, (low, high) in minmax.items()}
    spoilt = onnx.load(source / "model.onnx")
    bad = trace.matmuls(spoilt.graph)[names[10]].input[0]  # what layer 1's `widen` reads
    given = {**minmax, bad: narrow[bad]}

    quantize.quantize(source, tmp_path / "int8", kind="static", ranges=given)
    build = partial(quantize.in_float_again, source, tmp_path / "int8")
    measure, base = floor.measure_with(build, source, dev)
    assert base == {"en": 1.0, "es": 1.0}
    _, at_first = measure(frozenset())
    gain = {name: at_first - measure(frozenset({name}))[1] for name in names}
    assert max(gain, key=gain.get) == names[10]
    assert floor.drift([(np.zeros((2, 2)), np.log([[3.0, 1.0]] * 2))]) == pytest.approx(0.5 * np.log(4 / 3))


def test_the_model_of_the_tests_is_tagged_as_pytorch_does(random_model, tokenizer, source):
    model = random_model("xlm-r")
    sparse_(model, 0.5)
    ours = subwords.tagged(export.session(source), tokenizer, WORDS, 64)
    assert ours == subwords.predict_tags(model, tokenizer, WORDS, max_length=64)
