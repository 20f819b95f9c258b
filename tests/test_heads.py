"""Gate gradients against finite differences; heads off against heads taken out; what a plan may never do."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mmalib.data.subwords import IGNORED
from mmalib.model import disk
from mmalib.model.backbones import layers, parts
from mmalib.prune import heads

LAYERS, HEADS, SIZE, LABELS, WORDS = 3, 4, 8, 5, 50
COMMON = {"vocab_size": WORDS, "num_labels": LABELS, "initializer_range": 0.4}  # wide: every head makes a difference
BERT = {
    **COMMON,
    "hidden_size": HEADS * SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
}
ARCHITECTURES = {
    "bert": lambda: BertForTokenClassification(BertConfig(**BERT)),
    "xlm-r": lambda: XLMRobertaForTokenClassification(XLMRobertaConfig(**BERT)),
    "distilbert": lambda: DistilBertForTokenClassification(
        DistilBertConfig(**COMMON, dim=HEADS * SIZE, n_layers=LAYERS, n_heads=HEADS, hidden_dim=40)
    ),
}
UNEVEN = {0: [1, 2], 2: [0, 1, 3]}


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return make(request.param)


@pytest.fixture
def bert():
    return make("bert")


def make(name):
    torch.manual_seed(2)
    model = ARCHITECTURES[name]()
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at zero, where a forgotten one would not show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def batch(lengths, seed=0, width=None):
    """Rows of these lengths; about half of the positions are scored, the second always."""
    draw = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.randint(3, WORDS, (len(lengths), width), generator=draw)
    labels = torch.randint(0, LABELS, ids.shape, generator=draw)
    labels[torch.rand(ids.shape, generator=draw) < 0.5] = IGNORED
    labels[:, 1] = 2
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": ids.where(mask == 1, 1),
        "attention_mask": mask,
        "labels": labels.where(mask == 1, IGNORED),
    }


def logits(model, given):
    with torch.no_grad():
        return model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits


def row(given, number):
    length = int(given["attention_mask"][number].sum())
    return {name: tensor[number : number + 1, :length] for name, tensor in given.items()}


def slope(model, given, layer, slot, step=1e-5):
    """The gate gradient of one row by central differences, with the gate put into the weights of `mix`."""
    weight = parts(layers(model)[layer]).mix.weight
    columns = slice(slot * SIZE, (slot + 1) * SIZE)
    whole, losses = weight.detach().clone(), []
    for gate in (1 + step, 1 - step):
        with torch.no_grad():
            weight[:, columns] = gate * whole[:, columns]
        losses.append(functional.cross_entropy(logits(model, given)[0], given["labels"][0], ignore_index=IGNORED))
        with torch.no_grad():
            weight.copy_(whole)
    return (losses[0] - losses[1]) / (2 * step)


def slow_importance(model, batches):
    """The equation, read literally: rows alone and unpadded, finite differences, mean, l2 norm per layer."""
    rows = [row(given, number) for given in batches for number in range(len(given["input_ids"]))]
    table = [
        [
            sum(abs(slope(model, one, layer, slot)) for one in rows) / len(rows)
            for slot in range(parts(own).mix.in_features // SIZE)
        ]
        for layer, own in enumerate(layers(model))
    ]
    return [torch.tensor(values) / torch.tensor(values).norm() for values in table]


def test_gate_gradients_of_every_row_against_finite_differences(model):
    model.double()
    given = batch([7, 3, 5])
    found = heads.gate_gradients(model, given, heads.gates_of(model, {}))
    assert [gradient.shape for gradient in found] == [(3, HEADS)] * LAYERS
    for layer in range(LAYERS):
        for slot in range(HEADS):
            for number in range(3):
                wanted = slope(model, row(given, number), layer, slot)
                assert found[layer][number, slot] == pytest.approx(float(wanted), rel=1e-5, abs=1e-8)


def test_importance_against_a_slow_loop_of_single_rows(model):
    model.double()
    batches = [batch([6, 3]), batch([4, 8, 2], seed=1)]
    found = heads.importance(model, batches)
    torch.testing.assert_close(found, torch.stack(slow_importance(model, batches)).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(LAYERS))


def test_importance_of_the_rest_is_that_of_the_smaller_model(model):
    """Masked heads, and removed ones, leave the importance of a model that never had them."""
    model.double()
    batches = [batch([6, 3, 5])]
    masked = heads.importance(model, batches, masked=UNEVEN)
    heads.remove_heads_(model, UNEVEN)
    removed = heads.importance(model, batches)
    for layer, slow in enumerate(slow_importance(model, batches)):
        kept = [head for head in range(HEADS) if head not in UNEVEN.get(layer, [])]
        gone = UNEVEN.get(layer, [])
        for found in (masked, removed):
            torch.testing.assert_close(found[layer, kept], slow.float(), atol=1e-5, rtol=0)
            assert found[layer, gone].isnan().all()


def test_padding_never_enters(model):
    model.double()
    narrow = batch([6, 3, 5])
    wide = batch([6, 3, 5], width=6)
    wide = {name: functional.pad(tensor, (0, 4)) for name, tensor in wide.items()}
    wide["labels"][:, 6:] = IGNORED
    draw = torch.Generator().manual_seed(9)
    noise = torch.randint(3, WORDS, wide["input_ids"].shape, generator=draw)
    noisy = {**wide, "input_ids": wide["input_ids"].where(wide["attention_mask"] == 1, noise)}
    assert not torch.equal(wide["input_ids"], noisy["input_ids"])
    gates = heads.gates_of(model, {})
    wanted = heads.gate_gradients(model, narrow, gates)
    for given in (wide, noisy):
        for found, gradient in zip(heads.gate_gradients(model, given, gates), wanted, strict=True):
            torch.testing.assert_close(found, gradient, atol=1e-12, rtol=1e-9)


def test_a_row_without_a_scored_subword_does_not_count(bert):
    given = batch([6, 3, 5])
    more = batch([6, 3, 5, 6])
    for name in ("input_ids", "attention_mask", "labels"):
        more[name][:3] = given[name]
    more["labels"][3] = IGNORED
    torch.testing.assert_close(heads.importance(bert, [more]), heads.importance(bert, [given]))
    with pytest.raises(ValueError, match="no scored subword"):
        heads.importance(bert, [{**given, "labels": torch.full_like(given["labels"], IGNORED)}])


def test_weighing_leaves_the_model_as_it_was(gated, bert):
    bert.train()  # dropout is off while heads are weighed, and on again after
    bert.requires_grad_(False)
    given = batch([6, 3, 5])
    before = copy.deepcopy(bert.state_dict())
    with torch.no_grad():
        first, second = heads.importance(bert, [given]), heads.importance(bert, [given])
    assert torch.equal(first, second) and bert.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.state_dict().items())
    assert not any(parameter.requires_grad for parameter in bert.parameters())
    with pytest.raises(RuntimeError, match="stop"), gated(bert, UNEVEN):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in bert.modules())


def test_a_model_that_diverged_is_one_clear_line(bert):
    with torch.no_grad():
        bert.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        heads.plan(bert, [batch([4])])


@pytest.mark.parametrize("gone", [UNEVEN, {layer: [0, 3] for layer in range(LAYERS)}], ids=["uneven", "even"])
def test_heads_off_equal_heads_taken_out(gated, model, gone):
    given = batch([9, 4, 6])
    whole = logits(model, given)
    with gated(model, gone):
        off = logits(model, given)
    assert torch.equal(logits(model, given), whole)
    assert (off - whole).abs().max() > 0.01
    size = sum(parameter.numel() for parameter in model.parameters())
    heads.remove_heads_(model, gone)
    real = given["attention_mask"] == 1
    torch.testing.assert_close(logits(model, given)[real], off[real], atol=1e-4, rtol=0)
    per_head = 4 * HEADS * SIZE * SIZE + 3 * SIZE  # query, key and value with bias, a slice of mix
    number = sum(len(of_layer) for of_layer in gone.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == size - number * per_head
    assert [len(left) for left in disk.heads_left(model)] == [HEADS - len(gone.get(n, [])) for n in range(LAYERS)]


def test_in_two_steps_as_in_one_by_the_first_numbers(gated, model):
    given, at_once = batch([9, 4, 6]), copy.deepcopy(model)
    heads.remove_heads_(at_once, {0: [0, 2], 1: [3], 2: [1, 2, 3]})
    heads.remove_heads_(model, {0: [2], 2: [1, 3]})
    with gated(model, {0: [0], 1: [3], 2: [2]}):
        torch.testing.assert_close(logits(model, given), logits(at_once, given), atol=1e-5, rtol=0)
    heads.remove_heads_(model, {0: [0], 1: [3], 2: [2]})
    assert torch.equal(logits(model, given), logits(at_once, given))
    assert disk.heads_left(model) == disk.heads_left(at_once) == [[1, 3], [0, 1, 2], [0]]
    assert model.config.pruned == at_once.config.pruned


def test_removal_keeps_what_is_frozen_frozen(bert):
    bert.requires_grad_(False)
    heads.remove_heads_(bert, UNEVEN)
    assert not any(parameter.requires_grad for parameter in bert.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({3: [0]}, "Layer 3 has no head 0. Layers count from 0"),
        ({-1: [0]}, "Layer -1 has no head 0"),
        ({0: [4]}, "Layer 0 has no head 4"),
        ({0: [-1]}, "Layer 0 has no head -1"),
        ({1: [2]}, "Layer 1 has no head 2.*only once"),
        ({0: [0], 1: [0, 1, 3]}, "Layer 1 would lose its last head"),
    ],
)
def test_wrong_heads_are_refused_before_anything_changes(bert, wrong, message):
    heads.remove_heads_(bert, {1: [2]})
    before, config = copy.deepcopy(bert.state_dict()), bert.config.to_dict()
    with pytest.raises(ValueError, match=message):
        heads.remove_heads_(bert, wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.state_dict().items())
    assert bert.config.to_dict() == config


@pytest.mark.parametrize("share", [1 / 12, 1 / 5, 1.0, 1e-6])
def test_a_plan_takes_the_least_important_and_leaves_one_head_a_layer(bert, share):
    batches = [batch([6, 3, 5])]
    steps = heads.plan(bert, iter(batches), share)
    size = max(1, round(share * LAYERS * HEADS))
    before = {}
    for step in steps:
        gone = {(layer, head) for layer, of_layer in step.items() for head in of_layer}
        assert len(gone) == sum(len(of_layer) for of_layer in step.values())  # none twice
        old = {(layer, head) for layer, of_layer in before.items() for head in of_layer}
        assert old < gone and len(gone - old) <= size
        assert all(len(of_layer) < HEADS for of_layer in step.values())
        # brute force: walk through the heads in order of importance, passing over a layer's last one
        weighed = heads.importance(bert, batches, before)
        chosen = set(old)
        order = sorted((float(weighed[n, h]), n, h) for n in range(LAYERS) for h in range(HEADS) if (n, h) not in old)
        for _, layer, head in order:
            if len(chosen - old) < size and sum(n == layer for n, _ in chosen) < HEADS - 1:
                chosen.add((layer, head))
        assert chosen == gone
        before = step
    assert sum(len(of_layer) for of_layer in steps[-1].values()) == LAYERS * (HEADS - 1)
    assert len(steps) == -(-LAYERS * (HEADS - 1) // size)


def test_a_plan_for_a_pruned_model_goes_on_with_what_is_left(bert):
    heads.remove_heads_(bert, UNEVEN)
    steps = heads.plan(bert, [batch([6, 3, 5])], share=1 / 7)  # 7 heads are left
    assert len(steps) == 4 and set(steps[-1]) == {0, 1}
    heads.remove_heads_(bert, steps[-1])
    assert [len(left) for left in disk.heads_left(bert)] == [1, 1, 1]
    assert heads.plan(bert, [batch([4])]) == []
