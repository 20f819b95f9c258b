"""How much each attention head matters, and taking heads out (Michel et al. 2019, Are Sixteen Heads Really Better …?).

A gate of value 1 multiplies the output of each head. The importance of head h is the expected absolute gradient of
the loss with respect to its gate (their section 4):

    I_h = E_x | dL(x) / dgate_h |

x is one row of a batch (a window of a sentence) and L(x) its mean cross-entropy over the scored subwords. The
importances of a layer are divided by their l2 norm. Heads leave step by step, the least important first, and the rest
is weighed anew after each step, until every layer has one head.

Transformers has no gates any more. A head's output is its slice of what enters `mix`, so a hook there is the gate;
`remove_heads_` takes the slice out of the weights. Heads always go by the numbers that they had in the whole model,
and {layer: heads} names them wherever heads are given.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from mmalib.data.subwords import IGNORED
from mmalib.model.backbones import evaluating, head_size, hooked, layers, parts
from mmalib.model.disk import heads_left, keep_, record_pruning_

Gates = Sequence[tuple[nn.Linear, Tensor]]  # a linear map, and gates [units] or [rows, units] on slices of what enters


def importance(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], masked: Mapping[int, Iterable[int]] | None = None
) -> Tensor:
    """I_h of every head, [layers, heads], l2-normalised per layer; nan where a head is removed or `masked`.

    Masked heads are off while the others are weighed. Padding and rows without a scored subword do not count.
    """
    off, left = masked or {}, heads_left(model)
    sums = [torch.zeros(len(heads), dtype=torch.float64) for heads in left]
    gates, rows = gates_of(model, off), 0
    for batch in batches:
        scored = (batch["labels"] != IGNORED).any(1)  # [rows]
        rows += int(scored.sum())
        for total, gradient in zip(sums, gate_gradients(model, batch, gates), strict=True):
            total += gradient.cpu()[scored.cpu()].abs().sum(0, dtype=torch.float64)
    if not rows:
        raise ValueError("There is no scored subword to weigh heads by. Give batches of labelled sentences.")
    if not all(total.isfinite().all() for total in sums):
        raise ValueError("The loss has no finite gradient: the model has probably diverged. Tune it again.")
    scores = torch.full((len(left), model.config.num_attention_heads), torch.nan)
    for number, (heads, total) in enumerate(zip(left, sums, strict=True)):
        on = [slot for slot, head in enumerate(heads) if head not in off.get(number, ())]
        norm = total[on].norm().clamp_min(torch.finfo(torch.float64).tiny)  # a layer may have gradients of zero alone
        scores[number, [heads[slot] for slot in on]] = (total[on] / norm).float()
    return scores


def gates_of(model: PreTrainedModel, off: Mapping[int, Iterable[int]]) -> Gates:
    """For every layer the gates of the heads left: 0 for those that are off, 1 for the others."""
    how = {"dtype": model.dtype, "device": model.device}
    return [
        (parts(layer).mix, torch.tensor([head not in off.get(number, ()) for head in heads], **how))
        for number, (layer, heads) in enumerate(zip(layers(model), heads_left(model), strict=True))
    ]


def gate_gradients(model: PreTrainedModel, batch: Mapping[str, Tensor], gates: Gates) -> list[Tensor]:
    """dL(x) / dgate of every map's gates, [rows, units], exact for each row of the batch, without dropout."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    # One gate a row: rows do not mix, so the gradient of the sum of their losses holds that of each loss.
    own = [(linear, gate.repeat(len(batch["input_ids"]), 1).requires_grad_()) for linear, gate in gates]
    with evaluating(model), torch.enable_grad(), scaled(own):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        each = functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED, reduction="none"
        )  # [rows, subwords], 0 where ignored
        losses = each.sum(1) / (batch["labels"] != IGNORED).sum(1).clamp_min(1)
        return list(torch.autograd.grad(losses.sum(), [gate for _, gate in own], materialize_grads=True))


def scaled(gates: Gates) -> AbstractContextManager:
    """Multiply the slices of what enters each map by their gates, inside the context."""

    def scale(linear: nn.Linear, gate: Tensor):
        wide = gate.repeat_interleave(linear.in_features // max(1, gate.shape[-1]), -1).unsqueeze(-2)
        return lambda _, inputs: (inputs[0] * wide,)  # [rows, subwords, width] * [1, width] or [rows, 1, width]

    return hooked([linear.register_forward_pre_hook(scale(linear, gate)) for linear, gate in gates])


def plan(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], share: float = 1 / 12
) -> list[dict[int, list[int]]]:
    """Which heads to take out, step by step: each step holds the step before and the next lowest `share` of all heads.

    The last step leaves one head in every layer, and may be smaller than the others.
    """
    batches = list(batches)  # every step goes through them
    left = heads_left(model)
    size = max(1, round(share * sum(len(heads) for heads in left)))
    room = [max(0, len(heads) - 1) for heads in left]  # how many may still go, per layer
    masked: dict[int, list[int]] = {}
    steps = []
    while any(room):
        going = size
        weighed = importance(model, batches, masked)  # nan where a head is gone already
        order = weighed[weighed.isfinite()].argsort(stable=True)
        for number, head in weighed.isfinite().nonzero()[order].tolist():
            if going and room[number]:
                masked.setdefault(number, []).append(head)
                room[number] -= 1
                going -= 1
        steps.append({number: sorted(heads) for number, heads in sorted(masked.items())})
    return steps


def remove_heads_(model: PreTrainedModel, heads: Mapping[int, Iterable[int]], *, last: bool = False) -> None:
    """Take heads out of the weights and say so in the config; every layer keeps at least one, if not the `last` may go.

    The number of heads is nowhere else: the forward pass of all three architectures reads it from the shapes.
    """
    left, size = heads_left(model), head_size(model)
    gone = going("head", heads, left, last=last)
    for number, of_layer in gone.items():
        slots = torch.tensor([slot for slot, head in enumerate(left[number]) if head not in of_layer], dtype=torch.long)
        kept = (slots[:, None] * size + torch.arange(size)).flatten()
        own = parts(layers(model)[number])
        keep_((own.query, own.key, own.value), own.mix, kept)
    record_pruning_(model, gone)


def going(
    what: str, units: Mapping[int, Iterable[int]], left: Sequence[Collection[int]], *, last: bool
) -> dict[int, set[int]]:
    """The units to remove, by layer, if they are there and, unless the `last` may go, something stays."""
    gone = {number: set(of_layer) for number, of_layer in units.items()}
    for number, of_layer in gone.items():
        there = left[number] if number in range(len(left)) else ()
        if strange := of_layer.difference(there):
            raise ValueError(
                f"Layer {number} has no {what} {min(strange)}. "
                "Layers count from 0; heads keep the numbers that they had at first, and go only once."
            )
        if len(of_layer) == len(there) and not last:
            raise ValueError(f"Layer {number} would lose its last {what}. Leave it at least one.")
    return gone
