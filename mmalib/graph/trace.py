"""A model's computation as an ONNX graph whose linear maps go by the names of their modules.

Opset 14 and the TorchScript exporter are what all three runtimes read; eager attention is plain MatMul and Softmax.
The mask is made additive here, in five nodes: Transformers' own way from two dimensions to four takes about 100 nodes.

Every linear map of the encoder's layers is a MatMul node with the name X of its module and the initializer `X.weight`
(transposed). `quantize` and `ranges` find it so.
"""

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmalib.model.backbones import layers, parts

INPUTS = ("input_ids", "attention_mask")
OPSET = 14
MASKED = -10000.0  # exp of it is exactly 0 in float32, and it does not become infinite in bf16


def trace(model: PreTrainedModel, path: Path) -> tuple[int, int]:
    """Write the graph of a model with eager attention; zeros and number of the weights of the encoder's linear maps."""
    weights = {name: linear.weight.detach().clone() for name, linear in linears(model).items()}
    try:
        # Meanwhile the weights of each map are its number, so that the MatMuls can be told apart in the graph. The
        # exporter also merges what looks equal: with weights of zeros alone (a matrix that is pruned away), query and
        # key would become one.
        for number, linear in enumerate(linears(model).values(), start=1):
            linear.weight.data.fill_(number)
        _write(model, path)
    finally:
        for name, linear in linears(model).items():
            linear.weight.data.copy_(weights[name])
    return _fill(weights, path)


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear maps of the encoder's layers by the names of their modules, in the order in which they run."""
    names = {module: name for name, module in model.named_modules()}
    return {names[linear]: linear for layer in layers(model) for linear in parts(layer)}


def matmuls(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The MatMuls of the encoder's linear maps in an exported float graph, by the names of their modules."""
    weights = {tensor.name for tensor in graph.initializer}
    return {
        node.name: node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] == f"{node.name}.weight" and node.input[1] in weights
    }


def _write(model: PreTrainedModel, path: Path) -> None:
    typed = hasattr(model.base_model.embeddings, "token_type_embeddings")

    def simpler(_: nn.Module, given: tuple[Tensor, ...], __: dict) -> tuple[tuple, dict]:
        ids, mask = given[:2]  # the exporter adds a None for every other argument
        arguments = {"input_ids": ids, "attention_mask": (1.0 - mask[:, None, None, :].float()) * MASKED}
        return (), {**arguments, "token_type_ids": torch.zeros_like(ids)} if typed else arguments

    hook = model.register_forward_pre_hook(simpler, with_kwargs=True)
    example = torch.ones(2, 8, dtype=torch.long)
    try:
        with warnings.catch_warnings():
            # The old exporter says that there is a new one, and that tracing fixes what does not depend on the input.
            warnings.simplefilter("ignore")
            axes = {name: {0: "batch", 1: "length"} for name in (*INPUTS, "logits")}
            names = {"input_names": list(INPUTS), "output_names": ["logits"], "dynamic_axes": axes}
            torch.onnx.export(model, (example, example), path, **names, opset_version=OPSET, dynamo=False)
    finally:
        hook.remove()


def _fill(weights: dict[str, Tensor], path: Path) -> tuple[int, int]:
    """Name the encoder's MatMuls after their modules and give them their weights; their zeros and their number."""
    proto = onnx.load(path)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    missing = dict(enumerate(weights, start=1))
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            marks = np.unique(numpy_helper.to_array(stored[node.input[1]]))
            if len(marks) == 1 and marks[0] in missing:
                node.name = missing.pop(int(marks[0]))
                node.input[1] = f"{node.name}.weight"
                weight = np.ascontiguousarray(weights[node.name].T.numpy())
                proto.graph.initializer.append(numpy_helper.from_array(weight, node.input[1]))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    onnx.save(proto, path)
    named = set(f"{name}.weight" for name in weights)
    filled = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if tensor.name in named]
    in_graph = sum(int((weight == 0).sum()) for weight in filled), sum(weight.size for weight in filled)
    in_model = sum(int((w == 0).sum()) for w in weights.values()), sum(w.numel() for w in weights.values())
    if in_graph != in_model:
        raise ValueError(f"Zeros and weights of the encoder are {in_graph} in the graph and {in_model} in the model.")
    return in_graph
