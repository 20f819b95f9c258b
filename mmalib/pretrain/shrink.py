"""Students of an encoder: which of its layers and neurons they begin with, and how they learn the rest from it.

A student reads plain text beside its teacher. What it learns is task-agnostic: the hidden states of the teacher's
layers that its own stand for (as in TinyBERT, Jiao et al. 2020, and Mukherjee et al. 2021, who distil multilingual
NER), each by the share of the teacher's variance that it misses, so that no layer counts more for being larger. The
word embedding is the teacher's own and stays as it is: all backbones share it.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from transformers import BertModel, PreTrainedModel

from mmalib.model.backbones import hooked
from mmalib.model.disk import keep_
from mmalib.records import machine

Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]


@torch.no_grad()
def narrow_(student: BertModel, batches: Sequence[torch.Tensor], neurons: int) -> None:
    """Leave every feed-forward pair the neurons that put out most on these batches (ids, [rows, subwords])."""
    sums = [torch.zeros(layer.intermediate.dense.out_features) for layer in student.encoder.layer]
    watched = zip(student.encoder.layer, sums, strict=True)
    with hooked([layer.intermediate.register_forward_hook(partial(_add, total)) for layer, total in watched]):
        for ids in batches:
            student(ids.to(student.device))
    for layer, total in zip(student.encoder.layer, sums, strict=True):
        strength = total * layer.output.dense.weight.norm(dim=0).cpu()  # [neurons]
        best = strength.topk(neurons).indices.sort().values
        keep_([layer.intermediate.dense], layer.output.dense, best)
    student.config.intermediate_size = neurons


def _add(total: torch.Tensor, _: nn.Module, __: tuple, out: torch.Tensor) -> None:
    total.add_(out.abs().float().sum(dim=(0, 1)).cpu())  # a hook that returned it would put it in the place of `out`


def ready_(student: PreTrainedModel) -> None:
    """Set a student up to learn hidden states."""
    student.set_attn_implementation("eager")  # on a CPU its backward pass is twice as fast as that of sdpa
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # it should hit the states, not their mean over dropout
    student.embeddings.requires_grad_(False)


def hidden_loss(teacher: PreTrainedModel, mapping: Sequence[int], *, noise: float = 0.0) -> Loss:
    """Distance from the teacher's hidden states: layer i of the student stands for layer `mapping[i]` (from 0).

    For each layer the mean squared difference over the teacher's variance: 0 for a copy, 1 for the mean of all states.
    `noise` is added to the teacher's states, in their standard deviations.
    """
    dtype = torch.bfloat16 if machine.has_bf16() else torch.float32
    teacher = copy.deepcopy(teacher).to(dtype).eval().requires_grad_(False)

    def loss(student: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = teacher(ids, output_hidden_states=True).hidden_states[1:]
        ours = student(ids, output_hidden_states=True).hidden_states[1:]
        pairs = [(own.float(), states[number].float()) for own, number in zip(ours, mapping, strict=True)]
        return torch.stack([_missed(own, theirs, noise) for own, theirs in pairs]).mean()

    return loss


def _missed(ours: torch.Tensor, theirs: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """The share of the teacher's variance that is missed, from states of [rows, subwords, width]."""
    variance = theirs.var(dim=(0, 1), correction=0).mean()
    if noise:
        theirs = theirs + noise * variance.sqrt() * torch.randn_like(theirs)
    return (ours - theirs).pow(2).mean() / variance
