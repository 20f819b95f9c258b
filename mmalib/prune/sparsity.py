"""Masks over the encoder's linear weights: what can be pruned, in which pattern, and which units go.

What can be pruned are the six linear maps of every layer: no embeddings, no LayerNorm, no classifier, no biases.
A criterion (magnitude, `movement`, `obs`) gives every unit a score, and the lowest of the whole model go. A unit is

    "1"     one weight
    "4"     a block of 4 weights side by side in a row, along the input (any other number as well)
    "2:4"   one weight, but at most 2 of every 4 side by side stay in the end (N:M, N are kept)

`gradual` prunes during training; `one_shot_` prunes at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmalib.model.backbones import linears

Scores = dict[str, Tensor]  # one number a unit, larger is kept: [out, in], for blocks [out, in / block]
Masks = dict[str, Tensor]  # bool, [out, in], True is kept; the names are those of `weights`


@dataclass(frozen=True)
class Criterion:
    """How the units are weighed; all three functions get the model and the masks that hold until now."""

    scores: Callable[[PreTrainedModel, str, Masks], Scores]  # (model, pattern, masks), right before a mask update
    # (model, new masks, masks until now): may change weights before those that the new masks drop become 0
    prune_: Callable[[PreTrainedModel, Masks, Masks], None] = lambda *_: None
    # (model, masks, the weights' rate as a share of its highest): before every optimizer step, gradients are there
    observe: Callable[[PreTrainedModel, Masks, float], None] = lambda *_: None
    revives: bool = False  # whether scores speak for pruned weights, so that they may come back
    per_matrix: bool = False  # whether every matrix loses the same share, or the lowest of the whole model go
    state: dict[str, Tensor] = field(default_factory=dict)  # what it remembers; saved with every checkpoint


def weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weights that can be pruned, [out, in] each, by their names in the model; what is empty has none."""
    return {f"{name}.weight": linear.weight for name, linear in linears(model).items() if linear.weight.numel()}


def at_random(seed: int = 0) -> Criterion:
    """The control of all criteria: every unit draws its score."""

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        draw = torch.Generator().manual_seed(seed)  # on the CPU: the same on every machine
        return {
            name: per_block(torch.rand(weight.shape, generator=draw), pattern).to(weight.device)
            for name, weight in weights(model).items()
        }

    return Criterion(scores)


def by_magnitude() -> Criterion:
    """Small weights go (Han et al. 2015; globally and gradually as in Zhu and Gupta 2017); a block weighs their sum."""

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        return {name: per_block(weight.detach().abs(), pattern) for name, weight in weights(model).items()}

    return Criterion(scores)


def block_size(pattern: str) -> int:
    """How many weights leave together."""
    return 1 if ":" in pattern else group_size(pattern)


def group_size(pattern: str) -> int:
    """How many weights of a row the pattern looks at together; the input width must be a multiple of it."""
    kept, _, size = pattern.rpartition(":")
    if not re.fullmatch(r"([1-9]\d*:)?[1-9]\d*", pattern) or int(kept or 0) >= int(size):
        raise ValueError(f"'{pattern}' is no pattern. Use '1', a block such as '4', or N:M such as '2:4' (N are kept).")
    return int(size)


def per_block(values: Tensor, pattern: str) -> Tensor:
    """Numbers of single weights, [out, in], summed over each block of the pattern, [out, in / block]."""
    size = block_size(pattern)
    return values if size == 1 else values.unflatten(1, (-1, size)).sum(2)  # a sum over one is slow


def choose(scores: Scores, sparsity: float, pattern: str = "1", held: Masks | None = None) -> Masks:
    """Masks without the round(sparsity * units) units of the lowest scores over all tensors.

    What `held` has dropped stays dropped. Of equal scores the first goes first. Until an N:M pattern is reached, only
    the M - N lowest of each group may go, so that it is met exactly in the end.
    """
    _check_sparsity(sparsity)
    size = block_size(pattern)
    ordered = []
    for name, values in scores.items():
        gone = None if held is None else ~held[name].unflatten(1, (-1, size)).any(2)
        ends = torch.stack((values if gone is None else values.masked_fill(gone, 0.0)).aminmax())
        if not ends.isfinite().all():
            raise ValueError(f"Scores of {name} are not finite. Training has diverged: try a lower learning rate.")
        values = values if gone is None else values.masked_fill(gone, -torch.inf)
        ordered.append((_only_lowest(values, pattern) if ":" in pattern else values).flatten())
    flat = torch.cat(ordered)  # [units]
    number = round(sparsity * len(flat))
    least, free = (int(torch.count_nonzero(of)) for of in (flat == -torch.inf, flat < torch.inf))
    if not least <= number <= free:
        raise ValueError(
            f"{number} of {len(flat)} units cannot go (sparsity {sparsity}): {least} are gone already, "
            f"and pattern '{pattern}' lets no more than {free} go."
        )
    kept = torch.ones_like(flat, dtype=torch.bool)
    if number:
        last = _smallest(flat, number)  # the highest score that goes
        kept = flat >= last
        ties = (flat == last).nonzero().squeeze(1)
        kept[ties[: number - int(torch.count_nonzero(flat < last))]] = False
    pieces = kept.split([values.numel() for values in scores.values()])
    return {
        name: piece.view(values.shape).repeat_interleave(size, 1)
        for (name, values), piece in zip(scores.items(), pieces, strict=True)
    }


def _smallest(values: Tensor, number: int) -> Tensor:
    """The one that has this number in order; on a CPU numpy is several times faster at it."""
    if values.is_cuda:
        return values.sort().values[number - 1]  # kthvalue keeps a single multiprocessor busy
    return torch.from_numpy(np.partition(values.numpy(), number - 1))[number - 1]


def _only_lowest(values: Tensor, pattern: str) -> Tensor:
    """Infinity for the N highest of every M, so that they never go."""
    kept, size = (int(number) for number in pattern.split(":"))
    groups = values.unflatten(1, (-1, size))  # [out, groups, M]
    lowest = groups.argsort(dim=2, stable=True)[..., : size - kept]
    free = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, lowest, True)
    if (groups.isinf() & ~free).any():
        raise ValueError(f"More weights are gone already than pattern '{pattern}' lets go in a group.")
    return groups.masked_fill(~free, torch.inf).flatten(1)


@torch.no_grad()
def apply_(model: PreTrainedModel, masks: Masks) -> None:
    """Set to exactly 0 what the masks drop."""
    for name, weight in weights(model).items():
        zero_(weight, masks[name])


def zero_(values: Tensor, mask: Tensor) -> None:
    """Set to exactly 0 what a mask drops: the bits of a number times 0, since itself times 0 may be -0.0 or nan."""
    values.data.view(torch.int32).mul_(mask)  # a third of the time of masked_fill_, and after every step


def masks_of(model: PreTrainedModel) -> Masks:
    """The masks that a sparse model shows: its weights that are not 0."""
    return {name: weight.detach() != 0 for name, weight in weights(model).items()}


def measured(model: PreTrainedModel) -> float:
    """The share of `weights` that are exactly 0."""
    masks = masks_of(model)
    return dropped(masks) / sum(mask.numel() for mask in masks.values())


def one_shot_(
    model: PreTrainedModel, criterion: Criterion, sparsity: float, pattern: str = "1", *, steps: int = 1
) -> Masks:
    """Prune without training; in several steps the criterion weighs what is left anew in each."""
    check(model, sparsity, pattern)
    return prune_(model, criterion, sparsity, pattern, masks_of(model), steps)


def prune_(
    model: PreTrainedModel, criterion: Criterion, sparsity: float, pattern: str, masks: Masks, steps: int = 1
) -> Masks:
    """One mask update: from `masks` to those that it returns, with the weights that they drop set to 0."""
    before = 1 - dropped(masks) / sum(mask.numel() for mask in masks.values())
    if sparsity == 0 and before == 1:  # nothing goes: what a weight is worth is dear to ask
        return masks
    for step in range(1, steps + 1):
        # Each step takes the same share of what is left, the last one goes exactly to `sparsity`.
        now = sparsity if step == steps else 1 - before * ((1 - sparsity) / before) ** (step / steps)
        scores = criterion.scores(model, pattern, masks)
        held = None if criterion.revives else masks
        groups = [{name: values} for name, values in scores.items()] if criterion.per_matrix else [scores]
        chosen = {name: mask for group in groups for name, mask in choose(group, now, pattern, held).items()}
        criterion.prune_(model, chosen, masks)
        apply_(model, chosen)
        masks = chosen
    return masks


def dropped(masks: Masks) -> int:
    """How many weights the masks drop."""
    return sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks.values())


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"A sparsity of {sparsity} cannot be had: give the share of weights that go, 0 to below 1.")


def check(model: PreTrainedModel, sparsity: float, pattern: str) -> None:
    """Raise, before anything is trained, where a model cannot have this sparsity in this pattern."""
    _check_sparsity(sparsity)
    size = group_size(pattern)
    if ":" in pattern and round(sparsity * size, 6) > size - int(pattern.split(":")[0]):
        raise ValueError(f"Pattern '{pattern}' cannot reach a sparsity of {sparsity}. Choose another of the two.")
    for name, weight in weights(model).items():
        if weight.shape[1] % size:
            raise ValueError(
                f"{name} has {weight.shape[1]} inputs, which groups of {size} do not divide. Choose another pattern."
            )
