"""Second order without blocks and without a matrix: the whole model's Fisher from its gradients alone.

Frantar, Kurtic and Alistarh 2021 (M-FAC) work with the same empirical Fisher as `fisher`, but over all d weights at
once. It has rank m, and with the gradients as the rows of G, [m, d], Woodbury's identity leaves a matrix of [m, m]:

    F = lambda I + G^T G / m,      F^-1 = (I - G^T (m lambda I + G G^T)^-1 G) / lambda

With L the Cholesky factor of m lambda I + G G^T, [F^-1]_ii is (1 - |L^-1 G e_i|^2) / lambda, and taking out weight i
costs w_i^2 / (2 [F^-1]_ii). Of all that goes (Q) and stays (S) together, the same identity gives the exact minimum:

    dw_S = G_S^T (m lambda I + G_S G_S^T)^-1 G_Q w_Q

Their recursion over gradients gives the same numbers; this way, what subtracts is small, and in float64. G lies in
memory, 4 m d bytes of it.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.prune import obs
from mmalib.prune.sparsity import Criterion, Masks, Scores, weights

Gradients = dict[str, Tensor]  # G: of every tensor of weights [m, weights]


def diagonal(gradients: Gradients, damp: float) -> dict[str, Tensor]:
    """The diagonal of F^-1, [weights] of every tensor."""
    factor = _factor(gradients.values(), damp)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).float()
    return {name: (1 - (inverse @ g).square().sum(0)) / damp for name, g in gradients.items()}


def update(gradients: Gradients, damp: float, flat: dict[str, Tensor], stays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The change of all weights, [weights] of every tensor, that takes those that do not stay (bool) to exactly 0."""
    pairs = [(g, flat[name], stays[name]) for name, g in gradients.items()]
    leaving = sum((g @ w.masked_fill(kept, 0.0)).double() for g, w, kept in pairs)  # G_Q w_Q, [m]
    factor = _factor((g * kept for g, _, kept in pairs), damp)  # one tensor at a time in memory
    solved = torch.cholesky_solve(leaving[:, None], factor)[:, 0].float()
    return {name: torch.where(stays[name], g.T @ solved, -flat[name]) for name, g in gradients.items()}


def _factor(gradients: Iterable[Tensor], damp: float) -> Tensor:
    gram = sum((g @ g.T).double() for g in gradients)  # [m, m]
    return torch.linalg.cholesky(gram + len(gram) * damp * torch.eye(len(gram)).to(gram))


def criterion(
    rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast, *, damp: float, num_grads: int, batch_size: int
) -> Criterion:
    """Single weights, by the whole Fisher, with gradients over `rows` as in `obs.criterion`."""
    loss = obs.of_rows(rows, tokenizer, num_grads=num_grads, batch_size=batch_size)
    held: Gradients = {}  # those of the last scores

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        if pattern != "1":
            raise ValueError(f"Without blocks only single weights are weighed, not '{pattern}'. Use obs for that.")
        held.clear()
        held.update({name: torch.empty(num_grads, mask.numel(), device=mask.device) for name, mask in masks.items()})
        for number, of_batch in enumerate(obs.gradients(model, loss, masks, num_grads)):
            for name, gradient in of_batch.items():
                held[name][number] = gradient.flatten()
        inverse = diagonal(held, damp)
        return {name: w.detach().square() / inverse[name].view_as(w) / 2 for name, w in weights(model).items()}

    @torch.no_grad()
    def prune_(model: PreTrainedModel, masks: Masks, before: Masks) -> None:
        own = weights(model)
        flat = {name: weight.flatten() for name, weight in own.items()}
        for name, change in update(held, damp, flat, {name: masks[name].flatten() for name in own}).items():
            own[name] += change.view_as(own[name])
        held.clear()

    return Criterion(scores, prune_)
