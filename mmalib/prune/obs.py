"""Second-order pruning (Kurtic et al. 2022, The Optimal BERT Surgeon): the weights go whose loss others mend best.

What a weight costs and how the others mend it is `fisher`; here are the gradients of a model behind it, and the
memory: `criterion` makes of both what `sparsity` prunes by, gradually or with `one_shot_`, where `steps` is the
recomputation.

A weight that is pruned already gets gradients of 0. Its row of F is then lambda alone, and [F^-1] over the others is
the inverse of F over the others: they are weighed, and moved, with the pruned ones held at 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.subwords import IGNORED, batches
from mmalib.model.backbones import evaluating
from mmalib.prune import sparsity
from mmalib.prune.fisher import WAITING, BlockInverseFisher, saliency, update
from mmalib.prune.sparsity import Criterion, Masks, Scores, group_size, weights

Loss = Callable[[PreTrainedModel, int], Tensor]  # of a model, on mini-batch number 0, 1, 2 …
MAX_GIB = 6.0  # of memory for inverses


def of_rows(rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, *, num_grads: int, batch_size: int) -> Loss:
    """The model's own loss over `batch_size` rows with a label, in an order that no round through them repeats."""
    rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
    if not rows:
        raise ValueError("No row has a label, so the loss has no gradient. Give rows of labelled sentences.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a gradient needs 1 row at least.")
    draw = torch.Generator().manual_seed(0)
    rounds = max(1, -(-num_grads * batch_size // len(rows)))
    order = torch.cat([torch.randperm(len(rows), generator=draw) for _ in range(rounds)]).tolist()

    def loss(model: PreTrainedModel, number: int) -> Tensor:
        chosen = [rows[index] for index in order[number * batch_size : (number + 1) * batch_size]]
        (batch,) = batches(chosen, tokenizer, batch_size)
        return model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss

    return loss


def gradients(model: PreTrainedModel, loss: Loss, masks: Masks, num_grads: int) -> Iterator[dict[str, Tensor]]:
    """The gradients of a loss on so many mini-batches, for the weights in `masks`, without dropout.

    A weight that its mask drops has a gradient of 0. What is in `.grad` stays there.
    """
    chosen = {name: weights(model)[name] for name in masks}
    with evaluating(model, chosen.values()):
        for number in range(num_grads):
            with torch.enable_grad():
                value = loss(model, number)
                if not value.isfinite():
                    raise ValueError(f"The loss is {value.item()}: training has diverged. Try a lower learning rate.")
                of_batch = torch.autograd.grad(value, list(chosen.values()))
            yield {name: gradient * masks[name] for name, gradient in zip(chosen, of_batch, strict=True)}


def fitted(size: int, pattern: str) -> int:
    """The block size, rounded down to a multiple of what the pattern looks at together."""
    group = group_size(pattern)
    if size < group:
        raise ValueError(f"Blocks of {size} do not fit pattern '{pattern}'. Use a block size of {group} or more.")
    return size // group * group


def check(model: PreTrainedModel, pattern: str, *, block_size: int = 50, max_gib: float = MAX_GIB) -> None:
    """Raise, before anything is trained, where the blocks do not fit the pattern or an inverse the memory."""
    sizes = {name: weight.numel() for name, weight in weights(model).items()}
    portions(sizes, fitted(block_size, pattern), max_gib)


def portions(sizes: Mapping[str, int], block_size: int, max_gib: float) -> list[list[str]]:
    """The names in their order, in portions whose inverses in float32 take `max_gib` of memory or less."""
    groups, room = [], -1.0
    for name, size in sizes.items():
        blocks = -(-size // block_size)
        need = 4 * (blocks * block_size * (block_size + WAITING) + size) / 2**30  # R, what waits, one gradient
        if need > max_gib:
            raise ValueError(
                f"The inverse Fisher of {name} alone takes {need:.2g} GiB, and max_gib is {max_gib}. "
                "Raise max_gib or make the blocks smaller."
            )
        if need > room:
            groups.append([])
            room = max_gib
        groups[-1].append(name)
        room -= need
    return groups


def criterion(
    rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, *, num_grads: int = 1024, batch_size: int = 16, **how
) -> Criterion:
    """Second-order pruning, with gradients over `rows` (as `subwords.training_rows` makes them); `how` as `by_loss`."""
    loss = of_rows(rows, tokenizer, num_grads=num_grads, batch_size=batch_size)
    return by_loss(loss, num_grads=num_grads, **how)


def by_loss(
    loss: Loss, *, num_grads: int, block_size: int = 50, damp: float = 1e-7, max_gib: float = MAX_GIB, anew: bool = True
) -> Criterion:
    """Second-order pruning for any loss.

    Weights whose inverses do not fit into `max_gib` are done in portions with the same gradients, once for the scores
    and once for the update, except the last portion, which waits for its update: slower, and the same result. Besides
    there are the model, one pass backwards, and two numbers a weight. Where all calls are about the same weights and
    masks, those of copies of one model, the inverses need not be made `anew`; they stay until others are asked for.
    """
    BlockInverseFisher(1, block_size, damp, num_grads)  # complains where these make no sense
    inverses: dict[str, BlockInverseFisher] = {}  # of one portion at most
    plan: list[list[str]] = []  # the portions of the last scores
    size = block_size

    def invert_(model: PreTrainedModel, masks: Masks, names: list[str]) -> None:
        if not anew and {name: inverse.block_size for name, inverse in inverses.items()} == dict.fromkeys(names, size):
            return
        inverses.clear()  # before the next are made
        for name in names:
            inverses[name] = BlockInverseFisher(masks[name].numel(), size, damp, num_grads, model.device)
        for of_batch in gradients(model, loss, {name: masks[name] for name in names}, num_grads):
            for name, gradient in of_batch.items():
                inverses[name].add(gradient.flatten())

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        nonlocal size
        size = fitted(block_size, pattern)
        plan[:] = portions({name: mask.numel() for name, mask in masks.items()}, size, max_gib)
        costs, empty = {}, True
        for names in plan:
            invert_(model, masks, names)
            for name, inverse in inverses.items():
                weight = weights(model)[name]
                costs[name] = saliency(weight.flatten(), inverse, sparsity.block_size(pattern)).view(len(weight), -1)
                empty = empty and inverse.empty
        if empty:
            raise ValueError("All gradients are 0. Check that the rows have labels that the model can learn from.")
        return costs

    def prune_(model: PreTrainedModel, masks: Masks, before: Masks) -> None:
        changes = {}
        for names in reversed(plan):  # the last portion is still there
            if list(inverses) != names:
                invert_(model, before, names)
            for name, inverse in inverses.items():
                changes[name] = update(weights(model)[name].flatten(), inverse, ~masks[name].flatten())
        if anew:
            inverses.clear()
        # Only now, so that the gradients of every portion are those of the weights that were scored.
        with torch.no_grad():
            for name, weight in weights(model).items():
                weight += changes[name].view_as(weight)

    return Criterion(scores, prune_)
