"""The mean of a model's weights over the end of its training (checkpoint averaging).

For languages that a model is not tuned on, the mean of many checkpoints does better than the best of them, and better
more reliably (Schmidt, Vulić and Glavaš, 2023): there is no labelled text to choose a checkpoint by.
"""

import torch
from torch import nn
from transformers import TrainerCallback

from mmalib.model import beside

TAKEN, BESIDE = "taken", "average"


class Averaging(TrainerCallback):
    """Takes the weights ten times an epoch once `begin` epochs are over, and keeps their mean.

    A run that is continued from a checkpoint goes on from the mean that was saved there.
    """

    def __init__(self, begin: float) -> None:
        self.begin, self.taken, self.mean = begin, 0, {}

    def on_train_begin(self, args, state, control, **_) -> None:
        """Take up the mean that belongs to the checkpoint that training goes on from."""
        if beside.path_of(BESIDE, args, state.global_step).is_file():
            stored = beside.get(BESIDE, args, state.global_step)
            self.taken, self.mean = int(stored.pop(TAKEN)), stored

    @torch.no_grad()
    def on_step_end(self, args, state, control, model: nn.Module, **_) -> None:
        """Take these weights into the mean, if it is time."""
        every = max(1, round(state.max_steps / args.num_train_epochs / 10))
        last = state.global_step == state.max_steps and not self.taken  # at least one is taken
        if not last and (state.epoch <= self.begin or state.global_step % every):
            return
        self.taken += 1
        for name, weight in _trained(model):
            mean = self.mean.setdefault(name, torch.zeros_like(weight, dtype=torch.float32, device="cpu"))
            mean += (weight.detach().cpu().float() - mean) / self.taken

    def on_epoch_end(self, args, state, control, **_) -> None:
        """Put the mean where a checkpoint of this moment will find it."""
        if self.taken:
            beside.put(BESIDE, args, state.global_step, {**self.mean, TAKEN: torch.tensor(self.taken)})

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Give a model the mean in place of its weights."""
        for name, weight in _trained(model):
            weight.copy_(self.mean[name])


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
