"""The table of word embeddings of a graph in blocks of 32 values under one scale, looked up by plain operators.

A shipped backbone's table came from 4 bits a value (`model.packed`), and tuning on English leaves the rows of subwords
that English lacks as they were: there a value still is its block's scale times a whole number from -8 to 7, and is
written as that, exactly. All other rows have 8 bits. Every number lies in a byte, so that any runtime can look it up;
those of 4 bits take half of one when the file is compressed.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmalib.model.packed import BLOCK

PREFIX = "word_embeddings"
EXACT = 5e-3  # of a block's largest value: the scale's own rounding, and what weight decay has shrunk it by


def in_blocks(path: Path, target: Path) -> bool:
    """Write the graph with its table in blocks; False, and as it was, if that is no table of float values."""
    proto = onnx.load(path)
    graph = proto.graph
    tables = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    place, lookup = next(
        ((place, node) for place, node in enumerate(graph.node) if _looks_up(node, tables)), (None, None)
    )
    if lookup is not None:
        tensor = tables[lookup.input[0]]
        values, scales = rounded(numpy_helper.to_array(tensor))
        graph.initializer.remove(tensor)
        graph.node.remove(lookup)
        for number, node in enumerate(_nodes(graph, lookup, values, scales)):
            graph.node.insert(place + number, node)
    onnx.save(proto, target)
    return lookup is not None


def rounded(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table [rows, width] as whole numbers (int8), and the scales of their blocks (float16, [rows, blocks])."""
    blocks = table.astype(np.float32).reshape(len(table), -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)  # [rows, blocks, 1], with its sign
    few, steps = _numbers(blocks, largest / -8, 7)
    many, small = _numbers(blocks, np.abs(largest) / 127, 127)
    exact = (np.abs(few * steps - blocks) <= EXACT * np.abs(largest)).all(axis=(1, 2), keepdims=True)
    scales = np.where(exact, steps, small)[..., 0]
    return np.where(exact, few, many).astype(np.int8).reshape(table.shape), scales.astype(np.float16)


def _numbers(blocks: np.ndarray, steps: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    steps = steps.astype(np.float16).astype(np.float32)  # as they are stored
    numbers = np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps != 0)
    return np.clip(np.rint(numbers), -most - 1, most), steps


def _looks_up(node: onnx.NodeProto, tables: dict) -> bool:
    return node.op_type == "Gather" and node.input[0] in tables and "word_embed" in node.input[0]


def _nodes(graph: onnx.GraphProto, lookup: onnx.NodeProto, values: np.ndarray, scales: np.ndarray) -> list:
    """What stands for a lookup of a row: its numbers times its scales."""
    width, ids, output = values.shape[1], lookup.input[1], lookup.output[0]
    constants = {"values": values, "scales": scales, "last": np.array([-1])}
    constants |= {"blocks": np.array([0, 0, width // BLOCK, BLOCK]), "row": np.array([0, 0, width])}
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{PREFIX}.{name}"))
    steps = (
        ("Gather", ["values", ids], "numbers", {}),
        ("Cast", ["numbers"], "floats", {"to": TensorProto.FLOAT}),
        ("Reshape", ["floats", "blocks"], "by_block", {}),
        ("Gather", ["scales", ids], "halves", {}),
        ("Cast", ["halves"], "steps", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["steps", "last"], "step", {}),
        ("Mul", ["by_block", "step"], "scaled", {}),
        ("Reshape", ["scaled", "row"], output, {}),
    )
    own = {name: f"{PREFIX}.{name}" for name in (*constants, *(step[2] for step in steps[:-1]))}
    return [
        helper.make_node(
            kind, [own.get(name, name) for name in inputs], [own.get(made, made)], f"{PREFIX}.{made}", **how
        )
        for kind, inputs, made, how in steps
    ]
