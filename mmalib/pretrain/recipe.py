"""The three small backbones from raw text, stage by stage, each stage kept on disk and done once.

prepare (vocabulary, tokens, lexicons) → mini (transplant, masked and translation LM) → mini-distil and mini-narrow
(students of mini) → ship (fp16 safetensors and the tokenizer in `mmalib/weights`).
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertForMaskedLM

from mmalib import results
from mmalib.backbones import WEIGHTS
from mmalib.pretrain import batches, distil, text, transplant
from mmalib.pretrain.train import train

LONGEST = 126  # subwords of a training line; with the special tokens 128
POSITIONS = 256


@dataclass(frozen=True)
class Prepared:
    """What every stage after the text is read works with."""

    tokenizer: Tokenizer
    material: batches.Material
    held_out: dict[str, text.Tokens]  # lines no model is trained on
    counts: dict[str, np.ndarray]  # how often each language uses each subword
    lexicons: dict[tuple[str, str], np.ndarray]
    facts: dict  # how much went in and how many evaluation sentences it was checked against, for the card


def prepare(
    text_folder: Path,
    parallel_folder: Path,
    work: Path,
    *,
    vocabulary: int = 10_000,
    held_out: int = 1_000,
    secret: Iterable[list[str]] = (),
) -> Prepared:
    """Vocabulary, token arrays and lexicons; lines that hold one of the `secret` evaluation sentences are left out."""
    work.mkdir(parents=True, exist_ok=True)
    sources = [p for folder in (text_folder, parallel_folder) for p in sorted(Path(folder).iterdir())]
    _same_as_before(
        work / "prepared.json",
        {"vocabulary": vocabulary, "held_out": held_out, "sources": {p.name: p.stat().st_size for p in sources}},
    )
    lines, aligned = text.read_text(text_folder), text.read_pairs(parallel_folder)
    secret = list(secret)
    holds = set(text.leaked(_everything(lines, aligned), secret))
    lines = {language: [line for line in of_language if line not in holds] for language, of_language in lines.items()}
    aligned = [text.Pairs(p.first, p.second, [pair for pair in p.lines if holds.isdisjoint(pair)]) for p in aligned]
    path = work / "tokenizer.json"
    if not path.exists():
        text.train_vocabulary(lines, size=vocabulary).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    tokens = {
        language: _kept(work / f"tokens-{language}.npz", tokenizer, of_language[:-held_out])
        for language, of_language in lines.items()
    }
    lexicons = _lexicons(work / "lexicons.npz", tokenizer, aligned)
    size = tokenizer.get_vocab_size()
    material = batches.Material(
        [tokenizer.id_to_token(i) for i in range(size)],
        tokens,
        [tuple(text.tokenize(tokenizer, list(side)) for side in zip(*p.lines, strict=True)) for p in aligned],
        {
            a: [transplant.best_translation(lexicons[a, b], size, sure=0.5) for b in lines if (a, b) in lexicons]
            for a in lines
        },
    )
    return Prepared(
        tokenizer,
        material,
        {
            language: text.tokenize(tokenizer, of_language[-held_out:], longest=LONGEST)
            for language, of_language in lines.items()
        },
        {language: transplant.usage(t, size) for language, t in tokens.items()},
        lexicons,
        {
            "lines": {language: len(of_language) for language, of_language in lines.items()},
            "tokens": {language: len(t.flat) for language, t in tokens.items()},
            "aligned": sum(len(pairs.lines) for pairs in aligned),
            "checked_against": len(secret),
            "left_out": len(holds),
        },
    )


def _everything(lines: dict[str, list[str]], aligned: list[text.Pairs]) -> Iterator[str]:
    for of_language in lines.values():
        yield from of_language
    for pairs in aligned:
        for pair in pairs.lines:
            yield from pair


def _same_as_before(path: Path, made_from: dict) -> None:
    """What lies in the work folder must have been made from the same text with the same settings."""
    if path.exists() and (before := json.loads(path.read_text())) != made_from:
        changes = ", ".join(key for key in made_from if made_from[key] != before.get(key))
        raise ValueError(f"{path.parent} was prepared with other settings ({changes}). Use another work folder.")
    results.write_atomic(path, json.dumps(made_from))


def _kept(path: Path, tokenizer: Tokenizer, lines: list[str]) -> text.Tokens:
    """Token arrays from disk, or made and kept."""
    if not path.exists():
        tokens = text.tokenize(tokenizer, lines, longest=LONGEST)
        _save(path, flat=tokens.flat, offsets=tokens.offsets)
    stored = np.load(path)
    return text.Tokens(stored["flat"], stored["offsets"])


def _lexicons(path: Path, tokenizer: Tokenizer, aligned: list[text.Pairs]) -> dict[tuple[str, str], np.ndarray]:
    """Translation matrices from disk, or learnt and kept."""
    if not path.exists():
        learnt = transplant.learn_lexicons(tokenizer, aligned)
        _save(path, **{f"{a}-{b}": matrix for (a, b), matrix in learnt.items()})
    stored = np.load(path)
    return {tuple(name.split("-")): stored[name] for name in stored}


def _save(path: Path, **arrays: np.ndarray) -> None:
    fresh = path.with_name(f"new-{path.name}")
    np.savez(fresh, **arrays)
    fresh.replace(path)


def mini(
    prepared: Prepared, encoder: Path, work: Path, *, minutes: float, tokens: int = 4096, device: str = "cpu"
) -> BertForMaskedLM:
    """`mini`: the layers of an English encoder, the new vocabulary, trained on all the text."""
    torch.manual_seed(0)
    start = transplant.transplant(encoder, prepared.tokenizer, prepared.counts, prepared.lexicons, positions=POSITIONS)
    return _trained(start.to(device), prepared, work / "mini", minutes=minutes, tokens=tokens, learning_rate=5e-4)


def mini_distil(
    prepared: Prepared, teacher: BertForMaskedLM, work: Path, *, minutes: float, tokens: int = 4096
) -> BertForMaskedLM:
    """`mini-distil`: half the layers of mini."""
    student = distil.half_depth(teacher).to(teacher.device)
    loss = distil.depth_loss(teacher)
    return _trained(student, prepared, work / "mini-distil", minutes=minutes, tokens=tokens, loss=loss)


def mini_narrow(
    prepared: Prepared, teacher: BertForMaskedLM, work: Path, *, minutes: float, tokens: int = 4096
) -> BertForMaskedLM:
    """`mini-narrow`: half the width of mini."""
    drawn = (batches.draw(prepared.material, step, seed=7, tokens=tokens) for step in range(8))
    some = [{name: tensor.to(teacher.device) for name, tensor in batch.items()} for batch in drawn]
    student = distil.half_width(teacher, some).to(teacher.device)
    loss = distil.width_loss(teacher)
    return _trained(
        student, prepared, work / "mini-narrow", minutes=minutes, tokens=tokens, loss=loss, learning_rate=1e-3
    )


def _trained(
    model: BertForMaskedLM, prepared: Prepared, folder: Path, *, minutes: float, tokens: int, **training
) -> BertForMaskedLM:
    """The trained model, from disk where the stage is done; its loss curve is left beside it."""
    finished = folder / "log.json"
    if not finished.exists():
        log = train(
            model,
            lambda step: batches.draw(prepared.material, step, seed=0, tokens=tokens),
            folder,
            minutes=minutes,
            about={"batch_tokens": tokens, "text_tokens": prepared.facts["tokens"]},
            **training,
        )
        model.save_pretrained(folder / "model")
        results.write_atomic(finished, json.dumps(log))
        shutil.rmtree(folder / "checkpoint")
    return BertForMaskedLM.from_pretrained(folder / "model").to(model.device)


def ship(model: BertForMaskedLM, tokenizer: Tokenizer, name: str, folder: Path = WEIGHTS) -> Path:
    """Write one backbone as the package carries it: half precision, with its tokenizer; returns its folder."""
    config = model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1  # for whoever fine-tunes it
    target = folder / name
    copy = BertForMaskedLM(config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(target)
    # Half precision is for the disk: whoever loads the folder without a word on it gets float32.
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")
    text.as_bert(tokenizer, POSITIONS).save_pretrained(target)
    AutoTokenizer.from_pretrained(target)  # what is shipped must load
    return target
