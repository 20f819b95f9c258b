"""The runtime over PyTorch's int8 kernels against the same graph in ONNX Runtime, kernel against kernel."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from test_disk import cut_neurons_

from mmalib import runtimes
from mmalib.data import sample
from mmalib.graph import export, quantize, ranges, trace
from mmalib.model import adapters
from mmalib.prune import sparsity
from mmalib.prune.heads import remove_heads_
from mmalib.records import machine
from mmalib.runtimes import torch_int8

THREADS = range(1, min(2, machine.cores()) + 1)
WORDS = [words for words, _ in sample.generate()["en"]["train"][:48]]


@pytest.fixture(scope="module")
def int8(random_model, tokenizer, tmp_path_factory):
    """A random model as an int8 graph; `change_` makes it smaller or sparse before."""
    root = tmp_path_factory.mktemp("int8")

    def build(architecture, form, change_=None, **more):
        folder = root / f"{len(list(root.iterdir()))}"
        model = random_model(architecture)
        if change_:
            change_(model)
        export.export(model, tokenizer, folder / "float")
        known = ranges.calibrate(folder / "float", ranges.sentence_rows(WORDS, tokenizer, 64))
        more = {name: value(folder / "float") if callable(value) else value for name, value in more.items()}
        quantize.quantize(folder / "float", folder / "int8", kind="static", ranges=known, format=form, **more)
        return folder / "int8"

    return build


def batch(rows=6, length=24, pad=0):
    ids = np.random.default_rng(0).integers(5, 900, (rows, length))
    mask = (np.arange(length) < length - 3 * np.arange(rows)[:, None]).astype(np.int64)
    return np.where(mask, ids, pad), mask


def logits(folder, runtime="onnxruntime", threads=1, pad=0):
    ids, mask = batch(pad=pad)
    with runtimes.load(folder, threads, runtime) as session:
        return session(ids, mask)[mask.astype(bool)]


def agree(one, other, room=0.01):
    """Single values may fall on the other side of a level's edge; what a model is sure of does not hang on them."""
    ordered = np.sort(other, axis=-1)
    sure = ordered[:, -1] - ordered[:, -2] > 5 * room * np.abs(other).max()
    assert sure.mean() > 0.2 and (one.argmax(-1) == other.argmax(-1))[sure].mean() >= 0.995
    assert np.abs(one - other).mean() < room * np.abs(other).max()


@pytest.mark.parametrize("form", quantize.FORMATS)
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "xlm-r"])
def test_it_computes_the_int8_graph(int8, architecture, form):
    folder, pad = int8(architecture, form), 1 if architecture == "xlm-r" else 0
    wanted = logits(folder, pad=pad)
    for threads in THREADS:
        agree(logits(folder, "torch", threads, pad), wanted)
    if form == "qoperator" or not machine.saturates():  # there, what bf16 rounds decides which products saturate
        agree(logits(folder, "torch:attention=bf16", max(THREADS), pad), wanted, room=0.04)


def test_without_avx512_no_product_is_asked_to_write_bf16(int8, monkeypatch):
    """What oneDNN has in place of such a kernel takes a thousand times as long."""
    folder, flags, asked, dense = int8("bert", "qdq"), machine.flags(), [], torch_int8.Product._dense

    def watched(self, levels, bias, dtype=torch.float32, **how):
        asked.append(dtype)
        return dense(self, levels, bias, dtype=dtype, **how)

    monkeypatch.setattr(torch_int8.Product, "_dense", watched)
    monkeypatch.setattr(machine, "flags", lambda: flags | {"avx512f": False})
    rounded = logits(folder, "torch:attention=bf16")
    assert set(asked) == {torch.float32}
    exact = logits(folder, "torch")
    assert (rounded != exact).any() and np.abs(rounded - exact).mean() < 0.04 * np.abs(exact).max()  # attention is


def smaller_(model):
    remove_heads_(model, {0: [1, 3], 1: [0]})
    cut_neurons_(model, [20, 33])


@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("qdq", {}),
        ("qoperator", {}),
        ("qdq", {"embeddings": True}),
        ("qoperator", {"embeddings": True}),
        ("qdq", {"skip": lambda f: list(trace.matmuls(onnx.load(f / "model.onnx").graph))[3:6]}),
    ],
    ids=["qdq", "qoperator", "embeddings too", "embeddings too, qoperator", "some maps in float"],
)
def test_smaller_models_embeddings_in_int8_and_maps_left_in_float(int8, form, more):
    folder = int8("bert", form, smaller_, **more)
    agree(logits(folder, "torch", max(THREADS)), logits(folder))


def test_a_graph_below_the_config_as_in_the_shipped_folders(int8, tmp_path):
    folder = shutil.copytree(int8("bert", "qdq"), tmp_path / "shipped")
    wanted = logits(folder, "torch")
    (folder / runtimes.QUANTIZED).parent.mkdir()
    (folder / runtimes.GRAPH).rename(folder / runtimes.QUANTIZED)
    np.testing.assert_array_equal(logits(folder, "torch"), wanted)


def pruned_(model):
    sparsity.one_shot_(model, sparsity.by_magnitude(), 0.8, "4")


def test_both_kernels_say_the_same_and_zero_blocks_stay_zero(int8, monkeypatch):
    folder = int8("bert", "qoperator", pruned_)
    maps = torch_int8.read_maps(onnx.load(folder / "model.onnx").graph)
    shares = {name: torch_int8.zero_blocks(one.weight) for name, one in maps.items()}
    assert np.mean(list(shares.values())) >= 0.75  # of the whole model 80% went, and none has come back
    dense, sparse = (logits(folder, f"torch:kernel={kernel}") for kernel in ("dense", "sparse"))
    np.testing.assert_allclose(dense, sparse, atol=1e-3)
    with runtimes.load(folder, 1, "torch:kernel=sparse") as session:
        assert session.facts["sparse_maps"] == session.facts["maps"] == len(maps)
    middle = float(np.median(list(shares.values())))
    monkeypatch.setattr(torch_int8, "WORTH", middle)
    monkeypatch.setattr(torch_int8, "WORTH_WITH_AMX", middle)
    with runtimes.load(folder, 1, "torch") as session:  # those with fewer zeros are computed densely
        assert session.facts["sparse_maps"] == sum(share > middle for share in shares.values()) not in (0, len(maps))


def test_one_product_by_hand():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-63, 64, (16, 8), generator=draw, dtype=torch.int8)  # no pair saturates
    scale, bias = torch.rand(16, generator=draw) / 50, torch.randn(16, generator=draw)
    reads, writes = torch_int8.Grid(0.03, 120), torch_int8.Grid(0.1, 100)
    levels = torch.randint(0, 256, (5, 8), generator=draw, dtype=torch.uint8)
    exact = (levels.double() - 120) * 0.03 @ (weight.double() * scale[:, None]).T
    product = torch_int8.Product(torch_int8.Map(weight, scale, bias, reads, None), sparse=False)
    torch.testing.assert_close(product(levels).double(), exact + bias, rtol=1e-4, atol=1e-4)
    gelu = torch.nn.functional.gelu((exact + bias).float())
    onto = torch_int8.Grid(0.05, 10)
    assert (product(levels, gelu=True, onto=onto).int() - onto.round(gelu).int()).abs().max() <= 1
    for sparse in (False, True):
        rounded = torch_int8.Product(torch_int8.Map(weight, scale, bias, reads, writes), sparse)(levels)
        wanted = ((exact / 0.1).round() + 100).clamp(0, 255) * 0.1 - 10 + bias
        assert ((rounded.double() - wanted).abs() < 0.1001).all()
        assert ((rounded.double() - wanted).abs() < 1e-4).float().mean() > 0.95


def test_what_it_cannot_compute_is_one_line(int8, random_model, tokenizer, tmp_path, monkeypatch):
    folder = int8("bert", "qdq")
    with pytest.raises(ValueError, match="no int8 map of an encoder"):
        runtimes.load(folder.with_name("float"), 1, "torch")
    with pytest.raises(ValueError, match="takes graphs of the qoperator format"):
        runtimes.load(folder, 1, "torch:kernel=sparse")
    with pytest.raises(ValueError, match="computes no adapters"):
        runtimes.load(int8("bert", "qdq", lambda model: adapters.add_(model, 4)), 1, "torch")
    flags = machine.flags() | {"avx2": False}
    monkeypatch.setattr(machine, "flags", lambda: flags)
    with pytest.raises(ValueError, match="no AVX2") as error:
        runtimes.load(folder, 1, "torch")
    assert "\n" not in str(error.value)


def test_the_number_of_threads_elsewhere_stays(int8):
    folder, before = int8("bert", "qdq"), torch.get_num_threads()
    for threads in THREADS:
        logits(folder, "torch", threads)
        assert torch.get_num_threads() == before
