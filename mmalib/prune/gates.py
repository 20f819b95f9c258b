"""Heads, neurons and whole halves of layers behind gates that learn to close (CoFi: Xia, Zhong and Chen 2022).

A gate is hard concrete (Louizos, Welling and Kingma 2018, Learning Sparse Neural Networks through L0 Regularization,
equations 10 to 13): with u uniform in (0, 1), l = `LOW`, h = `HIGH` and b = `BETA`,

    s = sigmoid((log u - log(1 - u) + log alpha) / b),     z = min(1, max(0, s (h - l) + l))
    P(z > 0) = sigmoid(log alpha - b log(-l / h))

Every head, every neuron, every layer's attention and every layer's feed-forward part has one. A unit is there if its
own gate and that of its part are open, so that the share of the encoder's linear weights expected to go is

    s = 1 - sum over parts of P(part) * sum over its units of P(unit) * weights of a unit / all weights

and is driven to t by the penalty l1 (s - t) + l2 (s - t)^2, which gates minimise and the multipliers l1 and l2, from 0
on, maximise; t grows from 0 to what is asked for during a warm-up. In the end the units least likely to be there go,
as many as make the size asked for; of the others the mean gate, which is never 0, is folded into the weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from mmalib.model import adapters, beside
from mmalib.model.backbones import head_size, layers, parts
from mmalib.model.disk import heads_left
from mmalib.prune.gradual import BESIDE
from mmalib.prune.heads import remove_heads_
from mmalib.prune.uniform import remove_neurons_

LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
CLAMP = 4.6  # log alpha stays within this, where its gradient has not died
# Log alpha at first: nearly open. The authors' code begins with heads at 10 and neurons at 0, which takes neurons first
# whatever they are worth; here it is a question which part goes first.
START = 2.5
NEAR = 0.01  # how far from the share asked for a model may end


class Part:
    """The attention or the feed-forward part of one layer: its units are slices of what enters `linear`."""

    def __init__(self, linear: nn.Linear, size: int, weights: int) -> None:
        self.linear, self.size, self.weights = linear, size, weights  # inputs, and weights of the encoder, of a unit
        self.number = linear.in_features // size
        # log alpha of every unit and of the whole part, which may go as well
        self.units = torch.full((self.number,), START, device=linear.weight.device).requires_grad_()
        self.whole = torch.full((), START, device=linear.weight.device).requires_grad_()
        self.kept: Tensor | None = None  # once it is decided which units stay, bool
        self.draw_()

    def draw_(self) -> None:
        """Draw the gates for one step of training."""
        self.now = drawn(self.units), drawn(self.whole)

    def gates(self) -> tuple[Tensor, Tensor]:
        """The gates of the units and that of the part: as drawn in training; else without noise, and as decided."""
        if self.linear.training and self.kept is None:
            return self.now
        if self.kept is None:
            return settled(self.units), settled(self.whole)
        return mean(self.units) * self.kept, mean(self.whole)

    def hooks(self) -> list:
        """Multiply units and output by their gates, until the hooks are removed."""

        def scale(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0] * self.gates()[0].repeat_interleave(self.size).to(inputs[0].dtype),)

        def scale_output(_: nn.Module, __: tuple, out: Tensor) -> Tensor:
            return out * self.gates()[1].to(out.dtype)

        # an adapter at the same place reads what the gate has let through
        after = self.linear.register_forward_hook(scale_output, prepend=True)
        return [self.linear.register_forward_pre_hook(scale), after]

    def there(self) -> Tensor:
        """The probability of each unit that it and its part are open."""
        return chance(self.units) * chance(self.whole)


def parts_of(model: PreTrainedModel) -> list[Part]:
    """Attention and feed-forward part of every layer, in turns."""
    each, size = [], head_size(model)
    for own in map(parts, layers(model)):
        hidden = own.mix.out_features
        each += [Part(own.mix, size, 4 * hidden * size), Part(own.narrow, 1, 2 * hidden)]
    return each


def remove_(model: PreTrainedModel, kept: Sequence[Tensor]) -> None:
    """Take out the units that are not kept, bool, part by part as in `parts_of`; a part may lose all of them."""
    gone: tuple[dict, dict] = {}, {}  # heads and neurons, by layer
    for place, stays in enumerate(kept):
        layer, half = divmod(place, 2)
        if slots := (~stays).nonzero().flatten().tolist():
            gone[half][layer] = slots if half else [heads_left(model)[layer][slot] for slot in slots]
    remove_heads_(model, gone[0], last=True)
    remove_neurons_(model, gone[1], last=True)


def chance(log_alpha: Tensor) -> Tensor:
    """The probability that a gate is not closed."""
    return torch.sigmoid(log_alpha - BETA * math.log(-LOW / HIGH))


def drawn(log_alpha: Tensor) -> Tensor:
    """Gates as they are in one step of training."""
    return settled((torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6).logit() + log_alpha) / BETA)


def settled(log_alpha: Tensor) -> Tensor:
    """Gates without the noise."""
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


def mean(log_alpha: Tensor) -> Tensor:
    """The mean of the draws, within a hundredth: what is hardly ever open still lets something through."""
    return torch.sigmoid(0.9 * log_alpha)


class Gates(TrainerCallback):
    """Gates over a model while the Trainer trains it, and the model without what they close; a killed run goes on.

    One Adam moves the gates at `rate`, the multipliers at `multipliers` times that; `warm_up` is a share of training.
    """

    def __init__(
        self, model: PreTrainedModel, share: float, *, rate: float = 0.01, warm_up: float = 0.2, multipliers: float = 5
    ) -> None:
        self.share, self.rates, self.warm_up, self.parts = share, (rate, multipliers * rate), warm_up, parts_of(model)
        self.total = sum(part.number * part.weights for part in self.parts)
        finest = min((part.weights for part in self.parts if part.number), default=0) / max(self.total, 1)
        if not (0 < share < 1 and 0 < finest <= min(NEAR, 1 - share)):
            raise ValueError(
                f"{share:.0%} of this encoder cannot go: the share must lie between 0 and 1, and the smallest unit be "
                f"no more than {NEAR:.0%} of all weights and than what stays. Here it is {finest:.1%}."
            )
        self.multipliers = torch.zeros(2, device=model.device, requires_grad=True)
        self.hooks: list = []

    def expected(self) -> Tensor:
        """The share of the encoder's weights that is expected to go."""
        return 1 - torch.stack([part.there().sum() * part.weights for part in self.parts]).sum() / self.total

    def penalty(self, target: float) -> Tensor:
        """The Lagrangian's term."""
        off = self.expected() - target
        return self.multipliers[0] * off + self.multipliers[1] * off**2

    def decide_(self) -> None:
        """Choose the units that stay: the least likely go, to make the share asked for, of shut ones the smallest."""
        likely = torch.cat([part.there() * (torch.minimum(part.units, part.whole) > -CLAMP) for part in self.parts])
        if not (likely > 0).any():  # nor where training has diverged
            raise ValueError(
                f"The gates have collapsed: all are closed, where {self.share:.0%} was asked for, and none is worth "
                "more than another. Lower the rate of the gates, or prune longer."
            )
        costs = [part.weights for part in self.parts for _ in range(part.number)]
        sizes = [p.linear.weight.abs().mean(0).reshape(p.number, p.size).mean(1) for p in self.parts]
        worth = list(zip(likely.tolist(), torch.cat(sizes).tolist(), strict=True))
        order = sorted(range(len(costs)), key=worth.__getitem__)
        gone, left = 0, self.share * self.total
        while left > 0:
            left -= costs[order[gone]]
            gone += 1
        kept = torch.ones(len(costs), dtype=torch.bool, device=self.multipliers.device)
        kept[order[:gone]] = False
        for place in reversed(order[:gone]):  # a head may be more than was left to take: smaller units come back
            if costs[place] <= -left:
                kept[place], left = True, left + costs[place]
        for part, of_part in zip(self.parts, kept.split([part.number for part in self.parts]), strict=True):
            part.kept = of_part

    @torch.no_grad()
    def finalise_(self, model: PreTrainedModel) -> float:
        """Take out what is closed, fold in what is half open; the share of the encoder's weights that is gone."""
        if self.parts[0].kept is None:
            self.decide_()
        for part in self.parts:
            units, whole = part.gates()
            part.linear.weight *= units.repeat_interleave(part.size) * whole
            part.linear.bias *= whole
            if not part.kept.any():
                adapters.fold_(part.linear)
        while self.hooks:
            self.hooks.pop().remove()
        remove_(model, [part.kept for part in self.parts])
        return 1 - sum(int(part.kept.sum()) * part.weights for part in self.parts) / self.total

    # ---- While the Trainer trains ----

    def on_train_begin(self, args, state, control, **_) -> None:
        multipliers = {"params": [self.multipliers], "maximize": True, "lr": self.rates[1]}
        self.adam = torch.optim.Adam([{"params": self._alphas()}, multipliers], lr=self.rates[0])
        if state.global_step:
            for key, tensor in beside.get(BESIDE, args, state.global_step, self.multipliers.device).items():
                number, _, name = key.partition("/")
                value = [*self._alphas(), self.multipliers][int(number)]
                if name == "value":
                    value.data.copy_(tensor)
                else:
                    self.adam.state[value][name] = tensor.cpu() if name == "step" else tensor  # as Adam has it
        self.hooks += [hook for part in self.parts for hook in part.hooks()]

    def on_step_begin(self, args, state, control, **_) -> None:
        for part in self.parts:
            part.draw_()

    def on_pre_optimizer_step(self, args, state, control, **_) -> None:
        grown = min(1.0, (state.global_step + 1) / max(1.0, self.warm_up * state.max_steps))
        self.penalty(self.share * grown).backward()
        self.adam.step()
        self.adam.zero_grad()
        for log_alpha in self._alphas():
            log_alpha.data.clamp_(-CLAMP, CLAMP)

    def on_epoch_end(self, args, state, control, **_) -> None:
        held = [{"value": value.detach(), **self.adam.state[value]} for value in (*self._alphas(), self.multipliers)]
        flat = {f"{n}/{name}": t for n, of in enumerate(held) for name, t in of.items()}
        beside.put(BESIDE, args, state.global_step, flat)

    def _alphas(self) -> list[Tensor]:
        return [log_alpha for part in self.parts for log_alpha in (part.units, part.whole)]
