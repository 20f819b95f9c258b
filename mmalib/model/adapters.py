"""A few new weights in a model that stays as it is: bottleneck adapters, and LoRA.

Bottleneck adapters (Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP) stand behind the attention and
behind the feed-forward part of every layer, before the sum with what passes by:

    y + up(gelu(down(y))),     down: hidden → width, up: width → hidden, 0 at first

Beside them the layers' norms and the head are trained, as in the paper. LoRA is PEFT's; it is merged away after
training, so that the model has its first shapes again.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from mmalib.model.backbones import layers, parts

WIDTH = "adapter_width"  # the key in config.json


class Adapter(nn.Module):
    """One bottleneck."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, width), nn.Linear(width, hidden)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, y: Tensor) -> Tensor:
        """What the part puts out from here on."""
        return y + self.up(functional.gelu(self.down(y)))


def add_(model: PreTrainedModel, width: int) -> None:
    """Give every part of every layer an adapter, and say so in the config; a part that is empty needs none."""
    if width < 1:
        raise ValueError(f"adapter_width is {width}: a bottleneck has one number at least.")
    for linear in (linear for own in map(parts, layers(model)) for linear in (own.mix, own.narrow)):
        if linear.in_features:
            linear.adapter = Adapter(linear.out_features, width).to(linear.weight.device)
            linear.register_forward_hook(_adapted)
    setattr(model.config, WIDTH, width)


def _adapted(linear: nn.Linear, _: tuple, out: Tensor) -> Tensor:
    return linear.adapter(out) if hasattr(linear, "adapter") else out


@torch.no_grad()
def fold_(linear: nn.Linear) -> None:
    """Where nothing enters a map any more, put what its adapter makes of the bias into the bias."""
    if hasattr(linear, "adapter"):
        linear.bias.copy_(linear.adapter(linear.bias))
        del linear.adapter


def freeze_backbone_(model: PreTrainedModel) -> None:
    """Leave nothing to train but adapters (or LoRA's matrices), the layers' norms and the head."""
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    for name, module in layers(model).named_modules():
        if isinstance(module, (Adapter, nn.LayerNorm)) or "lora_" in name:
            module.requires_grad_(True)


def add_lora_(model: PreTrainedModel, **how) -> None:
    """Give query and value of every layer PEFT's low-rank update, made as its `LoraConfig` says."""
    from peft import LoraConfig, TaskType, inject_adapter_in_model  # here: it takes a second, and few runs need it

    names = ["q_lin", "v_lin"] if hasattr(layers(model)[0], "ffn") else ["query", "value"]
    inject_adapter_in_model(LoraConfig(task_type=TaskType.TOKEN_CLS, target_modules=names, **how), model)


def merge_lora_(model: PreTrainedModel) -> None:
    """Add the low-rank updates to the weights, and leave the model its first shapes."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
