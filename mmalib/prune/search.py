"""Heads and neurons to keep for a speed that is asked for, without training (Kwon et al. 2022, A Fast Post-Training
Pruning Framework for Transformers: the mask search of their section 4.1).

The importance of a unit is the diagonal of the Fisher information of a gate of value 1 on its output, the sum over
rows of the squared gradient of the row's loss; of all masks that are cheap enough, that of the highest sum stays. What
is cheap is measured where the model will be served, as in ZipLM (Kurtic, Frantar and Alistarh 2023), and not counted
in operations: the time of a model is `rest + heads * head + neurons * neuron`, from the dense model, one with half of
its heads, and one with half of its neurons. As long as the speed found is not the one asked for, the limit is moved;
of all looks the nearest stays. Of the paper's three steps this is the first; masks are neither rearranged nor tuned.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmalib.prune.gates import parts_of, remove_
from mmalib.prune.heads import gate_gradients

ROUNDS, NEAR = 8, 0.05  # looks at the speed, and how close it must come to end the search before
TRIES = 3  # to measure what heads and neurons cost


def importance(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[Tensor]:
    """The Fisher information of every unit's gate, part by part as in `gates.parts_of`."""
    gates = [(part.linear, torch.ones(part.number, device=model.device)) for part in parts_of(model)]
    sums = [torch.zeros(len(ones), dtype=torch.float64) for _, ones in gates]
    for batch in batches:
        for total, gradient in zip(sums, gate_gradients(model, batch, gates), strict=True):
            total += gradient.double().cpu().square().sum(0)
    return sums


def choose(worth: Sequence[Tensor], head: float, neuron: float, limit: float) -> list[Tensor]:
    """The units to keep, bool, part by part: of the highest worth in all, at a cost of no more than `limit`."""
    kinds = [torch.cat(list(worth[kind::2])) for kind in (0, 1)]
    orders = [values.argsort(descending=True, stable=True) for values in kinds]
    none = torch.zeros(1).double()
    sums = [torch.cat([none, v[order].double().cumsum(0)]) for v, order in zip(kinds, orders, strict=True)]
    heads = torch.arange(len(sums[0]))
    room = ((limit - heads * head) / neuron).floor().clamp(max=len(kinds[1])).long()  # neurons beside so many heads
    total = torch.where(room < 0, -torch.inf, sums[0] + sums[1][room.clamp(min=0)])
    best = int(total.argmax())
    numbers, kept = (best, int(room[best].clamp(min=0))), []
    for kind, number in enumerate(numbers):
        stays = torch.zeros(len(kinds[kind]), dtype=torch.bool)
        stays[orders[kind][:number]] = True
        kept.append(stays.split([len(values) for values in worth[kind::2]]))
    return [kept[place % 2][place // 2] for place in range(len(worth))]


def search_(
    model: PreTrainedModel, worth: Sequence[Tensor], times: float, measured: Callable[[PreTrainedModel], float]
) -> dict:
    """Make a model `times` as fast, in place; `measured` tells how many times as fast a candidate is.

    What it returns tells the speed asked for and measured, and the costs as shares of the dense model's time.
    """
    each = parts_of(model)
    heads, neurons = (sum(part.number for part in each[kind::2]) for kind in (0, 1))
    halves = [
        [torch.arange(part.number) >= (part.number // 2 if place % 2 == kind else 0) for place, part in enumerate(each)]
        for kind in (0, 1)
    ]
    gone = [sum(int((~kept).sum()) for kept in halves[kind]) for kind in (0, 1)]
    for _ in range(TRIES):  # another process may have had its moment meanwhile
        saved = [1 - 1 / measured(_without(model, kept)) for kept in halves]
        if min(saved) > 0:
            break
    else:
        raise ValueError("Fewer heads or neurons do not make this model faster here, as measured. Time longer.")
    head, neuron = (share / max(number, 1) for share, number in zip(saved, gone, strict=True))
    rest = 1 - heads * head - neurons * neuron
    limit, looks = 1 / times - rest, []
    for _ in range(ROUNDS):
        if limit <= 0:
            raise ValueError(
                f"{times:g} times as fast cannot be reached: what is left without heads and neurons takes {rest:.0%} "
                "of the time. Ask for less."
            )
        kept = choose(worth, head, neuron, limit)
        looks.append((measured(_without(model, kept)), kept))
        if abs(looks[-1][0] / times - 1) <= NEAR:
            break
        limit += 1 / times - 1 / looks[-1][0]
    nearest, kept = min(looks, key=lambda look: abs(look[0] / times - 1))
    remove_(model, kept)
    costs = {"head": head, "neuron": neuron, "rest": rest}
    return {"requested": times, "measured": nearest, "looks": [speed for speed, _ in looks], **costs}


def _without(model: PreTrainedModel, kept: Sequence[Tensor]) -> PreTrainedModel:
    smaller = copy.deepcopy(model)
    remove_(smaller, kept)
    return smaller
