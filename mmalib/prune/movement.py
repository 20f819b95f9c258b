"""Movement: weights that training moves towards 0 go (Sanh et al. 2020, Movement Pruning).

The forward pass uses W' = W * M, the weights under their mask. The score (their equations 2 and 3, straight-through)
sums over all optimizer steps so far, from the first on and for pruned weights too:

    S = - sum_t  W(t) * dL/dW'(t)

so S grows where the step that follows makes |w| larger. At a mask update the highest S of the whole model are kept
(their hard movement pruning), and a pruned weight whose score has risen comes back.

A pruned weight gets no gradient in their training, since dL/dW = dL/dW' * M. Here the model's parameter holds W'
itself, so that dL/dW' is simply its gradient. The value that a weight had when it was pruned is put aside: it counts
in S, and the weight comes back with it. It stands still meanwhile, without weight decay and without what momentum was
left. The gradient at pruned weights is set to 0 after it has been counted, so that it moves no momentum either.

The gradient is the one that the optimizer is about to use: float32, clipped together with all others.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmalib.prune.sparsity import Criterion, Masks, Scores, per_block, weights


def criterion() -> Criterion:
    """Weighs every unit by the movement it has shown since training began."""
    state: dict[str, Tensor] = {}  # "score/<name>" is S, "aside/<name>" the values of what is pruned

    def observe(model: PreTrainedModel, masks: Masks) -> None:
        own = weights(model)
        for name, whole in _whole(own, masks, state).items():
            gradient = own[name].grad
            if gradient is None:
                raise ValueError(f"{name} has no gradient, so that it has no movement. Does the loss depend on it?")
            score = state.setdefault(f"score/{name}", torch.zeros_like(whole))
            accumulate_(score, whole, gradient)
            gradient.masked_fill_(~masks[name], 0.0)

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        if not state:
            raise ValueError("Movement has nothing to go by before training. Prune later, or by another criterion.")
        return {name: per_block(state[f"score/{name}"], pattern) for name in weights(model)}

    def prune_(model: PreTrainedModel, masks: Masks, before: Masks) -> None:
        own = weights(model)
        for name, whole in _whole(own, before, state).items():
            own[name].data.copy_(whole)  # brings back the revived; the others become 0 right after this
            state[f"aside/{name}"] = whole.masked_fill(masks[name], 0.0)

    return Criterion("movement", scores, prune_, observe, revives=True, state=state)


def accumulate_(score: Tensor, weight: Tensor, gradient: Tensor) -> None:
    """Add one step's -w * dL/dw' to the scores."""
    score.addcmul_(weight, gradient, value=-1)


def _whole(own: dict[str, nn.Parameter], masks: Masks, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the values that were put aside in the place of the zeros."""
    return {
        name: torch.where(masks[name], weight.detach(), state.get(f"aside/{name}", weight.detach()))
        for name, weight in own.items()
    }
