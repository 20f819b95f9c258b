"""Int8 graphs in PyTorch's own CPU kernels: an open runtime that can leave zeros out.

The int8 graph is read as it is (weights, scales, zero points, for both formats), and computed layer by layer in the
order of the architecture. There are two kernels for a linear map:

    dense    oneDNN's int8 product, with VNNI or AMX where the CPU has them; bias, GELU and the rounding for the next
             map happen inside it (the qdq format, whose outputs are float until then)
    sparse   FBGEMM's product over blocks of 1 × 4 weights, which leaves out blocks of zeros; it works on one thread,
             rounds its output (the qoperator format), and adds products in pairs of 16 bits, so that two that are both
             near their limits saturate

Between two maps that meet, nothing is dequantized. Attention is computed in float32 or bfloat16, norms and residuals in
float32. A batch is split over the threads, one part each; a batch smaller than that has all threads for every product.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from mmalib.model import adapters, disk
from mmalib.model.backbones import Parts, head_size, layers, linears, parts
from mmalib.records import machine
from mmalib.runtimes import Engine

BLOCK = (1, 4)
# Share of zero blocks from which the sparse kernel is the faster one; with AMX the dense one is faster at 95% still.
WORTH, WORTH_WITH_AMX = 0.7, 1.0


class Grid(NamedTuple):
    """Where the 256 levels of an activation lie."""

    scale: float
    zero: int

    def round(self, values: Tensor) -> Tensor:
        """Float values as levels, uint8."""
        return torch.quantize_per_tensor(values, self.scale, self.zero, torch.quint8).int_repr()


class Map(NamedTuple):
    """One linear map of the graph: int8 weights [outputs, inputs] and the grids of what it reads and writes."""

    weight: Tensor
    scale: Tensor  # [outputs]
    bias: Tensor | None
    reads: Grid
    writes: Grid | None  # before the bias; None where the output is float


def load(path: Path, threads: int, kernel: str, attention: str) -> Engine:
    """The model of an int8 graph on `threads` threads."""
    flags = machine.flags()
    if not flags["avx2"]:
        raise ValueError("this CPU has no AVX2, which PyTorch's int8 kernels need")
    graph = onnx.load(path).graph
    maps = read_maps(graph)
    if not maps:
        raise ValueError(f"{path} has no int8 map of an encoder; this runtime is for static int8 graphs")
    model = _skeleton(path, graph)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[attention]
    # Without AVX-512 oneDNN has no kernel that writes bfloat16: what stands in for it takes a thousand times as long.
    inside = dtype if flags["avx512f"] else torch.float32
    worth = WORTH_WITH_AMX if flags["amx_int8"] else WORTH
    with warnings.catch_warnings():  # torch says once that quantized tensors go in a future release; it is pinned
        warnings.simplefilter("ignore")
        products = {name: _product(one, kernel, worth) for name, one in maps.items()}
        Grid(1.0, 0).round(torch.zeros(1))
    forward = _encoder(model, products, dtype, inside)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        ids, mask = (torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask"))
        if threads == 1 or len(ids) < threads:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return forward(ids, mask).numpy()
            finally:
                torch.set_num_threads(before)
        shares = zip(ids.tensor_split(threads), mask.tensor_split(threads), strict=True)
        return torch.cat(list(pool.map(lambda share: forward(*share), shares))).numpy()

    sparse = sum(product.sparse for product in products.values())
    facts = {"version": torch.__version__, "maps": len(maps), "sparse_maps": sparse, "attention": attention}
    return Engine(run, pool.shutdown, ("input_ids", "attention_mask"), facts)


def read_maps(graph: onnx.GraphProto) -> dict[str, Map]:
    """The int8 maps of a static graph by the names of their modules."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}

    def grid(scale: str, zero: str) -> Grid:
        return Grid(float(arrays[scale]), int(arrays[zero]))

    maps = {}
    for node in graph.node:
        if node.op_type == "QLinearMatMul":
            name = node.name.removesuffix("_quant")
            reads, writes = grid(node.input[1], node.input[2]), grid(node.input[6], node.input[7])
        elif node.op_type == "MatMul" and f"{node.name}.weight_quantized" in arrays:
            name, source = node.name, made[node.input[0]]
            if source.op_type != "DequantizeLinear":
                continue  # a dynamic graph measures what it reads while it runs
            reads, writes = grid(source.input[1], source.input[2]), None
        else:
            continue
        weight = torch.from_numpy(arrays[f"{name}.weight_quantized"].T.copy())
        scale = torch.from_numpy(np.broadcast_to(arrays[f"{name}.weight_scale"], len(weight)).astype(np.float32))
        bias = arrays.get(f"{name}.bias")
        maps[name] = Map(weight, scale, None if bias is None else torch.from_numpy(bias.copy()), reads, writes)
    return maps


def zero_blocks(weight: Tensor) -> float:
    """The share of blocks of 1 × 4 weights that are zeros alone; 0 where rows cannot be cut into blocks."""
    if weight.shape[1] % BLOCK[1]:
        return 0.0
    return float((weight.unflatten(1, (-1, BLOCK[1])) == 0).all(2).float().mean())


class InFloat:
    """A linear map that the graph leaves in float."""

    reads: Grid | None = None

    def __init__(self, linear: nn.Linear) -> None:
        self.compute = linear

    def __call__(
        self, given: Tensor, gelu: bool = False, onto: Grid | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """[rows, inputs], in float or in levels, to [rows, outputs] as `dtype` or in levels `onto` a grid."""
        values = self.compute(self._levels(given))
        values = functional.gelu(values) if gelu else values
        return onto.round(values) if onto else values.to(dtype)

    def _levels(self, given: Tensor) -> Tensor:
        return self.reads.round(given) if self.reads and given.dtype != torch.uint8 else given


class Product(InFloat):
    """An int8 map ready to compute."""

    def __init__(self, one: Map, sparse: bool) -> None:
        self.map, self.sparse, self.reads = one, sparse, one.reads
        self.zeros = torch.zeros(len(one.weight), dtype=torch.int64)
        if not sparse:
            self.packed = torch.ops.onednn.qlinear_prepack(one.weight, None)
            return
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
        try:
            weight = torch._make_per_channel_quantized_tensor(one.weight, one.scale.double(), self.zeros, 0)
            self.packed = torch.ops.sparse.qlinear_prepack(weight, None, *BLOCK)
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, given: Tensor, **how) -> Tensor:
        """The same; where the map writes float, all of it happens inside the kernel."""
        if self.map.writes is None:
            return self._dense(self._levels(given), self.map.bias, **how)
        return super().__call__(given, **how)

    def compute(self, levels: Tensor) -> Tensor:
        """What the kernel of a map that rounds its product gives, and its bias."""
        one = self.map
        if self.sparse:
            given = torch._make_per_tensor_quantized_tensor(levels, *one.reads)
            values = torch.ops.sparse.qlinear(given, self.packed, *one.writes).dequantize()
        else:
            values = (self._dense(levels, None, one.writes).float() - one.writes.zero) * one.writes.scale
        return values if one.bias is None else values.add_(one.bias)

    def _dense(
        self, levels: Tensor, bias: Tensor | None, onto: Grid | None = None, gelu: bool = False, dtype=torch.float32
    ) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            levels, *self.reads, self.packed, self.map.scale, self.zeros, bias,
            *(onto or Grid(1.0, 0)), torch.uint8 if onto else dtype,
            "gelu" if gelu else "none", [], "none" if gelu else "",
        )  # fmt: skip


def _joined(products: Sequence[InFloat]) -> list[InFloat]:
    """One product in place of several that read the same levels and write float; else they stay as they are."""
    maps = [one.map for one in products if isinstance(one, Product)]
    if len(maps) < len(products) or any(one.writes or one.bias is None or one.reads != maps[0].reads for one in maps):
        return list(products)
    weight, scale, bias = (torch.cat([getattr(one, name) for one in maps]) for name in ("weight", "scale", "bias"))
    return [Product(Map(weight, scale, bias, maps[0].reads, None), sparse=False)]


def _product(one: Map, kernel: str, worth: float) -> Product:
    blocks = one.writes is not None and one.weight.shape[1] % BLOCK[1] == 0
    if kernel == "sparse" and not blocks:
        raise ValueError("the sparse kernel takes graphs of the qoperator format, in rows of whole blocks of 4")
    return Product(one, kernel == "sparse" or (kernel == "auto" and blocks and zero_blocks(one.weight) > worth))


def _skeleton(path: Path, graph: onnx.GraphProto) -> PreTrainedModel:
    """The architecture with all that is float in the graph: embeddings, norms, classifier, maps that were left out."""
    model = disk.skeleton(next((up for up in path.parents if (up / "config.json").is_file()), path.parent))
    if hasattr(model.config, adapters.WIDTH):
        raise ValueError("this runtime computes no adapters")
    act = getattr(model.config, "hidden_act", None) or model.config.activation
    if act != "gelu":
        raise ValueError(f"this runtime computes GELU, and the model wants {act}")
    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    for name in [name for name in arrays if name.endswith("word_embeddings.weight_quantized")]:
        stem = name.removesuffix("_quantized")
        zero = arrays.get(f"{stem}_zero_point", torch.zeros(()))  # a symmetric one has none
        arrays[stem] = (arrays[name].float() - zero.float()) * arrays[f"{stem}_scale"]
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            name = "classifier" if "classifier" in node.name else node.name
            arrays[f"{name}.weight"] = arrays[node.input[1]].T
    # The exporter writes equal tensors once, as norms and biases that have learned nothing: those stay as drawn.
    model.load_state_dict({name: arrays.get(name, old) for name, old in model.state_dict().items()})
    return model.eval()


def _encoder(
    model: PreTrainedModel, products: dict[str, Product], dtype: torch.dtype, inside: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor]:
    """Ids and mask [batch, length] → logits, over the products of the model's maps; attention in `dtype`."""
    names, size = {linear: name for name, linear in linears(model).items()}, head_size(model)
    body = []
    for layer in layers(model):
        maps = Parts(*(products.get(names[linear]) or InFloat(linear) for linear in parts(layer)))
        body.append((_joined(maps[:3]), maps, *_norms(layer)))

    @torch.inference_mode()
    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = model.base_model.embeddings(input_ids=ids)
        batch, length, width = hidden.shape
        seen, hidden = mask.bool()[:, None, None, :], hidden.reshape(-1, width)  # hidden: [subwords, width]
        for joined, maps, after_attention, after_pair in body:
            given = [one(hidden, dtype=inside).to(dtype) for one in joined]  # query, key and value, together or not
            given = given if len(given) == 3 else given[0].chunk(3, dim=1)
            heads = [values.view(batch, length, -1, size).transpose(1, 2) for values in given]
            context = functional.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2)
            context = context.reshape(batch * length, -1).float()
            hidden = after_attention(maps.mix(context).add_(hidden))
            inner = maps.widen(hidden, gelu=True, onto=maps.narrow.reads)
            hidden = after_pair(maps.narrow(inner).add_(hidden))
        return model.classifier(hidden).view(batch, length, -1)

    return forward


def _norms(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The norms of a layer: after attention, and after the feed-forward pair."""
    if hasattr(layer, "sa_layer_norm"):  # DistilBERT
        return layer.sa_layer_norm, layer.output_layer_norm
    return layer.attention.output.LayerNorm, layer.output.LayerNorm
