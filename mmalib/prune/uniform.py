"""Uniform structured pruning: every layer keeps equally many heads and feed-forward neurons.

This is the scheme of TextPruner (Yang, Cui and Chen 2022), in its iterative and even form: both numbers
shrink in the same proportion, step by step, and importance is measured anew before each step.

Importance is first-order Taylor (Molchanov et al. 2017), summed over a unit's weights as TextPruner's code does it.
For one batch with loss L:

    head:    |sum of w * dL/dw over its columns of `mix`|
    neuron:  |sum of w * dL/dw over its row and bias of `widen`| + |the same over its column of `narrow`|

and the mean of that over batches. The first term and the last are the derivatives of L by a gate on the unit's
output, the middle one that by a gate before the activation function. The absolute value is taken once a batch, by
Michel et al. (`heads`) once an example. Padding has no gradient and unscored words no loss: neither enters.
Scores stand in the order of what is left; what goes is named by its place then (neurons) or its first number (heads).
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmalib.data.subwords import IGNORED
from mmalib.model import disk
from mmalib.model.backbones import evaluating, head_size, layers, parts
from mmalib.prune.heads import going, remove_heads_


def plan(heads: int, width: int, share: float = 1 / 12) -> list[tuple[int, int]]:
    """Heads and neurons that a layer keeps after every step, which takes `share` of the heads, down to one head."""
    if not 0 < share < 1:
        raise ValueError(f"A step cannot take {share} of the heads: give a share between 0 and 1.")
    gone = (math.floor(step * share * heads + 0.5 + 1e-9) for step in range(1, math.ceil(1 / share) + 1))
    kept = dict.fromkeys(max(1, heads - number) for number in gone)  # a small share may take none at a step
    return [(number, max(1, math.floor(width * number / heads + 0.5))) for number in kept if number < heads]


def importance(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """First-order Taylor importance of the heads left and of the neurons left, layer by layer.

    Gradients, mode and frozen weights of the model stay as they were. Batches without a scored word do not count.
    """
    weights = [
        w for p in map(parts, layers(model)) for w in (p.mix.weight, p.widen.weight, p.widen.bias, p.narrow.weight)
    ]
    with evaluating(model, weights):
        scores = [_of_batch(model, batch, weights) for batch in batches if (batch["labels"] != IGNORED).any()]
    if not scores:
        raise ValueError("There is no scored subword to measure importance on. Give batches of labelled sentences.")
    means = [sum(of) / len(of) for of in zip(*scores, strict=True)]
    return means[0::2], means[1::2]


@torch.enable_grad()
def _of_batch(model: PreTrainedModel, batch: Mapping[str, Tensor], weights: list[Tensor]) -> list[Tensor]:
    """The scores of one batch, layer by layer: heads [heads left], neurons [width], and so on in turns."""
    loss = model(**{name: values.to(model.device) for name, values in batch.items()}).loss
    if not loss.isfinite():
        raise ValueError("The loss is not finite: the model has probably diverged. Tune it again.")
    # autograd.grad and not backward: what the caller may have gathered in .grad stays
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)  # 0 for parts that are empty
    taylor = [weight.detach() * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    scores = []
    for mix, widen, bias, narrow in zip(*(taylor[i::4] for i in range(4)), strict=True):
        scores.append(mix.sum(0).unflatten(0, (-1, head_size(model))).sum(1).abs())  # mix: [hidden, heads * size]
        # widen: [width, hidden], bias: [width], narrow: [hidden, width]
        scores.append((widen.sum(1) + bias).abs() + narrow.sum(0).abs())
    return scores


def shrink_(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], heads: int, neurons: int
) -> dict[int, list[int]]:
    """Remove the least important heads and neurons, down to as many in every layer; returns the heads removed."""
    of_heads, of_neurons = importance(model, batches)
    gone = {
        layer: sorted(numbers[place] for place in _lowest(of_heads[layer], len(numbers) - heads))
        for layer, numbers in enumerate(disk.heads_left(model))
        if len(numbers) > heads
    }
    remove_heads_(model, gone)
    narrower = {n: _lowest(own, len(own) - neurons) for n, own in enumerate(of_neurons) if len(own) > neurons}
    remove_neurons_(model, narrower)
    return gone


def _lowest(scores: Tensor, number: int) -> list[int]:
    """The places of the lowest scores; of equal ones the first."""
    return scores.argsort(stable=True)[:number].tolist()


def remove_neurons_(model: PreTrainedModel, neurons: Mapping[int, Iterable[int]], *, last: bool = False) -> None:
    """Remove feed-forward neurons, given by their current places in each layer; a layer's `last` one only if told."""
    widths = disk.neurons_left(model)
    for layer, places in going("neuron", neurons, [range(width) for width in widths], last=last).items():
        own = parts(layers(model)[layer])
        kept = torch.tensor([i for i in range(widths[layer]) if i not in places], dtype=torch.long)
        disk.keep_([own.widen], own.narrow, kept)
    disk.record_pruning_(model)
