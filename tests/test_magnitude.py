"""Magnitude against torch's own global pruning, and blocks against numbers that can be added in the head."""

import copy

import pytest
import torch
from torch.nn.utils import prune

from mmalib.model import backbones
from mmalib.prune import sparsity


@pytest.mark.parametrize("share", [0.3, 0.8, 0.9])
def test_against_torch(tiny_backbone, share):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    reference = copy.deepcopy(model)
    linears = [(linear, "weight") for layer in backbones.layers(reference) for linear in backbones.parts(layer)]
    prune.global_unstructured(linears, pruning_method=prune.L1Unstructured, amount=share)
    sparsity.one_shot_(model, sparsity.by_magnitude(), share)
    for weight, (linear, _) in zip(sparsity.weights(model).values(), linears, strict=True):
        assert torch.equal(weight, linear.weight)


def test_a_block_weighs_as_much_as_its_weights(tiny_backbone):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    first = next(iter(sparsity.weights(model)))
    sparsity.weights(model)[first].data[0, :8] = torch.tensor([1.0, -1, 2, -2, 0, 0, -7, 0])
    assert sparsity.by_magnitude().scores(model, "4", {})[first][0, :2].tolist() == [6, 7]
    assert sparsity.by_magnitude().scores(model, "2:4", {})[first][0, :8].tolist() == [1, 1, 2, 2, 0, 0, 7, 0]
