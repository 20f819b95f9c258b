"""The shipped backbones, small in git: weights in blocks of 4 or 8 bits, unpacked once into a cache folder.

    weights/vocabulary/   what all backbones share: tokenizer, embeddings
    weights/NAME/         a backbone's config and layers
    weights/SHA256SUMS    the hash of every one of these files, as `sha256sum -c` reads them

A matrix W [out, in] is stored as `W.scales` [out, in / 32] (float16) and either `W.halves` [out, in / 2] (uint8: in
each block of 32 the low half of byte j is value j, the high half value j + 16, and 8 stands for zero) or `W.bytes`
[out, in] (int8); a value is its scale times that number. All other tensors are stored as they are.
"""

import functools
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mmalib.model import cache
from mmalib.records.machine import WEIGHTS

BLOCK = 32  # values under one scale
SHARED, CONFIG = "vocabulary", "config.json"


def unpacked(name: str, weights: Path = WEIGHTS) -> Path:
    """The folder of a shipped backbone as Transformers loads it, in float32; made at the first call."""

    def fill(fresh: Path, files: Iterable[str]) -> None:
        tensors: dict[str, np.ndarray] = {}
        for path in map(Path, files):
            if path.suffix == ".safetensors":
                tensors |= unpack(load_file(weights / path))
            else:
                shutil.copyfile(weights / path, fresh / path.name)
        try:
            save(tensors, fresh / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:  # a full disk may come as this
            raise OSError(str(error)) from error

    return cache.unpacked(name, weights, fill, SHARED)


def fingerprint(name: str) -> str | None:
    """Tells one set of weights from another under the same name: by stored hashes if shipped, else by the file.

    None for the hub's, which are named by their id.
    """
    if not (Path(name).name == name and (WEIGHTS / name / CONFIG).is_file()):
        file = Path(name) / "model.safetensors"
        return _of_file(file, file.stat().st_mtime_ns) if file.is_file() else None
    return cache.fingerprint(cache.sums(WEIGHTS, name, SHARED))


@functools.cache  # a plan asks for each of its runs, and all weights are read
def _of_file(file: Path, _changed: int) -> str:
    return cache.hash_of(file)[:12]


def whole_numbers(stored: np.ndarray) -> np.ndarray:
    """Whole numbers from -8 to 7 that are stored two a byte: [out, in / 2] to [out, in]."""
    blocks = stored.reshape(len(stored), -1, BLOCK // 2)
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1).reshape(len(stored), -1).astype(np.int8) - 8


def rounded(matrix: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [out, in] as whole numbers of 4 or 8 bits, and the scales of their blocks."""
    blocks = matrix.astype(np.float32).reshape(len(matrix), -1, BLOCK)
    most = 2 ** (bits - 1) - 1
    scales = (np.abs(blocks).max(axis=-1) / most).astype(np.float16)
    steps = np.maximum(scales.astype(np.float32), np.finfo(np.float16).smallest_subnormal)[..., None]
    return np.clip(np.rint(blocks / steps), -most - 1, most).astype(np.int8).reshape(matrix.shape), scales


def scaled(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The matrix [out, in] in float32 that whole numbers and the scales of their blocks stand for."""
    return (values.reshape(*scales.shape, BLOCK) * scales.astype(np.float32)[..., None]).reshape(values.shape)


def pack(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors as they are stored: matrices in blocks of 8 bits a value, all others in float16."""
    packed = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.shape[1] % BLOCK:
            packed[name] = tensor.astype(np.float16)
        else:
            packed[f"{name}.bytes"], packed[f"{name}.scales"] = rounded(tensor, 8)
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors in float32 that `pack` stored, or a 4-bit file."""
    tensors = {}
    for key, stored in packed.items():
        name, _, kind = key.rpartition(".")
        if kind in ("halves", "bytes"):
            values = whole_numbers(stored) if kind == "halves" else stored
            tensors[name] = scaled(values, packed[f"{name}.scales"])
        elif kind != "scales":
            tensors[key] = stored.astype(np.float32)
    return tensors


def save(tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors that everybody may read."""
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(0o644)  # safetensors lets nobody but the owner


def write_sums(weights: Path = WEIGHTS) -> None:
    """Write the hash of every file of the weights anew; what is only told of them does not count."""
    parts = ("layers.safetensors", "embeddings.safetensors", CONFIG, "tokenizer.json", "tokenizer_config.json")
    cache.write_sums(weights, [path for path in weights.glob("*/*") if path.name in parts])
