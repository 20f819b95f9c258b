"""One builder of int8 graphs for four sources of activation ranges.

    dynamic        no ranges: every activation is measured while the model runs
    static         ranges from English training sentences (`ranges.calibrate`)
    without data   ranges from random subwords (`ranges.random_rows`)
    qat            ranges learnt in a fake-quantized fine-tune (`qat`)

Weights become int8, symmetric, so that a pruned weight stays exactly zero; activations uint8, affine. What is quantized
are the linear maps of the encoder's layers. The two products of activations in attention stay in float: at 128
subwords they are under 3% of a base model's multiplications. So do the classifier and, unless `embeddings` says
otherwise, the embeddings, which a lookup makes no faster: they only weigh on the disk.

The same ranges are written in the format that each runtime runs fast:

    qdq         QuantizeLinear and DequantizeLinear around MatMuls, one scale an output: ONNX Runtime, OpenVINO.
                The inputs of the MatMuls are quantized, their outputs are float.
    qoperator   QLinearMatMul, one scale a matrix: DeepSparse, which runs the other format slower than float.
                The outputs of the MatMuls are quantized too, before their bias is added.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, save_and_reload_model_with_shape_infer

from mmalib.graph.export import CARD, GRAPH
from mmalib.graph.trace import matmuls
from mmalib.model.cache import complete_folder
from mmalib.model.disk import PROVENANCE, size_mb, tell
from mmalib.records import clock, machine, store

FORMATS = ("qdq", "qoperator")
Ranges = Mapping[str, tuple[float, float]]  # tensor of the graph → lowest and highest value


@clock.phase("export")
def quantize(
    source: Path,
    target: Path,
    *,
    kind: str,
    ranges: Ranges | None = None,
    format: str = "qdq",
    skip: Collection[str] = (),
    embeddings: bool = False,
    provenance: dict | None = None,
) -> dict:
    """Write the int8 model of the exported folder `source` into the folder `target`; what its mmalib.json says.

    `skip` names linear maps that stay in float. `embeddings` makes the table of word embeddings uint8 as well.
    """
    if format not in FORMATS and not format == kind == "dynamic":  # the dynamic graph has one form
        raise ValueError(f"There is no format '{format}'. Choose one of: {', '.join(FORMATS)}.")
    if bool(ranges) == (kind == "dynamic"):
        raise ValueError("Dynamic quantization measures activations while it runs; every other kind needs ranges=.")
    proto = _load(source)
    chosen = [name for name in matmuls(proto.graph) if name not in skip]
    if not chosen:
        raise ValueError(f"There is nothing to quantize in {source}: mmalib.graph.export names what can be.")
    if not (before := store.read_json(Path(source) / PROVENANCE)):
        raise ValueError(f"{source} has no {PROVENANCE}. Export the model with mmalib.graph.export.")
    if machine.saturates():
        warnings.warn(
            "This CPU has no VNNI: u8 x s8 products saturate, and scores measured here may be lower than elsewhere.",
            stacklevel=2,
        )
    float_weights = {name: _weight(proto.graph, f"{name}.weight") for name in chosen}
    nodes = chosen + (_lookups(proto.graph) if embeddings else [])
    with complete_folder(target) as fresh, _quiet():
        for path in Path(source).iterdir():
            if path.name not in (GRAPH, PROVENANCE, CARD):
                shutil.copy2(path, fresh / path.name)
        _build(proto, fresh / GRAPH, nodes, ranges, format)
        how = {"kind": kind, "format": "dynamic" if ranges is None else format, "quantized": len(chosen)}
        how |= {"skip": sorted(skip), "embeddings": embeddings, **_zeros(onnx.load(fresh / GRAPH).graph, float_weights)}
        how["megabytes_float"] = before["megabytes"]
        about = before | (provenance or {}) | {"megabytes": size_mb(fresh, GRAPH), "quantization": how}
        about |= {"commit": machine.commit(), "versions": machine.versions()}
        tell(fresh, about)
    return about


def in_float_again(source: Path, int8: Path, target: Path, skip: Collection[str]) -> None:
    """Write into `target` the graph that `quantize` makes of `source` with `skip`, from the qdq one in `int8`."""
    proto, weights = _load(int8), {f"{name}.weight" for name in skip}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.name in skip:
            node.input[1] = f"{node.name}.weight"
    proto.graph.initializer.extend(tensor for tensor in _load(source).graph.initializer if tensor.name in weights)
    _float_residuals_(proto.graph)
    target.mkdir()
    onnx.save(proto, target / GRAPH)


def tensor_ranges(folder: Path, learnt: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict:
    """Ranges by module, {"input": (low, high), "output": ...} each, as ranges by tensor of the graph in `folder`."""
    widest: dict[str, tuple[float, float]] = {}
    for name, node in matmuls(_load(folder).graph).items():
        # Query, key and value read the same tensor: the widest of their ranges holds for all.
        for tensor, which in ((node.input[0], "input"), (node.output[0], "output")):
            if which in learnt[name]:
                low, high = learnt[name][which]
                old = widest.get(tensor, (low, high))
                widest[tensor] = (min(low, old[0]), max(high, old[1]))
    return widest


def table_in_bytes(source: Path, target: Path) -> None:
    """Write a graph with its table of word embeddings in a byte each, one scale for all; what has been so stays so.

    Most values are small against the largest, so that a packed file has about 5 bits of each.
    """
    proto = onnx.load(source)
    if not (lookups := _lookups(proto.graph)):
        onnx.save(proto, target)
        return
    with _quiet():
        quantize_dynamic(proto, target, ["Gather"], nodes_to_quantize=lookups)


def _load(folder: Path) -> onnx.ModelProto:
    path = Path(folder) / GRAPH
    if not path.is_file():
        raise ValueError(f"{folder} holds no {GRAPH}. Give a folder that mmalib.graph.export has written.")
    return onnx.load(path)


def _lookups(graph: onnx.GraphProto) -> list[str]:
    """The nodes that read a table of word embeddings in float."""
    tables = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    readers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    return [node.name for node in readers if "word_embed" in node.input[0]]


def _build(proto: onnx.ModelProto, path: Path, nodes: list[str], ranges: Ranges | None, format: str) -> None:
    kinds = ["MatMul", "Gather"]
    if ranges is None:
        # The quantizer leaves a file beside its input, so its input is in memory.
        quantize_dynamic(proto, path, kinds, per_channel=True, nodes_to_quantize=nodes)
        return
    maps = [node for name, node in matmuls(proto.graph).items() if name in nodes]
    ends = [node.input[0] for node in maps] + ([node.output[0] for node in maps] if format == "qoperator" else [])
    known = {tensor: tuple(np.array(end, np.float32) for end in ranges[tensor]) for tensor in ends}
    for tensor, (low, high) in known.items():
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(f"The range of {tensor} is {low} to {high}. Calibrate again, or tune the model again.")
    inferred = save_and_reload_model_with_shape_infer(proto)
    common = (QuantType.QInt8, QuantType.QUInt8, TensorsData(CalibrationMethod.MinMax, known), nodes, [], kinds)
    if format == "qdq":
        quantizer = QDQQuantizer(inferred, True, False, *common, {"OpTypesToExcludeOutputQuantization": ["MatMul"]})
    else:
        quantizer = ONNXQuantizer(inferred, False, False, QuantizationMode.QLinearOps, True, *common, {})
    built = quantizer.quantize_model()
    _float_residuals_(built.graph)
    onnx.save(built, path)


def _float_residuals_(graph: onnx.GraphProto) -> None:
    """Let all but the quantized MatMuls read a tensor itself, where the quantizer gave them its rounded copy.

    Without this the residual connections were rounded too: less exact, and one node slower each.
    """
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "MatMul" and made.get(node.input[1], node).op_type == "DequantizeLinear":
            continue
        for place, name in enumerate(node.input):
            last = made.get(name)
            first = made.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
            if first is not None and first.op_type == "QuantizeLinear":
                node.input[place] = first.input[0]


def _weight(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == name)


def _zeros(graph: onnx.GraphProto, weights: dict[str, np.ndarray]) -> dict[str, float]:
    """The share of zeros in the quantized maps, in float and in int8, where rounding makes more."""
    zeros = int8_zeros = total = 0
    for name, weight in weights.items():
        quantized = _weight(graph, f"{name}.weight_quantized")
        if quantized.dtype != np.int8 or quantized[weight == 0].any():
            raise ValueError(f"The int8 weights of {name} are not zero where the float weights are.")
        zeros, int8_zeros = zeros + int((weight == 0).sum()), int8_zeros + int((quantized == 0).sum())
        total += weight.size
    return {"sparsity": zeros / total, "sparsity_int8": int8_zeros / total}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice to pre-process: its graph optimizations would take the names away."""
    root, old = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    # It also writes into the folder for temporary files, and leaves things there.
    with tempfile.TemporaryDirectory() as scratch:
        before, tempfile.tempdir = tempfile.tempdir, scratch
        try:
            yield
        finally:
            tempfile.tempdir = before
            root.setLevel(old)
