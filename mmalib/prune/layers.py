"""Fewer layers: which of a model's layers stay, and the model without the others.

A model that has lost layers is an ordinary one: its config says how many there are, nothing else changes. Which layers
stay (numbers from 0):

    evenly   every second, every fourth and so on, the last one among them, as in DistilBERT and e5-half
    top      those next to the head
    bottom   those next to the embedding
    loss     those without which, each alone, the loss on labelled sentences is highest
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmalib.data.subwords import IGNORED
from mmalib.model import disk
from mmalib.model.backbones import evaluating, layers
from mmalib.profiles import CHOICES


def choose(depth: int, number: int, choice: str, losses: Sequence[float] = ()) -> list[int]:
    """The `number` of `depth` layers that stay; `losses` are what `losses_without` each layer gives."""
    if not 1 <= number <= depth:
        raise ValueError(f"A model of {depth} layers cannot keep {number}. Choose a number from 1 to {depth}.")
    if choice not in CHOICES:
        raise ValueError(f"Layers are not chosen by '{choice}'. Choose one of: {', '.join(CHOICES)}.")
    if choice == "evenly":
        return [int((place + 1) * depth / number) - 1 for place in range(number)]
    if choice == "loss":
        return sorted(sorted(range(depth), key=lambda layer: -losses[layer])[:number])
    return list(range(depth - number, depth) if choice == "top" else range(number))


def without(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A copy of the model with these layers alone."""
    smaller = copy.deepcopy(model)
    disk.keep_layers_(smaller, kept)
    return smaller


@torch.inference_mode()
def losses_without(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> list[float]:
    """The mean loss of a word on these batches without each layer alone."""
    depth, means = len(layers(model)), []
    for left_out in range(depth):
        smaller, total, words = without(model, [number for number in range(depth) if number != left_out]), 0.0, 0
        with evaluating(smaller):
            for batch in batches:
                scored = int((batch["labels"] != IGNORED).sum())
                loss = smaller(**{name: values.to(model.device) for name, values in batch.items()}).loss
                total, words = total + scored * float(loss) if scored else total, words + scored
        means.append(total / max(words, 1))
    return means
