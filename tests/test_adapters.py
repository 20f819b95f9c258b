"""Adapters and LoRA: nothing changes at first, little is trained, and merged is unmerged."""

import pytest
import torch

from mmalib import plan
from mmalib.model import adapters, disk
from mmalib.model.backbones import layers, parts


@pytest.fixture(params=["bert", "xlm-r", "distilbert"])
def model(request, random_model):
    return random_model(request.param)


def inputs():
    ids = torch.randint(5, 900, (3, 11), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model):
    with torch.no_grad():
        return model(**inputs()).logits


def train_(model, steps=3):
    """A few steps on anything; the model's weights before them."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adam = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        model(**inputs(), labels=torch.ones(3, 11, dtype=torch.long)).loss.backward()
        adam.step()
    return before


def test_adapters_change_nothing_at_first_and_only_they_learn(model, tokenizer, tmp_path):
    whole = logits(model)
    adapters.add_(model, 6)
    torch.testing.assert_close(logits(model), whole, atol=1e-6, rtol=0)
    adapters.freeze_backbone_(model)
    before = train_(model)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert all(".adapter." in n or "norm" in n.lower() or n.startswith("classifier.") for n in changed)
    assert sum(".adapter.up.weight" in name for name in changed) == 2 * len(layers(model))
    assert not any("embeddings" in name for name in changed)
    two_a_layer = 2 * len(layers(model)) * (32 * 6 + 6 + 6 * 32 + 32)
    norms_and_head = len(layers(model)) * 2 * 64 + 32 * 9 + 9
    assert model.num_parameters(only_trainable=True) == two_a_layer + norms_and_head
    disk.save(model, tokenizer, tmp_path / "model")
    loaded, _ = disk.load(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(model))


def test_merged_lora_equals_unmerged(model, tokenizer, tmp_path):
    whole, shapes = logits(model), {name: weight.shape for name, weight in model.named_parameters()}
    torch.manual_seed(1)
    adapters.add_lora_(model, **plan.LORA)
    torch.testing.assert_close(logits(model), whole, atol=1e-6, rtol=0)
    adapters.freeze_backbone_(model)
    before = train_(model)
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters() if ".base_layer." in n)
    unmerged = logits(model)
    assert (unmerged - whole).abs().max() > 0.01
    adapters.merge_lora_(model)
    torch.testing.assert_close(logits(model), unmerged, atol=1e-5, rtol=1e-4)
    assert {name: weight.shape for name, weight in model.named_parameters()} == shapes
    assert type(parts(layers(model)[0]).query) is torch.nn.Linear
    disk.save(model, tokenizer, tmp_path / "model")
    assert torch.equal(logits(disk.load(tmp_path / "model")[0]), logits(model))


def test_a_bottleneck_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="adapter_width is 0"):
        adapters.add_(model, 0)
