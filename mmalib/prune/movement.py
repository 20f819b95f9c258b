"""Movement: weights that training moves towards 0 go (Sanh et al. 2020, Movement Pruning).

The forward pass uses W' = W * M, the weights under their mask. A score S a weight is trained beside the weights with
the straight-through gradient (their equations 2 and 3), from the first step on and for pruned weights too:

    dL/dS = W * dL/dW'

so that S grows where the step that follows makes |w| larger. S is a parameter under Adam, as in their code, whose rate
follows that of the weights; so every score moves by about as much a step, whatever its weight's size. There it starts
at 0; here it may start at the weights' sizes, so that movement amends magnitude.
With `rate` None it is the plain sum of -W * dL/dW' instead, as their equations alone would have it: there the lowest
scores belong to the largest weights, which noise moves most, and a model does not outlive their loss.
At a mask update the highest S are kept, and a pruned weight whose score has risen comes back (hard movement pruning).

A pruned weight gets no gradient in their training, since dL/dW = dL/dW' * M. Here the model's parameter holds W'
itself, so that dL/dW' is simply its gradient. The value that a weight had when it was pruned is put aside: it counts
in S, and the weight comes back with it. It stands still meanwhile, without weight decay and without what momentum was
left. The gradient at pruned weights is set to 0 after it has been counted, so that it moves no momentum either.

The gradient is the one that the optimizer is about to use: float32, clipped together with all others.
"""

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from mmalib.prune.sparsity import Criterion, Masks, Scores, per_block, weights, zero_

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
ADAM |= {"amsgrad": False, "maximize": False, "fused": True}


def criterion(rate: float | None = 1e-2, *, start: float = 0.0, per_matrix: bool = False) -> Criterion:
    """Weighs every unit by the movement it has shown since training began, at this learning rate of the scores.

    They start at `start` times the weights' sizes, in units of the mean size.
    """
    state: dict[str, Tensor] = {}  # "score/<name>" is S with Adam's moments, "aside/<name>" the values that are pruned
    parts = ("score",) if rate is None else ("score", "first", "second")

    @torch.no_grad()
    def observe(model: PreTrainedModel, masks: Masks, pace: float) -> None:
        own = weights(model)
        size = 0.0 if state else start / torch.cat([w.flatten() for w in own.values()]).abs().mean()
        for name, dense in _dense(own, state).items():
            gradient = own[name].grad
            if f"score/{name}" not in state:
                state.update({f"{part}/{name}": torch.zeros_like(dense) for part in parts})
                state[f"score/{name}"] += size * dense.abs()
                state[f"step/{name}"] = torch.zeros((), device=dense.device)
            score, *moments = (state[f"{part}/{name}"] for part in parts)
            if rate is None:
                score.addcmul_(dense, gradient, value=-1)
            else:
                step = state[f"step/{name}"]
                adamw([score], [dense * gradient], *([m] for m in moments), [], [step], lr=rate * pace, **ADAM)
            zero_(gradient, masks[name])

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        if not state:
            raise ValueError("Movement has nothing to go by before training. Prune later, or by another criterion.")
        return {name: per_block(state[f"score/{name}"], pattern) for name in weights(model)}

    def prune_(model: PreTrainedModel, masks: Masks, before: Masks) -> None:
        own = weights(model)
        for name, dense in _dense(own, state).items():
            own[name].data.copy_(dense)  # brings back the revived; the others become 0 right after this
            zero_(dense, ~masks[name])
            state[f"aside/{name}"] = dense

    return Criterion(scores, prune_, observe, revives=True, per_matrix=per_matrix, state=state)


def _dense(own: dict[str, nn.Parameter], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the values that were put aside in the place of the zeros; each is 0 where the other is not."""
    return {name: weight.detach() + state.get(f"aside/{name}", 0.0) for name, weight in own.items()}
