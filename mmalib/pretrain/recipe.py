"""The three backbones from a 4-bit file and plain text, stage by stage, each stage kept on disk and done once.

prepare (which pieces stay, the text as their ids) → e5 (the file's encoder with those pieces) → e5-half and e5-narrow
(students of e5) → ship (packed, in `mmalib/weights`).
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerFast

from mmalib.model import packed
from mmalib.model.packed import CONFIG, SHARED
from mmalib.pretrain import batches, cut, read, shrink, text
from mmalib.pretrain.train import train
from mmalib.prune import layers, vocabulary
from mmalib.records import store
from mmalib.records.machine import WEIGHTS

LONGEST = 126  # subwords of a training line; with the special tokens 128
POSITIONS = 512
SMALL_SHARE = 0.31  # of the rows, for all languages together that are there for their vocabulary alone
SHARES = {"en": 0.25, "es": 0.22, "nl": 0.22}  # of the rows, for the languages that the study scores throughout
TOKENS = 2048  # subwords in a batch
KEPT = (1, 3, 5, 7, 9, 11)  # e5's layers that a student begins with
NEURONS = 384  # of e5-narrow's feed-forward pairs, which have 1536 in e5
# Entries of a tokenizer's config that tell of how it was loaded.
HERE_ONLY = ("is_local", "local_files_only", "backend")
WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Prepared:
    """What every stage after the text is read works with."""

    tokenizer: PreTrainedTokenizerFast  # the cut one
    kept: list[int]  # the pieces' numbers in the full vocabulary
    material: batches.Material
    coverage: list[dict]  # what the cut costs each language, on lines that no choice was made from
    facts: dict  # how much went in and how many evaluation sentences it was checked against, for the card


def prepare(
    text_folder: Path,
    tokenizer_file: Path,
    work: Path,
    *,
    pieces: int = 50_000,
    held_out: int = 1_000,
    secret: Iterable[list[str]] = (),
) -> Prepared:
    """The cut vocabulary and the text in it; lines that hold one of the `secret` evaluation sentences are left out."""
    work.mkdir(parents=True, exist_ok=True)
    sources = [*sorted(Path(text_folder).iterdir()), Path(tokenizer_file)]
    secret = list(secret)
    made_from = {"pieces": pieces, "held_out": held_out, "sources": {p.name: p.stat().st_size for p in sources}}
    made_from["secret"] = hashlib.sha256(json.dumps(secret).encode()).hexdigest()
    prepared = work / "prepared.json"  # what lies in the folder must have been made from the same
    if prepared.exists() and (before := json.loads(prepared.read_text())) != made_from:
        changes = ", ".join(key for key in made_from if made_from[key] != before.get(key))
        raise ValueError(f"{work} was prepared with other settings ({changes}). Use another work folder.")
    store.write_atomic(prepared, json.dumps(made_from))
    lines = text.read_text(text_folder)
    leaks = {language: set(text.leaked(of_language, secret)) for language, of_language in lines.items()}
    lines = {language: [line for line in lines[language] if line not in leaks[language]] for language in lines}
    rest = {language: of_language[-held_out:] for language, of_language in lines.items()}
    lines = {language: of_language[:-held_out] for language, of_language in lines.items()}
    full = full_tokenizer(tokenizer_file)
    chosen = work / "kept.json"  # what was chosen before stays
    if not chosen.exists():
        store.write_atomic(chosen, json.dumps(cut.choose(cut.usage(full.backend_tokenizer, lines), full, pieces)))
    kept = json.loads(chosen.read_text())
    tokenizer = vocabulary.smaller_tokenizer(full, kept)
    tokens = {name: _kept_tokens(work / f"tokens-{name}.npz", tokenizer, lines[name]) for name in lines}
    small = [language for language in tokens if language not in SHARES]
    return Prepared(
        tokenizer,
        kept,
        batches.Material(tokens, {name: SHARES.get(name, SMALL_SHARE / max(1, len(small))) for name in tokens}),
        cut.coverage(full.backend_tokenizer, tokenizer.backend_tokenizer, rest).to_dict("records"),
        {
            "lines": {language: len(of_language) for language, of_language in lines.items()},
            "tokens": {language: len(t.flat) for language, t in tokens.items()},
            "checked_against": len(secret),
            "left_out": sum(map(len, leaks.values())),
        },
    )


def full_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the whole vocabulary, from its `tokenizer.json`."""
    bos, pad, eos, unk = text.SPECIAL
    names = {"bos_token": bos, "cls_token": bos, "eos_token": eos, "sep_token": eos, "pad_token": pad, "unk_token": unk}
    names["mask_token"] = "<mask>"
    return PreTrainedTokenizerFast(tokenizer_file=str(file), model_max_length=POSITIONS, **names)


def with_vocabulary(file: read.File, kept: list[int]) -> read.File:
    """The encoder of a 4-bit file with these rows of its word embedding alone."""
    rows = {f"{WORDS}.{part}": file.tensors[f"{WORDS}.{part}"][kept] for part in ("scales", "halves")}
    config = type(file.config)(**{**file.config.to_dict(), "vocab_size": len(kept)})
    return read.File(config, {**file.tensors, **rows})


def e5_half(teacher: BertModel, prepared: Prepared, work: Path, *, steps: int) -> BertModel:
    """`e5-half`: every second layer of e5."""
    return _taught(layers.without(teacher, KEPT), teacher, prepared, work / "e5-half", steps)


def e5_narrow(teacher: BertModel, prepared: Prepared, work: Path, *, steps: int) -> BertModel:
    """`e5-narrow`: the same layers, with the busiest quarter of their feed-forward neurons."""
    student = layers.without(teacher, KEPT)
    shrink.narrow_(student, [_batch(prepared, step, seed=7) for step in range(16)], NEURONS)
    return _taught(student, teacher, prepared, work / "e5-narrow", steps)


def _batch(prepared: Prepared, step: int, *, seed: int = 0) -> torch.Tensor:
    return batches.draw(prepared.material, step, seed=seed, tokens=TOKENS)


def _taught(student: BertModel, teacher: BertModel, prepared: Prepared, folder: Path, steps: int) -> BertModel:
    """The trained student, from disk where the stage is done; its loss curve is left beside it."""
    finished = folder / "log.json"
    about = {"text_tokens": prepared.facts["tokens"], "batch_tokens": TOKENS}
    about |= {"kept": list(KEPT), "neurons": student.config.intermediate_size}
    if finished.exists():
        before = json.loads(finished.read_text())
        if before["about"] != about or steps != before["log"][-1]["step"]:
            raise ValueError(f"{folder} holds a student that was made otherwise. Use another work folder.")
    else:
        shrink.ready_(student)
        loss = shrink.hidden_loss(teacher, KEPT)
        log = train(student, lambda step: _batch(prepared, step), folder, steps=steps, loss=loss, about=about)
        student.save_pretrained(folder / "model")
        store.write_atomic(finished, json.dumps({"about": about, "log": log}))
        shutil.rmtree(folder / "checkpoint")
    return BertModel.from_pretrained(folder / "model", add_pooling_layer=False).to(teacher.device)


def log_of(work: Path, name: str) -> list[dict]:
    """The loss curve that the training of a student has left."""
    return json.loads((work / name / "log.json").read_text())["log"]


def ship_vocabulary(tokenizer: PreTrainedTokenizerFast, file: read.File, weights: Path = WEIGHTS) -> None:
    """Write what all backbones share: the tokenizer and e5's embeddings."""
    folder = weights / SHARED
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"  # without its indentation it is half as large
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"  # the class by the name that all versions of Transformers know
    told = {key: value for key, value in json.loads(path.read_text()).items() if key not in HERE_ONLY}
    path.write_text(json.dumps({**told, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")
    embeddings = {name: tensor for name, tensor in file.tensors.items() if name.startswith("embeddings.")}
    packed.save(embeddings, folder / "embeddings.safetensors")
    AutoTokenizer.from_pretrained(folder)  # what is shipped must load


def ship(name: str, config: dict, layers: Mapping[str, np.ndarray], weights: Path = WEIGHTS) -> Path:
    """Write one backbone as the package carries it, and all hashes anew; `layers` as `packed` stores them."""
    folder = weights / name
    folder.mkdir(parents=True, exist_ok=True)
    packed.save(layers, folder / "layers.safetensors")
    told = {key: config[key] for key in SHAPE if key in config}
    told |= {"architectures": ["BertModel"], "dtype": "float32", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / CONFIG).write_text(json.dumps(dict(sorted(told.items())), indent=2) + "\n")
    packed.write_sums(weights)
    return folder


SHAPE = (
    *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "initializer_range"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "bos_token_id", "pad_token_id", "eos_token_id"),
)


def packed_layers(model: BertModel) -> dict[str, np.ndarray]:
    """The layers of a student as they are stored; its embeddings are e5's."""
    state = {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return packed.pack({name: tensor for name, tensor in state.items() if name.startswith("encoder.")})


def file_layers(file: read.File) -> dict[str, np.ndarray]:
    """The layers of a 4-bit file, to the bit as they are there."""
    return {name: tensor for name, tensor in file.tensors.items() if name.startswith("encoder.")}


def _kept_tokens(path: Path, tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> text.Tokens:
    """Token arrays from disk, or made and kept."""
    if not path.exists():
        tokens = text.tokenize(tokenizer.backend_tokenizer, lines, longest=LONGEST)
        fresh = path.with_name(f"new-{path.name}")
        np.savez(fresh, flat=tokens.flat, offsets=tokens.offsets)
        fresh.replace(path)
    stored = np.load(path)
    return text.Tokens(stored["flat"], stored["offsets"])
