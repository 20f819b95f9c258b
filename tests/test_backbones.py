"""Backbones load under their names, with a head from the seed; what is missing is one clear line."""

import pytest
import torch
from transformers import AutoModel

from mmalib.data import LABELS
from mmalib.model import backbones, packed
from mmalib.prune import sparsity


def test_the_head_comes_from_the_seed_and_the_labels_have_names(tiny_backbone):
    one, same, other = (backbones.load_model(str(tiny_backbone), seed=s) for s in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.config.id2label == dict(enumerate(LABELS)) and one.dtype == torch.float32


def test_zeros_that_rounding_has_left_do_not_count_as_pruned():
    model, stored = backbones.load_model("e5"), AutoModel.from_pretrained(backbones.locate("e5"))
    assert sparsity.measured(stored) > 0.02 and sparsity.measured(model) == 0
    for ours, theirs in zip(model.base_model.encoder.parameters(), stored.encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)
    assert (backbones.load_model("e5-half").base_model.encoder.layer[0].output.dense.weight != 0).all()


def test_freezing_keeps_embeddings_and_lower_layers(tiny_backbone):
    model = backbones.load_model(str(tiny_backbone))
    backbones.freeze_(model, 0.5)
    assert not any(p.requires_grad for p in model.base_model.embeddings.parameters())
    assert [all(p.requires_grad for p in layer.parameters()) for layer in backbones.layers(model)] == [False, True]


def test_unknown_names_and_incomplete_weights_are_one_clear_line(tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match="'bert-huge' is neither a backbone .*e5.* nor a folder"):
        backbones.locate("bert-huge")
    whole = AutoModel.from_pretrained(tiny_backbone)
    state = {k: v for k, v in whole.state_dict().items() if "layer.1.attention" not in k}
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="missing .* tensors"):
        backbones.load_model(str(tmp_path))


def test_the_hub_out_of_reach_is_one_clear_line():
    with pytest.raises(ValueError, match="'xlm' .FacebookAI/xlm-roberta-base. could not be fetched"):
        backbones.load_model("xlm")


def test_other_weights_under_the_same_name_are_told_apart(tmp_path, tiny_backbone):
    one = packed.fingerprint(str(tiny_backbone))
    model = AutoModel.from_pretrained(tiny_backbone)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert one == packed.fingerprint(str(tiny_backbone)) != packed.fingerprint(str(tmp_path))
    assert packed.fingerprint("xlm") is None
