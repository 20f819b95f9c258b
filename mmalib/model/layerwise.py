"""A student of every second layer, taught layer by layer (CoFi: Xia, Zhong and Chen 2022, section 3.3).

    hidden * mean over the teacher's layers 3, 6, 9, ... of MSE(student's layer that stands for it, teacher's layer)
    + (1 - hidden) * T² * KL(teacher's labels || student's labels)

Which layer of the student stands for one of the teacher is asked anew in every step: from the top down, the nearest of
those below the one that was taken last. Padding, unscored words and gold labels take no part; CoFi learns a map too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmalib.data.subwords import IGNORED
from mmalib.model import disk, distill
from mmalib.model.backbones import hooked, layers

EVERY = 3  # of the teacher's layers, each third is matched


def every_second_(model: PreTrainedModel) -> None:
    """Leave the layers 1, 3, 5, ... (from 0)."""
    if len(layers(model)) < 2:
        raise ValueError("A model of one layer has no student of every second layer.")
    disk.keep_layers_(model, range(1, len(layers(model)), 2))


def alignment(distances: Tensor) -> list[int]:
    """For every layer of the teacher the student's that stands for it, from [teacher's layers, student's layers]."""
    chosen, below = [], distances.shape[1]
    for row in distances.flip(0):
        below = int(row[: max(below, 1)].argmin())  # where none is left below, the last one stands for several
        chosen.append(below)
    return chosen[::-1]


@contextmanager
def loss(
    student: PreTrainedModel, teacher: PreTrainedModel, *, hidden: float, temperature: float
) -> Iterator[Callable[[Tensor, dict], Tensor]]:
    """The loss of a batch from the student's logits, as `finetune` takes it; it watches the student's layers inside."""
    if student.config.hidden_size != teacher.config.hidden_size:
        raise ValueError(
            f"The student is {student.config.hidden_size} wide and the teacher {teacher.config.hidden_size}: their "
            "layers cannot be compared. Take a student of the teacher's own layers."
        )
    teacher.eval().requires_grad_(False)
    ours, theirs, handles = {}, {}, []
    for states, model in ((ours, student), (theirs, teacher)):
        for number, layer in enumerate(layers(model)):
            handles.append(layer.register_forward_hook(partial(_keep, states, number)))
    wanted = list(range(EVERY - 1, len(layers(teacher)), EVERY)) or [len(layers(teacher)) - 1]

    def taught(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            answers = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        real = batch["attention_mask"].bool()
        own = [ours[number][real].float() for number in sorted(ours)]  # [subwords, width] each
        distances = torch.stack(
            [torch.stack([(theirs[number][real].float() - one).square().mean() for one in own]) for number in wanted]
        )
        apart = torch.stack([distances[pair] for pair in enumerate(alignment(distances.detach()))]).mean()
        answers = answers.masked_fill((batch["labels"] == IGNORED)[..., None], torch.nan)
        told = distill.of_words(logits, answers, batch["labels"], hardness=1.0, temperature=temperature)
        return hidden * apart + (1 - hidden) * told

    with hooked(handles):
        yield taught


def _keep(states: dict[int, Tensor], number: int, _: nn.Module, __: tuple, out) -> None:
    states[number] = out[0] if isinstance(out, tuple) else out
