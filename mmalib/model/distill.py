"""The teacher's term: a student learns the label distribution of a larger model, word by word (Hinton et al. 2015).

The loss of one word, with its gold label y, student logits s and teacher logits t:

    (1 - hardness) * CE(y, softmax(s))  +  hardness * T² * KL(softmax(t / T) || softmax(s / T))

Hardness 0 is plain fine-tuning and 1 the teacher alone, as in SparseML and *The Optimal BERT Surgeon*; T² keeps the
size of the gradients where the temperature T changes (Hinton et al., section 2). The mean runs over words. (SparseML's
runs over every position, padding too.) A word without a gold label has the teacher's term alone, at weight 1: hardness
says how two sources share a word, and here there is one. So every word weighs the same, labelled or not.

Teacher and student may cut words in different ways: what one says about the first subword of a word is laid on the
other's first subword of the same word. Labels are matched by name. In use:

    answers = distill.answers(teacher, encode(sentences, its_tokenizer, 128), folder)
    rows = training_rows(encode(sentences, tokenizer, 128, tags), student.config.label2id, answers)
    finetune(student, rows, dev, recipe, loss=distill.loss(hardness=0.5, temperature=2.0), ...)
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from mmalib.data import LABELS
from mmalib.data.subwords import IGNORED, Encoded, run_of, word_logits
from mmalib.model import beside


def answers(teacher: PreTrainedModel, text: Encoded, folder: Path | None = None) -> list[np.ndarray]:
    """The logits of every word of every sentence, one array [words, labels] each, labels in the order of `LABELS`.

    With a `folder` they lie there too (36 bytes a word, one file for each teacher and text), for the next start or the
    next student. The file's name is a hash of the teacher and of the subwords it reads, so nothing grows stale.
    """
    columns = _columns(teacher)
    path = folder and Path(folder) / f"teacher_{_key(teacher, text)}.safetensors"
    if path and path.exists():
        return np.split(load_file(path)["logits"], np.cumsum([len(words) for words in text.words])[:-1])
    logits = [rows[:, columns] for rows in word_logits(run_of(teacher), text)]
    if not all(np.isfinite(of_sentence).all() for of_sentence in logits):
        raise ValueError("The teacher's logits are not all finite numbers. Its training has diverged: tune it anew.")
    if path:
        beside.write(path, {"logits": torch.from_numpy(np.concatenate(logits))})
    return logits


def loss(
    *, hardness: float, temperature: float, by_confidence: bool = False
) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    """The loss of a batch whose rows have `answers`, from the student's logits."""
    if not 0 <= hardness <= 1:
        raise ValueError(f"The hardness is {hardness}: it must lie between 0 (gold labels) and 1 (teacher).")
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}: it must be above 0; 1 leaves the teacher as it is.")
    how = {"hardness": hardness, "temperature": temperature, "by_confidence": by_confidence}
    return lambda logits, batch: of_words(logits, batch["answers"], batch["labels"], **how)


def of_words(
    logits: Tensor, targets: Tensor, gold: Tensor, *, hardness: float, temperature: float, by_confidence: bool = False
) -> Tensor:
    """The mean loss of the words in a batch; the teacher's logits are nan where no word is scored.

    With `by_confidence` a word without a gold label has the chance of the teacher's first choice as its weight.
    """
    # logits, targets: [windows, positions, labels]; gold: [windows, positions], -100 where there is no gold label
    words = ~targets.isnan().any(-1)
    student, teacher, gold = logits[words].float(), targets[words].float(), gold[words]  # [words, labels] and [words]
    sure = torch.where(gold == IGNORED, teacher.softmax(-1).amax(-1), 1.0)
    task = functional.cross_entropy(student, gold, ignore_index=IGNORED, reduction="none")  # 0 without a gold label
    student, teacher = (functional.log_softmax(of / temperature, dim=-1) for of in (student, teacher))
    taught = temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    share = torch.where(gold == IGNORED, 1.0, hardness)  # the teacher's share of each word
    each = (1 - share) * task + share * taught
    return (sure * each).sum() / sure.sum() if by_confidence else each.mean()


def _columns(model: PreTrainedModel) -> list[int]:
    """The numbers that a model has for the study's labels, in the order of `LABELS`."""
    numbers = {label: number for number, label in model.config.id2label.items()}
    if set(numbers) != set(LABELS):
        raise ValueError(
            f"A model has the labels {', '.join(sorted(numbers))}; teacher and student need {', '.join(LABELS)}. "
            "Tune it on this study's corpora first."
        )
    return [numbers[label] for label in LABELS]


def _key(teacher: PreTrainedModel, text: Encoded) -> str:
    """What decides the teacher's answers: its config, its weights, and the windows of subwords that it reads."""
    seen = hashlib.sha256(teacher.config.to_json_string().encode())
    for name, weights in teacher.state_dict().items():
        seen.update(name.encode())
        seen.update(weights.cpu().reshape(-1).view(torch.uint8).numpy())
    for window in text.windows:
        seen.update(repr(window).encode())
    return seen.hexdigest()[:16]
