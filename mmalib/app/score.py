"""The `score` command: a model on CoNLL files of one's own, with intervals and by type."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mmalib.data.corpus import read_conll
from mmalib.model.evaluate import TYPES, counted, resampled
from mmalib.records import machine
from mmalib.records.counts import GOLD, PREDICTED, RIGHT
from mmalib.reports import tables
from mmalib.use.ner import NER


def run(model: str, files: Sequence[Path], pairs: Sequence[str]) -> int:
    """Print a table for every file."""
    renamed, left_out = renaming(pairs)
    texts = {path: read_conll(path, (2, 3, 4), renamed) for path in files}  # all, before a model is loaded
    ner = NER.load(model)
    for path, sentences in texts.items():
        gold = [tags for _, tags in sentences]
        predicted = [[renamed(tag) for tag in tags] for tags in ner.tags([words for words, _ in sentences])]
        print(f"{path}: {len(sentences):,} sentences, {sum(map(len, gold)):,} words\n")
        print(tables.markdown(table(gold, predicted)))
    print(f"By {model} in {ner.runtime}, {machine.cpu()}: int8 rounds otherwise in another runtime or CPU.")
    if left_out:
        names = ", ".join(f"{kind} ({number:,} words)" for kind, number in left_out.most_common())
        print(f"Left out, since the model does not know them (--map gives them other names): {names}")
    return 0


def renaming(pairs: Sequence[str]):
    """What tags are called, by pairs such as "MISC=O"; and a count of those that then have an unknown type."""
    others, left_out = {}, Counter()
    for pair in pairs:
        old, _, others[old] = pair.partition("=")
        if not old or others[old] not in (*TYPES, "O"):
            raise ValueError(f"--map {pair} is no renaming. Give a type, = and one of: {', '.join(TYPES)}, O.")

    def renamed(tag: str) -> str:
        place, dash, kind = tag.partition("-")
        if place not in ("B", "I") or not dash:
            return tag
        kind = others.get(kind, kind)
        if kind not in (*TYPES, "O"):
            left_out[kind] += 1
        return f"{place}-{kind}" if kind in TYPES else "O"

    return renamed, left_out


def table(gold: list[list[str]], predicted_tags: list[list[str]]) -> pd.DataFrame:
    """Precision, recall and F1 with 95% intervals over sentences: of all entities, and of every type there is."""
    by_type = counted(gold, predicted_tags)
    drawn = np.concatenate([by_type.sum(axis=0)[None], resampled(by_type, 1000, 0)])  # [1 + draws, types, 3]
    drawn = np.concatenate([drawn.sum(axis=1, keepdims=True), drawn], axis=1)  # all types in front
    right, predicted, there = (drawn[..., what] for what in (RIGHT, PREDICTED, GOLD))
    frame = pd.DataFrame({"type": ["all", *TYPES], "entities": there[0], "predicted": predicted[0]})
    shares = {"precision": (right, predicted), "recall": (right, there), "F1": (2 * right, predicted + there)}
    for name, (part, whole) in shares.items():
        values = part / np.maximum(whole, 1)
        low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
        frame[name] = [f"{value:.3f} ({a:.3f} to {b:.3f})" for value, a, b in zip(values[0], low, high, strict=True)]
    return frame[frame["entities"] + frame["predicted"] > 0]
