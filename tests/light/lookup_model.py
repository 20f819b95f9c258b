"""A model that is one table, written byte by byte: its logits are the row of each subword, whatever stands beside it.

So every answer can be worked out by hand. Its tokenizer is the real one of the shipped backbones.
"""

import json
import shutil
from pathlib import Path

import numpy as np

import mmalib

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
VOCABULARY = Path(mmalib.__file__).parent / "weights" / "vocabulary"


def _number(value: int) -> bytes:
    """A whole number as protobuf writes it."""
    more = value >> 7
    return bytes([value & 127 | 128 * (more > 0)]) + (_number(more) if more else b"")


def _field(place: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _number(place << 3) + _number(value)
    raw = value.encode() if isinstance(value, str) else value
    return _number(place << 3 | 2) + _number(len(raw)) + raw


def _named(name: str, kind: int, axes: tuple[str, ...]) -> bytes:
    shape = b"".join(_field(1, _field(2, axis)) for axis in axes)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def lookup_graph(table: np.ndarray) -> bytes:
    """The ONNX file of logits = table[input_ids], as onnx.proto lays it out."""
    node = _field(1, "table") + _field(1, "input_ids") + _field(2, "logits") + _field(4, "Gather")
    tensor = b"".join(_field(1, size) for size in table.shape) + _field(2, 1) + _field(8, "table")
    tensor += _field(9, table.astype("<f4").tobytes())
    graph = _field(1, node) + _field(2, "lookup") + _field(5, tensor)
    graph += b"".join(_field(11, _named(name, 7, ("batch", "length"))) for name in ("input_ids", "attention_mask"))
    graph += _field(12, _named("logits", 1, ("batch", "length", "labels")))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 14))


def write_model(folder: Path, table: np.ndarray) -> Path:
    """A folder as Optimum lays it out."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model_quantized.onnx").write_bytes(lookup_graph(table))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(VOCABULARY / name, folder)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    return folder
