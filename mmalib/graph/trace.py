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
from onnx import helper, numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmalib.model.backbones import linears

INPUTS = ("input_ids", "attention_mask")
OPSET = 14
STAND_IN = "mmalib::Linear"  # of a linear map, while the exporter is at work
MASKED = -10000.0  # exp of it is exactly 0 in float32, and it does not become infinite in bf16


def trace(model: PreTrainedModel, path: Path) -> tuple[int, int]:
    """Write the graph of a model with eager attention; zeros and number of the weights of the encoder's linear maps."""
    maps = linears(model)
    for name, linear in maps.items():  # an instance's own forward hides its class's
        linear.forward = lambda given, linear=linear, name=name: _Map.apply(given, linear.bias, name, linear)
    try:
        _write(model, path)
    finally:
        for linear in maps.values():
            del linear.forward
    return _fill({name: linear.weight.detach() for name, linear in maps.items()}, path)


def matmuls(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The MatMuls of the encoder's linear maps in an exported float graph, by the names of their modules."""
    weights = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return {node.name: node for node in products if node.input[1] == f"{node.name}.weight"}


class _Map(torch.autograd.Function):
    """A linear map as one node that has its name and bias but no weight.

    The exporter folds, merges (query and key become one where both are pruned away) and copies weights, which takes
    most of its time; it never sees those of the encoder.
    """

    @staticmethod
    def forward(ctx, given: Tensor, bias: Tensor, name: str, linear: nn.Linear) -> Tensor:
        """What the map computes."""
        return nn.functional.linear(given, linear.weight, bias)

    @staticmethod
    def symbolic(graph, given, bias, name: str, linear: nn.Linear):
        """The node."""
        output, kind = graph.op(STAND_IN, given, bias, name_s=name), given.type()
        return output.setType(kind.with_sizes([*kind.varyingSizes()[:-1], len(linear.weight)]))


def _write(model: PreTrainedModel, path: Path) -> None:
    typed = hasattr(model.base_model.embeddings, "token_type_embeddings")

    def simpler(_: nn.Module, given: tuple[Tensor, ...], __: dict) -> tuple[tuple, dict]:
        ids, mask = given[:2]  # the exporter adds a None for every other argument
        arguments = {"input_ids": ids, "attention_mask": (1.0 - mask[:, None, None, :].float()) * MASKED}
        return (), {**arguments, "token_type_ids": torch.zeros_like(ids)} if typed else arguments

    example = torch.ones(2, 8, dtype=torch.long)
    with model.register_forward_pre_hook(simpler, with_kwargs=True), warnings.catch_warnings():
        # The old exporter says that there is a new one, and that tracing fixes what does not depend on the input.
        warnings.simplefilter("ignore")
        axes = {name: {0: "batch", 1: "length"} for name in (*INPUTS, "logits")}
        names = {"input_names": list(INPUTS), "output_names": ["logits"], "dynamic_axes": axes}
        how = {"opset_version": OPSET, "dynamo": False, "autograd_inlining": False}  # or it looks into `_Map`
        torch.onnx.export(model, (example, example), path, **names, **how)


def _fill(weights: dict[str, Tensor], path: Path) -> tuple[int, int]:
    """Put MatMul and Add in place of the stand-ins, with the weights; their zeros and their number."""
    proto = onnx.load(path)
    domain, _, kind = STAND_IN.partition("::")
    nodes = []
    for node in proto.graph.node:
        if (node.domain, node.op_type) != (domain, kind):
            nodes.append(node)
            continue
        name = node.attribute[0].s.decode()
        weight = np.ascontiguousarray(weights[name].T.numpy())
        proto.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.weight"))
        product = f"{name}.product"
        nodes.append(helper.make_node("MatMul", [node.input[0], f"{name}.weight"], [product], name))
        nodes.append(helper.make_node("Add", [node.input[1], product], list(node.output), f"{name}.add"))
    del proto.graph.node[:], proto.opset_import[:]
    proto.graph.node.extend(nodes)
    proto.opset_import.append(helper.make_opsetid("", OPSET))
    onnx.save(proto, path)
    return sum(int((w == 0).sum()) for w in weights.values()), sum(w.numel() for w in weights.values())
