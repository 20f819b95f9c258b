"""Pruning while the Trainer trains: when sparsity grows, and the callbacks that prune and that hold masks.

Sparsity grows from `initial` at `begin` to `final` at `end` in equal steps of time (Zhu and Gupta 2017, To prune, or
not to prune, equation 1; the linear schedule has the exponent 1):

    s_t = s_final + (s_initial - s_final) * (1 - (t - begin) / (end - begin)) ** 3

The jump from 0 to `initial` comes first. The three stages (tune, prune, tune sparse) are those of Kurtic et al. 2022,
The Optimal BERT Surgeon; `plan.OBERT` has their recipes.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, TrainerCallback

from mmalib.model import beside
from mmalib.prune.sparsity import Criterion, Masks, apply_, block_size, check, dropped, prune_, weights

BESIDE = "pruning"  # what is put beside checkpoints


def schedule(
    kind: str, begin: float, end: float, initial: float, final: float, updates: int
) -> list[tuple[float, float]]:
    """`updates` moments at equal distances from `begin` to `end` (in epochs), each with the sparsity from there on."""
    power = {"cubic": 3, "linear": 1}[kind]
    if updates == 1:
        return [(float(begin), final)]
    shares = [number / (updates - 1) for number in range(updates)]
    return [(begin + (end - begin) * t, final + (initial - final) * (1 - t) ** power) for t in shares]


class Hold(TrainerCallback):
    """Keeps masks through any training; pruned weights are exactly 0 after every optimizer step."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def on_train_begin(self, args, state, control, *, model, **_) -> None:
        self.masks = {name: self.masks[name].to(weight.device) for name, weight in weights(model).items()}
        apply_(model, self.masks)

    def on_optimizer_step(self, args, state, control, *, model, **_) -> None:
        # Adam's momentum moves a weight on without a gradient, and a pruned weight has a gradient. Its moments need
        # no care: they reach no other weight.
        apply_(model, self.masks)

    def on_train_end(self, args, state, control, *, model, **_) -> None:
        """The model is the chosen one here, not that of the last step."""
        for name, weight in weights(model).items():
            if weight[~self.masks[name]].any():
                raise RuntimeError(f"Pruned weights of {name} are not 0 after training. Something else changes them.")


class Pruning(Hold):
    """Prunes while the Trainer trains, at the moments of a schedule; a killed run goes on with the same result.

    `score(model)` may measure the model before a mask update (`stage` "recovered") and after it ("pruned"), at the
    first one, at those whose sparsity lies at least `apart` beyond that of the last one measured, and in the end. The
    points are in the Trainer's log, so that they survive a kill, and in `points` when training is over.
    Masks and what the criterion remembers lie beside the Trainer's checkpoints.
    """

    def __init__(
        self,
        criterion: Criterion,
        updates: Sequence[tuple[float, float]],
        *,
        pattern: str = "1",
        score: Callable[[PreTrainedModel], dict] | None = None,
        apart: float = 0.0,
    ) -> None:
        super().__init__({})
        self.criterion, self.updates, self.pattern = criterion, updates, pattern
        self.score, self.apart = score, apart
        self.points: list[dict] = []

    def on_train_begin(self, args, state, control, *, model, **_) -> None:
        check(model, self.updates[-1][1], self.pattern)
        if frozen := [name for name, weight in weights(model).items() if not weight.requires_grad]:
            raise ValueError(f"{len(frozen)} of the weights to prune are frozen, {frozen[0]} first. Freeze no layer.")
        epochs, steps = args.num_train_epochs, state.max_steps
        self.due = {round(epoch * steps / epochs): sparsity for epoch, sparsity in self.updates}
        if max(self.due) >= steps:
            raise ValueError(
                f"The last mask update is due at epoch {self.updates[-1][0]}, but training ends at {epochs}. "
                "Leave time to tune the sparse model."
            )
        self.measured: dict[int, float] = {}
        for step, sparsity in self.due.items():
            if sparsity >= max(self.measured.values(), default=-1.0) + self.apart:
                self.measured[step] = sparsity
        self.criterion.state.clear()
        self.masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights(model).items()}
        if state.global_step:
            for key, tensor in beside.get(BESIDE, args, state.global_step, model.device).items():
                kind, _, name = key.partition("/")
                (self.masks if kind == "mask" else self.criterion.state)[name] = tensor

    def on_step_begin(self, args, state, control, *, model, **_) -> None:
        if state.global_step not in self.due:
            return
        measured = self.score and state.global_step in self.measured
        if measured:
            self._log(state, model, "recovered")
        sparsity = self.due[state.global_step]
        self.masks = prune_(model, self.criterion, sparsity, self.pattern, self.masks)
        if measured and sparsity:  # where nothing has gone, it is the same model
            self._log(state, model, "pruned")

    def on_pre_optimizer_step(self, args, state, control, *, model, lr_scheduler, **_) -> None:
        pace = lr_scheduler.get_last_lr()[0] / lr_scheduler.base_lrs[0]
        self.criterion.observe(model, self.masks, pace)

    def on_epoch_end(self, args, state, control, **_) -> None:
        held = {f"mask/{name}": mask for name, mask in self.masks.items()}
        held |= {f"state/{name}": tensor for name, tensor in self.criterion.state.items()}
        beside.put(BESIDE, args, state.global_step, held)

    def on_train_end(self, args, state, control, *, model, **_) -> None:
        super().on_train_end(args, state, control, model=model)
        size, sizes = block_size(self.pattern), [mask.numel() for mask in self.masks.values()]
        groups = sizes if self.criterion.per_matrix else [sum(sizes)]
        wanted = sum(size * round(self.updates[-1][1] * (units // size)) for units in groups)
        if dropped(self.masks) != wanted:
            raise RuntimeError(f"{dropped(self.masks)} of {sum(sizes)} weights are pruned, and {wanted} should be.")
        if self.score:
            self._log(state, model, "recovered")
        self.points = [entry for entry in state.log_history if "stage" in entry]

    def _log(self, state, model: PreTrainedModel, stage: str) -> None:
        share = dropped(self.masks) / sum(mask.numel() for mask in self.masks.values())
        point = {"step": state.global_step, "epoch": state.epoch, "stage": stage, "sparsity": share}
        state.log_history.append(point | {"scores": self.score(model)})
