"""The teacher's term: a student learns the label distribution of a larger model, word by word (Hinton et al. 2015).

The loss of one word, with its gold label y, student logits s and teacher logits t:

    (1 - hardness) * CE(y, softmax(s))  +  hardness * T² * KL(softmax(t / T) || softmax(s / T))

Hardness 0 is plain fine-tuning and 1 the teacher alone, as in SparseML and *The Optimal BERT Surgeon*; T² keeps the
size of the gradients where the temperature T changes (Hinton et al., section 2). The mean runs over words. (SparseML's
runs over every position, padding too.) A word without a gold label has the teacher's term alone, at weight 1: hardness
says how two sources share a word, and here there is one. So every word weighs the same, labelled or not.

Teacher and student may cut words in different ways: what one says about the first subword of a word is laid on the
other's first subword of the same word. Labels are matched by name. In use:

    ask = distill.cached(teacher, its_tokenizer, sentences, max_length=128, folder=folder)
    lesson = distill.lesson(student, tokenizer, sentences, tags, ask, max_length=128, hardness=0.5, temperature=2.0)
    finetune(student, tokenizer, lesson.rows, dev, loss=lesson.loss, ...)
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import subwords
from mmalib.data.corpus import LABELS
from mmalib.data.subwords import IGNORED, run_of, training_rows, windows

Ask = Callable[[Sequence[list[str]]], list[np.ndarray]]  # sentences -> what the teacher says of each: [words, labels]


class Lesson(NamedTuple):
    """What `finetune` trains a student on: its `train` and its `loss`."""

    rows: list[dict]
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor]


def word_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[list[str]], *, max_length: int
) -> list[np.ndarray]:
    """The logits of every word of every sentence, one array [words, labels] each, labels in the order of `LABELS`."""
    columns = _columns(model)
    said = [rows[:, columns] for rows in subwords.word_logits(run_of(model), tokenizer, sentences, max_length)]
    if not all(np.isfinite(of_sentence).all() for of_sentence in said):
        raise ValueError("The teacher's logits are not all finite numbers. Its training has diverged: tune it anew.")
    return said


def cached(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    *,
    max_length: int,
    folder: Path | None = None,
) -> Ask:
    """Ask the teacher once for all `sentences`, and remember: 36 bytes a word, 7 MB for the English training set.

    With a `folder` the answers lie there too (36 bytes a word, one file for each teacher and text), for the next start
    or the next student. The file's name is a hash of the teacher and of the subwords it reads, so nothing grows stale.
    """
    path = folder and Path(folder) / f"teacher-{_key(teacher, tokenizer, sentences, max_length)}.safetensors"
    said = _stored(path) if path else None  # [words of all sentences, labels]
    if said is None:
        said = np.concatenate(word_logits(teacher, tokenizer, sentences, max_length=max_length))
        if path:
            _store(path, said)
    ends = np.cumsum([len(words) for words in sentences])
    known = dict(zip(map(tuple, sentences), np.split(said, ends[:-1]), strict=True))

    def ask(some: Sequence[list[str]]) -> list[np.ndarray]:
        try:
            return [known[tuple(words)] for words in some]
        except KeyError as error:
            raise ValueError(
                f"The teacher was not asked about the sentence '{' '.join(error.args[0])}'. "
                "Give `cached` all the sentences that the student trains on."
            ) from error

    return ask


def lesson(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    tags: Sequence[list[str] | None],
    ask: Ask,
    *,
    max_length: int,
    hardness: float,
    temperature: float,
) -> Lesson:
    """The rows and the loss for a student: `tags` are the gold ones of each sentence, None where there are none."""
    if not 0 <= hardness <= 1:
        raise ValueError(f"The hardness is {hardness}: it must lie between 0 (gold labels) and 1 (teacher).")
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}: it must be above 0; 1 leaves the teacher as it is.")
    if len(sentences) != len(tags):
        raise ValueError(f"There are {len(sentences)} sentences and {len(tags)} lists of tags. Give None for no tags.")
    sentences, tags = list(sentences), list(tags)  # a column of a data set is slow to reach into
    order = np.argsort(_columns(student))  # from the order of LABELS to the student's
    found = windows(sentences, tokenizer, max_length)
    any_tags = [["O"] * len(words) if gold is None else gold for words, gold in zip(sentences, tags, strict=True)]
    rows = training_rows(sentences, any_tags, tokenizer, student.config.label2id, max_length)
    for number, (row, window) in enumerate(zip(rows, found, strict=True)):
        row["window"] = number
        if tags[window.sentence] is None:
            row["labels"] = [IGNORED] * len(row["labels"])

    def of_batch(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        some = [found[number] for number in batch["window"].tolist()]
        targets = torch.full(logits.shape, torch.nan)  # [windows, positions, labels]
        for row, window, said in zip(targets, some, ask([sentences[w.sentence] for w in some]), strict=True):
            places, words = np.array(window.scored).T
            row[places] = torch.from_numpy(said[words][:, order])
        return loss(logits, targets.to(logits.device), batch["labels"], hardness=hardness, temperature=temperature)

    return Lesson(rows, of_batch)


def loss(logits: Tensor, targets: Tensor, gold: Tensor, *, hardness: float, temperature: float) -> Tensor:
    """The mean loss of the words in a batch; the teacher's logits are nan where no word is scored."""
    # logits, targets: [windows, positions, labels]; gold: [windows, positions], -100 where there is no gold label
    words = ~targets.isnan().any(-1)
    student, teacher, gold = logits[words].float(), targets[words].float(), gold[words]  # [words, labels] and [words]
    task = functional.cross_entropy(student, gold, ignore_index=IGNORED, reduction="none")  # 0 without a gold label
    student, teacher = (functional.log_softmax(of / temperature, dim=-1) for of in (student, teacher))
    taught = temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    share = torch.where(gold == IGNORED, 1.0, hardness)  # the teacher's share of each word
    return ((1 - share) * task + share * taught).mean()


def _columns(model: PreTrainedModel) -> list[int]:
    """The numbers that a model has for the study's labels, in the order of `LABELS`."""
    numbers = {label: number for number, label in model.config.id2label.items()}
    if set(numbers) != set(LABELS):
        raise ValueError(
            f"A model has the labels {', '.join(sorted(numbers))}; teacher and student need {', '.join(LABELS)}. "
            "Tune it on this study's corpora first."
        )
    return [numbers[label] for label in LABELS]


def _key(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[list[str]], max_length: int
) -> str:
    """What decides the teacher's answers: its config, its weights, and the windows of subwords that it reads."""
    seen = hashlib.sha256(teacher.config.to_json_string().encode())
    for name, weights in teacher.state_dict().items():
        seen.update(name.encode())
        seen.update(weights.cpu().reshape(-1).view(torch.uint8).numpy())
    for window in windows(sentences, tokenizer, max_length):
        seen.update(repr(window).encode())
    return seen.hexdigest()[:16]


def _stored(path: Path) -> np.ndarray | None:
    try:
        return load_file(path)["logits"]
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}). Delete it: the teacher is then asked again.") from error


def _store(path: Path, said: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({"logits": np.ascontiguousarray(said)}, temporary)  # it writes the bytes as they lie in memory
    os.replace(temporary, path)
