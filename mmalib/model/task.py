"""What a model is tuned for: its data, its rows, its head, its loss and its score. Entities are the study's own task.

A sentence task is a word task in which the one word that is scored is the first special token: so every model is the
same kind of model, and all that trains, prunes, exports or times it need not know its task. Similarity is that of
Tai, Socher and Manning 2015 (Improved Semantic Representations From Tree-Structured LSTMs, section 4.2): the head
gives the chances of the grades 0 to 5, a gold score of 3.8 is 0.2 of a 3 and 0.8 of a 4, and the score is the mean
grade. A further task is one more module like `tsv`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmalib.data import LABELS
from mmalib.data import subwords as sub
from mmalib.model import distill
from mmalib.model.evaluate import entity_scores

GRADES = tuple("012345")
DRAWS = 1000


@dataclass(frozen=True)
class Task:
    """Plain functions around a head; a split of data is whatever `encode` understands."""

    name: str
    labels: tuple[str, ...]  # of the head
    encode: Callable[..., sub.Encoded]  # (split, tokenizer, max_length) → text with its gold labels
    score: Callable[[sub.Encoded, list[np.ndarray]], dict]  # (gold, logits of its words) → a split's scores
    rows: Callable[..., list[dict]] = sub.training_rows  # (text, label2id) → rows for training
    loss: Callable[[Tensor, dict], Tensor] | None = None  # None: the model's own, cross-entropy over `labels`
    measured: str = "f1"  # the score that everything is told by

    def dev(self, *given) -> sub.Encoded:
        """A split, encoded so that checkpoints are chosen on it."""
        text = self.encode(*given)
        return replace(text, measure=lambda logits: self.score(text, logits)[self.measured])

    def scores(self, run: sub.Run, data: dict, tokenizer: PreTrainedTokenizerFast, max_length: int) -> dict:
        """Scores of whatever computes logits on dev and test of every language."""

        def of(split) -> dict:
            text = self.encode(split, tokenizer, max_length)
            return self.score(text, sub.word_logits(run, text))

        return {name: {split: of(splits[split]) for split in ("dev", "test")} for name, splits in data.items()}


def sentences(
    texts: Sequence[Sequence[str]], labels: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> sub.Encoded:
    """Single sentences or pairs, one label each, as words of one label: what is scored stands at the first place."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first")
    inputs = [text[0] if len(text) == 1 else tuple(text) for text in texts]
    windows = [sub.Window(n, one.ids, [(0, 0)], 1) for n, one in enumerate(backend.encode_batch(inputs))]
    backend.no_truncation()
    return sub.Encoded([[" ".join(text)] for text in texts], [[label] for label in labels], windows, tokenizer)


def grades(logits: list[np.ndarray]) -> np.ndarray:
    """The mean grade of every pair from the logits of `GRADES`."""
    each = np.exp([rows[0] - rows[0].max() for rows in logits])  # [pairs, grades]
    return each @ np.arange(len(GRADES)) / each.sum(axis=1)


def correlations(gold: np.ndarray, predicted: np.ndarray) -> dict:
    """Pearson and Spearman with 95% intervals over pairs, and the values behind them; 0 where nothing varies."""
    gold, predicted = (np.round(np.asarray(values, dtype=float), 3) for values in (gold, predicted))
    size, made = len(gold), {"pairs": len(gold)}
    drawn = np.vstack([np.arange(size), np.random.default_rng(0).integers(size, size=(DRAWS, size))])  # all, then draws
    for name, of in (("pearson", np.asarray), ("spearman", lambda rows: pd.DataFrame(rows).rank(axis=1).to_numpy())):
        one, other = (rows - rows.mean(axis=1, keepdims=True) for rows in (of(gold[drawn]), of(predicted[drawn])))
        norms = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        values = np.where(norms > 1e-9, (one * other).sum(axis=1) / np.maximum(norms, 1e-9), 0.0).tolist()
        low, high = np.percentile(values[1:], [2.5, 97.5]).tolist()
        made |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return made | {"values": {"gold": gold.tolist(), "predicted": predicted.tolist()}}


def _graded(split, tokenizer: PreTrainedTokenizerFast, max_length: int) -> sub.Encoded:
    return sentences([pair[:2] for pair in split], [str(pair[2]) for pair in split], tokenizer, max_length)


def _graded_rows(text: sub.Encoded, label2id: dict[str, int]) -> list[dict]:
    """Rows whose `labels` are the nearest grade, for what needs one, and whose `answers` are the gold distribution."""
    gold = [float(label) for (label,) in text.tags]
    rows = sub.training_rows(replace(text, tags=[[str(round(value))] for value in gold]), label2id)
    for row, value in zip(rows, gold, strict=True):
        shares = np.maximum(0, 1 - np.abs(np.arange(len(GRADES)) - value))
        row["answers"] = np.full((len(row["input_ids"]), len(GRADES)), np.nan, np.float32)
        row["answers"][0] = np.log(shares + 1e-9)
    return rows


def _similar(text: sub.Encoded, logits: list[np.ndarray]) -> dict:
    return correlations(np.array([float(label) for (label,) in text.tags]), grades(logits))


def _entities(text: sub.Encoded, logits: list[np.ndarray]) -> dict:
    return entity_scores(text.tags, sub.tags(logits, LABELS))


ENTITIES = Task("entities", tuple(LABELS), sub.encode_split, _entities)
OF_GRADES = {"rows": _graded_rows, "loss": distill.loss(hardness=1.0, temperature=1.0), "measured": "pearson"}
SIMILARITY = Task("similarity", GRADES, _graded, _similar, **OF_GRADES)
TASKS = {task.name: task for task in (ENTITIES, SIMILARITY)}
