"""The three backbones from a 4-bit file and plain text.

prepare (which pieces stay, the text as their ids) → e5 (the file's encoder with those pieces) → e5-half and e5-narrow
(students of e5, resumable) → ship (packed, in `mmalib/weights`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import BertModel, PreTrainedTokenizerFast

from mmalib.data import text
from mmalib.model import packed
from mmalib.pretrain import cut, read, shrink
from mmalib.pretrain.train import train
from mmalib.prune import layers, vocabulary
from mmalib.records.machine import WEIGHTS

LONGEST = 126  # subwords of a training line; with the special tokens 128
POSITIONS = 512
SMALL_SHARE = 0.31  # of the rows, for all languages together that are there for their vocabulary alone
SHARES = {"en": 0.25, "es": 0.22, "nl": 0.22}  # of the rows, for the languages that the study scores throughout
TOKENS = 2048  # subwords in a batch
KEPT = (1, 3, 5, 7, 9, 11)  # e5's layers that a student begins with
NEURONS = 384  # of e5-narrow's feed-forward pairs, which have 1536 in e5
HELD_OUT = 1000  # lines of each language, on which the cut is judged


class Prepared(NamedTuple):
    """What every stage after the text is read works with."""

    tokenizer: PreTrainedTokenizerFast  # the cut one
    kept: list[int]  # the pieces' numbers in the full vocabulary
    material: text.Material
    coverage: list[dict]  # what the cut costs each language, on lines that no choice was made from
    facts: dict  # how much went in and how many evaluation sentences it was checked against, for the card


def prepare(
    text_folder: Path, tokenizer_file: Path, *, pieces: int = 50_000, secret: Iterable[list[str]] = ()
) -> Prepared:
    """The cut vocabulary and the text in it; lines that hold one of the `secret` evaluation sentences are left out."""
    every, secret, full = text.read_text(text_folder), list(secret), full_tokenizer(tokenizer_file)
    lines = {language: text.clean(of_language, secret) for language, of_language in every.items()}
    left_out = sum(len({*every[language]} - {*lines[language]}) for language in lines)
    held_out = {language: of_language[-HELD_OUT:] for language, of_language in lines.items()}
    lines = {language: of_language[:-HELD_OUT] for language, of_language in lines.items()}
    kept = cut.choose(cut.usage(full.backend_tokenizer, lines), full, pieces)
    tokenizer = vocabulary.smaller_tokenizer(full, kept)
    tokens = {name: text.tokenize(tokenizer.backend_tokenizer, lines[name], longest=LONGEST) for name in lines}
    small = [language for language in tokens if language not in SHARES]
    return Prepared(
        tokenizer,
        kept,
        text.Material(tokens, {name: SHARES.get(name, SMALL_SHARE / max(1, len(small))) for name in tokens}),
        cut.coverage(full.backend_tokenizer, tokenizer.backend_tokenizer, held_out).to_dict("records"),
        {
            "lines": {language: len(of_language) for language, of_language in lines.items()},
            "tokens": {language: sum(map(len, sequences)) for language, sequences in tokens.items()},
            "checked_against": len(secret),
            "left_out": left_out,
        },
    )


def full_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the whole vocabulary, from its `tokenizer.json`."""
    bos, pad, eos, unk = text.SPECIAL
    names = {"bos_token": bos, "cls_token": bos, "eos_token": eos, "sep_token": eos, "pad_token": pad, "unk_token": unk}
    names["mask_token"] = "<mask>"
    return PreTrainedTokenizerFast(tokenizer_file=str(file), model_max_length=POSITIONS, **names)


def student(
    name: str, teacher: BertModel, prepared: Prepared, work: Path, *, steps: int
) -> tuple[BertModel, list[dict]]:
    """A student and its loss curve: `e5-half`, or `e5-narrow` with the busiest quarter of the neurons as well.

    A run found below `work` goes on, or is taken as it is where it is complete.
    """

    def batch(step: int, seed: int = 0) -> torch.Tensor:
        return text.draw(prepared.material, step, seed=seed, tokens=TOKENS)

    model = layers.without(teacher, KEPT)
    if name == "e5-narrow":
        shrink.narrow_(model, [batch(step, seed=7) for step in range(16)], NEURONS)
    shrink.ready_(model)
    about = {"pieces": len(prepared.kept), "text_tokens": prepared.facts["tokens"], "batch_tokens": TOKENS}
    about |= {"kept": list(KEPT), "neurons": model.config.intermediate_size}
    log = train(model, batch, work / name, steps=steps, loss=shrink.hidden_loss(teacher, KEPT), about=about)
    return model.eval(), log


def ship(
    tokenizer: PreTrainedTokenizerFast, file: read.File, students: Mapping[str, BertModel], weights: Path = WEIGHTS
) -> None:
    """Write the backbones as the package carries them: e5 to the bit as in the file, the students in 8 bits."""
    shared = weights / packed.SHARED
    tokenizer.save_pretrained(shared)
    path = shared / "tokenizer.json"  # without its indentation it is half as large
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False), encoding="utf-8")
    path = shared / "tokenizer_config.json"  # the class by the name that all versions of Transformers know
    told = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(told, indent=2) + "\n")
    packed.save(_of(file.tensors, "embeddings."), shared / "embeddings.safetensors")
    stored = {"e5": (file.config, _of(file.tensors, "encoder."))}
    for name, model in students.items():
        state = {key: tensor.float().numpy(force=True) for key, tensor in model.state_dict().items()}
        stored[name] = model.config, packed.pack(_of(state, "encoder."))
    for name, (config, tensors) in stored.items():
        config.architectures = ["BertModel"]
        config.save_pretrained(weights / name)
        packed.save(tensors, weights / name / "layers.safetensors")
    packed.write_sums(weights)


def _of(tensors: Mapping, part: str) -> dict:
    """The tensors of one part of an encoder; embeddings are e5's in all backbones."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(part)}
