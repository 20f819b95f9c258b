"""A task from a folder of tsv files with a header, as GLUE has them: one sentence or two, and a label from a list.

    task, data = tsv.load("SST-2")                 # train.tsv, dev.tsv and, where it has labels, test.tsv
    task, data = tsv.load("MRPC", texts=("sentence1", "sentence2"))
    rows = task.rows(task.encode(data["en"]["train"], tokenizer, 128), model.config.label2id)
    finetune(load_model(backbone, labels=task.labels), rows, task.dev(data["en"]["dev"], tokenizer, 128), recipe, ...)

Scores are accuracy, the F1 of the last label (as MRPC and QQP have it) and Matthews' correlation (as CoLA has it).
"""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from mmalib.data import subwords as sub
from mmalib.model.task import Task, sentences

Example = tuple[tuple[str, ...], str]  # texts, label


def load(
    folder: str | Path, texts: Sequence[str] = ("sentence",), label: str = "label", measured: str = "accuracy"
) -> tuple[Task, dict[str, dict[str, list[Example]]]]:
    """The task of a folder and its data, language → split → examples; `texts` and `label` name columns."""
    data = {split: read(Path(folder) / f"{split}.tsv", texts, label) for split in ("train", "dev")}
    test = Path(folder) / "test.tsv"
    data["test"] = read(test, texts, label) if test.is_file() and label in _table(test) else data["dev"]
    labels = tuple(sorted({given for _, given in data["train"]}))
    if unknown := sorted({given for split in data.values() for _, given in split} - set(labels)):
        raise ValueError(f"{folder}: the label '{unknown[0]}' of dev or test is not in train.tsv. Repair the files.")
    return Task(Path(folder).name, labels, _encode, partial(_score, labels), measured=measured), {"en": data}


def read(path: Path, texts: Sequence[str], label: str) -> list[Example]:
    """The examples of one file."""
    if not path.is_file():
        raise ValueError(f"There is no {path}. A task's folder holds train.tsv and dev.tsv.")
    table = _table(path)
    if missing := [name for name in (*texts, label) if name not in table]:
        raise ValueError(f"{path} has no column '{missing[0]}'; it has {', '.join(table)}.")
    if table.empty:
        raise ValueError(f"{path} has no line beside its header. Copy it again.")
    return [(row[:-1], row[-1]) for row in table[[*texts, label]].itertuples(index=False, name=None)]


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)


def _encode(split: list[Example], tokenizer: PreTrainedTokenizerFast, max_length: int) -> sub.Encoded:
    return sentences([texts for texts, _ in split], [label for _, label in split], tokenizer, max_length)


def _score(labels: tuple[str, ...], text: sub.Encoded, logits: list[np.ndarray]) -> dict:
    gold = np.array([labels.index(label) for (label,) in text.tags])
    counts = np.zeros((len(labels), len(labels)))  # [gold, predicted]
    np.add.at(counts, (gold, [int(rows[0].argmax()) for rows in logits]), 1)
    right, of_gold, of_guess, number = counts.trace(), counts.sum(1), counts.sum(0), len(gold)
    norm = np.sqrt((number**2 - (of_gold**2).sum()) * (number**2 - (of_guess**2).sum()))
    return {
        "accuracy": float(right / number),
        "f1": float(2 * counts[-1, -1] / max(of_gold[-1] + of_guess[-1], 1)),
        "matthews": float((right * number - of_gold @ of_guess) / norm) if norm else 0.0,
        "examples": number,
    }
