"""Masks: chosen as a plain sort chooses, exact to one unit, in every pattern and for every architecture."""

import copy
import itertools

import pytest
import torch
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mmalib.model import backbones, disk
from mmalib.prune import sparsity

SMALL = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 32}
FAMILIES = {
    "bert": lambda: BertForTokenClassification(BertConfig(**SMALL)),
    "xlm-roberta": lambda: XLMRobertaForTokenClassification(XLMRobertaConfig(**SMALL)),
    "distilbert": lambda: DistilBertForTokenClassification(
        DistilBertConfig(vocab_size=50, n_layers=2, n_heads=4, dim=16, hidden_dim=32)
    ),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FAMILIES["bert"]()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_the_matrices_of_the_layers(family):
    model = FAMILIES[family]()
    found = sparsity.weights(model)
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and ".layer." in name  # neither embeddings nor classifier; LayerNorm and biases are 1-d
    }
    assert found.keys() == matrices.keys() and len(found) == 12
    assert all(found[name] is matrices[name] for name in found)


def by_sorting(scores, number):
    """The units that go, found by a stable sort of everything."""
    units = [(float(score), index) for index, score in enumerate(torch.cat([s.flatten() for s in scores.values()]))]
    return {index for _, index in sorted(units)[:number]}


@pytest.mark.parametrize("pattern", ["1", "4"])
@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("ties", [False, True])
def test_choose_against_a_sort(pattern, share, ties):
    draw = torch.Generator().manual_seed(1)
    size = int(pattern)
    shapes = {"a": (7, 12 // size), "b": (3, 8 // size), "c": (5, 4 // size)}
    scores = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    if ties:
        scores = {name: values.round() for name, values in scores.items()}
    masks = sparsity.choose(scores, share, pattern)
    units = sum(values.numel() for values in scores.values())
    gone = by_sorting(scores, round(share * units))
    wanted = torch.tensor([index not in gone for index in range(units)]).repeat_interleave(size)
    assert torch.equal(torch.cat([masks[name].flatten() for name in scores]), wanted)
    assert all(masks[name].shape == (values.shape[0], values.shape[1] * size) for name, values in scores.items())


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:6", "1:2"])
def test_n_m_is_the_best_of_every_group(pattern):
    kept, size = map(int, pattern.split(":"))
    scores = {"a": torch.randn(6, 12, generator=torch.Generator().manual_seed(2))}
    mask = sparsity.choose(scores, 1 - kept / size, pattern)["a"]
    for group, chosen in zip(scores["a"].view(-1, size), mask.view(-1, size), strict=True):
        best = max(itertools.combinations(range(size), kept), key=lambda some, g=group: float(g[list(some)].sum()))
        assert chosen.nonzero().flatten().tolist() == list(best)


def test_n_m_is_reached_step_by_step():
    scores = {"a": torch.randn(8, 16, generator=torch.Generator().manual_seed(3))}
    held = None
    for share in (0.1, 0.3, 0.45, 0.5):
        masks = sparsity.choose(scores, share, "2:4", held)
        assert int((~masks["a"]).sum()) == round(share * 128)
        assert masks["a"].view(-1, 4).sum(1).min() >= 2
        assert held is None or not (masks["a"] & ~held["a"]).any()
        held, scores = masks, {"a": torch.randn(8, 16)}  # weighed anew: what is gone stays gone all the same
    assert (held["a"].view(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize("pattern", ["1", "4"])
def test_what_is_gone_stays_gone(pattern):
    draw = torch.Generator().manual_seed(4)
    scores = {"a": torch.randn(6, 12 // int(pattern), generator=draw)}
    held = sparsity.choose(scores, 0.5, pattern)
    opposite = {"a": -scores["a"]}
    opposite["a"][~held["a"][:, :: int(pattern)]] = torch.nan  # whatever a criterion says of what is gone
    masks = sparsity.choose(opposite, 0.75, pattern, held)
    assert not (masks["a"] & ~held["a"]).any()
    with pytest.raises(ValueError, match="gone already"):
        sparsity.choose(opposite, 0.25, pattern, held)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_sparsity(model, share):
    with pytest.raises(ValueError, match="sparsity"):
        sparsity.one_shot_(model, sparsity.by_magnitude(), share)


@pytest.mark.parametrize("pattern", ["", "0", "-4", "2:", ":4", "4:4", "0:4", "5:4", "2:4:8", "x"])
def test_impossible_patterns(pattern):
    with pytest.raises(ValueError, match="is no pattern"):
        sparsity.group_size(pattern)


@pytest.mark.parametrize(("pattern", "share"), [("3", 0.5), ("2:5", 0.5), ("2:4", 0.6), ("1:4", 0.8)])
def test_what_a_model_cannot_have_is_told_before_its_weights_change(model, pattern, share):
    with pytest.raises(ValueError, match="Choose another"):
        sparsity.one_shot_(model, sparsity.by_magnitude(), share, pattern)
    assert sparsity.measured(model) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_numbers(bad):
    with pytest.raises(ValueError, match="Scores of a are not finite"):
        sparsity.choose({"a": torch.tensor([[1.0, bad]])}, 0.5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("pattern", "share"), [("1", 0.8), ("4", 0.9), ("2:4", 0.5), ("1:4", 0.75)])
def test_one_shot_is_exact_and_touches_nothing_else(family, pattern, share):
    torch.manual_seed(0)
    model = FAMILIES[family]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = sparsity.one_shot_(model, sparsity.by_magnitude(), share, pattern)
    weights, size = sparsity.weights(model), sparsity.block_size(pattern)
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros == size * round(share * (total // size))
    assert sparsity.measured(model) == zeros / total
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] * masks[name] if name in masks else before[name])
    for weight in weights.values():
        zero = (weight == 0).view(weight.shape[0], -1, sparsity.group_size(pattern)).sum(2)  # in every group of inputs
        if pattern == "4":
            assert set(zero.unique().tolist()) <= {0, 4}
        elif ":" in pattern:
            assert (zero == sparsity.group_size(pattern) - int(pattern[0])).all()


def test_sub_steps_weigh_what_is_left_anew(model):
    seen = []

    def scores(model, pattern, masks):
        seen.append(sparsity.measured(model))
        assert sparsity.dropped(masks) == sparsity.dropped(sparsity.masks_of(model))
        return sparsity.by_magnitude().scores(model, pattern, masks)

    masks = sparsity.one_shot_(model, sparsity.Criterion(scores), 0.875, steps=3)
    assert seen == pytest.approx([0, 0.5, 0.75], abs=1e-4)  # half of what is left, three times
    assert sparsity.measured(model) == 0.875
    assert all(torch.equal(masks[name], mask) for name, mask in sparsity.masks_of(model).items())


def test_a_criterion_may_change_what_stays(model):
    def prune_(model, masks, before):
        assert all(mask.all() for mask in before.values())
        for weight in sparsity.weights(model).values():
            weight.data.fill_(1.0)

    sparsity.one_shot_(model, sparsity.Criterion(sparsity.by_magnitude().scores, prune_), 0.3)
    assert all(set(weight.unique().tolist()) == {0.0, 1.0} for weight in sparsity.weights(model).values())
    assert sparsity.measured(model) == pytest.approx(0.3, abs=1e-4)


def test_a_sparse_model_is_as_sparse_after_reload(tiny_backbone, tmp_path):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    masks = sparsity.one_shot_(model, sparsity.by_magnitude(), 0.9)
    disk.save(model, backbones.load_tokenizer(str(tiny_backbone)), tmp_path / "sparse")
    again, _ = disk.load(tmp_path / "sparse")
    assert sparsity.measured(again) == sparsity.measured(model)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsity.masks_of(again).items())
    # and it can be pruned further from there, keeping its zeros
    more = sparsity.one_shot_(again, sparsity.by_magnitude(), 0.95)
    assert not any((more[name] & ~masks[name]).any() for name in masks)


def test_dropping_leaves_clean_zeros(model):
    weight = next(iter(sparsity.weights(model).values()))
    weight.data[0, :3] = torch.tensor([torch.nan, torch.inf, -1.0])
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in sparsity.weights(model).items()}
    next(iter(masks.values()))[0, :3] = False
    sparsity.apply_(model, masks)
    assert torch.equal(weight[0, :3], torch.zeros(3)) and not weight[0, :3].signbit().any()


@pytest.mark.parametrize("pattern", ["1", "4"])
def test_the_control_draws_units_whatever_they_are_worth(model, pattern):
    masks = sparsity.one_shot_(copy.deepcopy(model), sparsity.at_random(1), 0.5, pattern)
    again, other = (sparsity.one_shot_(copy.deepcopy(model), sparsity.at_random(s), 0.5, pattern) for s in (1, 2))
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())
    assert any(not torch.equal(mask, other[name]) for name, mask in masks.items())
    weights = sparsity.weights(model)
    kept, gone = (
        torch.cat([weight.data[masks[name] == keep].abs() for name, weight in weights.items()])
        for keep in (True, False)
    )
    assert kept.mean() == pytest.approx(float(gone.mean()), rel=0.05)


def test_sub_steps_go_on_from_what_is_gone(model):
    sparsity.one_shot_(model, sparsity.by_magnitude(), 0.5)
    seen = []

    def scores(model, pattern, masks):
        seen.append(sparsity.measured(model))
        return sparsity.by_magnitude().scores(model, pattern, masks)

    sparsity.one_shot_(model, sparsity.Criterion(scores), 0.875, steps=2)
    assert seen == pytest.approx([0.5, 0.75], abs=1e-4)
