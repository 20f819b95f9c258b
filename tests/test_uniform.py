"""Importance against finite differences of gates; removal against silenced units; every layer keeps equally many."""

import copy

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

from mmalib.data.subwords import IGNORED
from mmalib.model import disk
from mmalib.model.backbones import layers, load_tokenizer, parts
from mmalib.prune import obs, sparsity, uniform
from mmalib.prune.heads import plan, remove_heads_

HEADS, SIZE, WIDTH, LABELS = 3, 4, 10, 9
SHAPE = dict(vocab_size=50, num_hidden_layers=2, num_attention_heads=HEADS, hidden_size=HEADS * SIZE)
BIG = dict(intermediate_size=WIDTH, max_position_embeddings=64, initializer_range=0.5, num_labels=LABELS)
ARCHITECTURES = {
    "bert": lambda: BertForTokenClassification(BertConfig(**SHAPE, **BIG)),
    "xlm-roberta": lambda: XLMRobertaForTokenClassification(XLMRobertaConfig(**SHAPE, **BIG)),
    "distilbert": lambda: DistilBertForTokenClassification(
        DistilBertConfig(
            vocab_size=50,
            n_layers=2,
            n_heads=HEADS,
            dim=HEADS * SIZE,
            hidden_dim=WIDTH,
            max_position_embeddings=64,
            initializer_range=0.5,
            num_labels=LABELS,
        )
    ),
}


@pytest.fixture(params=list(ARCHITECTURES))
def model(request):
    torch.manual_seed(0)
    model = ARCHITECTURES[request.param]().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):  # zero in a fresh model
                weight.normal_(std=0.2)
    return model


def batch(seed, rows=3, length=7, padding=2):
    """Random subwords; the second row is shorter, the first has words without a label."""
    torch.manual_seed(seed)
    ids, labels = torch.randint(5, 50, (rows, length)), torch.randint(0, LABELS, (rows, length))
    mask = torch.ones_like(ids)
    labels[0, ::2] = IGNORED
    if padding:
        ids[1, -padding:], mask[1, -padding:], labels[1, -padding:] = 1, 0, IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_finite_differences(model, given, layer, unit, kind, step=1e-4):
    """|dL/dgate| for a gate that scales one head's output, or one neuron before or after its activation."""
    own = parts(layers(model)[layer])

    def loss(gate):
        def scale(values):
            places = slice(unit * SIZE, (unit + 1) * SIZE) if kind == "head" else unit
            factor = torch.ones_like(values)
            factor[..., places] = gate
            return values * factor

        if kind == "before":
            handle = own.widen.register_forward_hook(lambda _, __, output: scale(output))
        else:
            linear = own.mix if kind == "head" else own.narrow
            handle = linear.register_forward_pre_hook(lambda _, inputs: (scale(inputs[0]),))
        with torch.no_grad():
            value = model(**given).loss
        handle.remove()
        return value

    return abs((loss(1 + step) - loss(1 - step)) / (2 * step)).item()


def test_importance_is_the_gradient_by_gates(model):
    model.double()
    given = [batch(1), batch(2, rows=2, length=4)]
    heads, neurons = uniform.importance(model, given)
    assert [len(of_layer) for of_layer in (*heads, *neurons)] == [HEADS, HEADS, WIDTH, WIDTH]
    for layer in range(2):
        for head in range(HEADS):
            wanted = sum(by_finite_differences(model, b, layer, head, "head") for b in given) / 2
            assert heads[layer][head].item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)
        for neuron in range(WIDTH):
            wanted = sum(
                by_finite_differences(model, b, layer, neuron, kind) for b in given for kind in ("before", "after")
            )
            assert neurons[layer][neuron].item() == pytest.approx(wanted / 2, rel=1e-4, abs=1e-7)


def test_padding_never_enters(model):
    given = batch(1, padding=0)
    wider = {name: torch.nn.functional.pad(values, (0, 5), value=1) for name, values in given.items()}
    wider["attention_mask"][:, 7:], wider["labels"][:, 7:] = 0, IGNORED
    wanted = uniform.importance(model, [given])
    for found, score in zip(uniform.importance(model, [wider]), wanted, strict=True):
        torch.testing.assert_close(found, score)
    wider["input_ids"][:, 7:] = 23  # whatever stands in the padding
    for found, score in zip(uniform.importance(model, [wider]), wanted, strict=True):
        torch.testing.assert_close(found, score)


def test_unscored_words_never_enter(model):
    """The last layer sees each position alone: its neurons' scores come from the scored positions, by hand."""
    given = batch(3)
    own, seen = parts(layers(model)[-1]), {}

    def see(name):
        def hook(_, inputs, output):
            seen[name] = output if name == "before" else inputs[0]
            seen[name].retain_grad()

        return hook

    handles = [own.widen.register_forward_hook(see("before")), own.narrow.register_forward_hook(see("after"))]
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    scored = given["labels"] != IGNORED
    torch.nn.functional.cross_entropy(logits[scored], given["labels"][scored]).backward()
    for handle in handles:
        handle.remove()
    wanted = sum((values * values.grad)[scored].sum(0).abs() for values in seen.values())
    _, neurons = uniform.importance(model, [given])
    torch.testing.assert_close(neurons[-1], wanted.detach())


def test_a_batch_without_labels_does_not_count_and_nothing_but_such_is_an_error(model):
    silent = batch(4)
    silent["labels"][:] = IGNORED
    found, wanted = (uniform.importance(model, given) for given in ([batch(1), silent], [batch(1)]))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no scored subword"):
        uniform.importance(model, [silent])


def test_importance_leaves_the_model_as_it_was(model):
    model.train()
    own = parts(layers(model)[0])
    own.mix.requires_grad_(False)
    own.widen.weight.grad = torch.ones_like(own.widen.weight)
    given = [batch(1)]
    first, second = (uniform.importance(model, given) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # no dropout
    assert model.training and not own.mix.weight.requires_grad and own.widen.bias.requires_grad
    assert torch.equal(own.widen.weight.grad, torch.ones_like(own.widen.weight)) and own.widen.bias.grad is None


def test_a_model_gone_astray_is_one_clear_line(model):
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        uniform.importance(model, [batch(1)])


def test_a_model_that_has_lost_units_is_measured_by_those_that_are_left(model):
    model.double()
    remove_heads_(model, {0: [1]})
    uniform.remove_neurons_(model, {1: [0, 4, 9]})
    heads, neurons = uniform.importance(model, [batch(1)])
    assert [len(of_layer) for of_layer in (*heads, *neurons)] == [HEADS - 1, HEADS, WIDTH, WIDTH - 3]
    wanted = by_finite_differences(model, batch(1), 0, 1, "head")  # the second slice is the third head
    assert heads[0][1].item() == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_has_lost_a_whole_part_is_weighed_and_pruned_on(model):
    remove_heads_(model, {0: range(HEADS)}, last=True)
    uniform.remove_neurons_(model, {1: range(WIDTH)}, last=True)
    of_heads, of_neurons = uniform.importance(model, [batch(1)])
    assert [len(of_layer) for of_layer in (*of_heads, *of_neurons)] == [0, HEADS, WIDTH, 0]
    assert [sorted(step) for step in plan(model, [batch(1)])] == [[1]] * (HEADS - 1)
    second_order = obs.by_loss(lambda model, number: model(**batch(number)).loss, block_size=4, damp=1e-4, num_grads=4)
    for criterion in (sparsity.by_magnitude(), second_order):
        pruned = copy.deepcopy(model)
        sparsity.one_shot_(pruned, criterion, 0.5)
        assert sparsity.measured(pruned) == 0.5


def test_removed_neurons_equal_silenced_ones(model):
    given, gone = batch(5), {0: [0, 3, 9], 1: [5]}
    handles = []
    for layer, places in gone.items():

        def silence(_, inputs, places=places):
            values = inputs[0].clone()
            values[..., places] = 0
            return (values,)

        handles.append(parts(layers(model)[layer]).narrow.register_forward_pre_hook(silence))
    with torch.no_grad():
        wanted = model(**given).logits
    for handle in handles:
        handle.remove()
    uniform.remove_neurons_(model, gone)
    with torch.no_grad():
        found = model(**given).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert disk.neurons_left(model) == [WIDTH - 3, WIDTH - 1]


def test_neurons_go_by_their_places_of_now(model):
    first = parts(layers(model)[0]).widen.weight.clone()
    uniform.remove_neurons_(model, {0: [0, 1]})
    uniform.remove_neurons_(model, {0: [0]})  # which was the third at first
    assert torch.equal(parts(layers(model)[0]).widen.weight, first[3:])


def test_wrong_neurons_are_clear_errors_and_change_nothing(model):
    for wrong, line in (
        ({2: [0]}, "Layer 2 has no neuron 0"),
        ({0: [1], 1: [WIDTH]}, f"Layer 1 has no neuron {WIDTH}"),
        ({0: [-1]}, "no neuron -1"),
        ({0: range(WIDTH)}, "lose its last"),
    ):
        with pytest.raises(ValueError, match=line):
            uniform.remove_neurons_(model, wrong)
    assert disk.neurons_left(model) == [WIDTH, WIDTH]


def test_the_plan_of_the_small_backbone_goes_in_twelfths():
    assert uniform.plan(12, 1536) == [(heads, 128 * heads) for heads in range(11, 0, -1)]
    assert uniform.plan(12, 1536, 1 / 4) == [(9, 1152), (6, 768), (3, 384), (1, 128)]


@pytest.mark.parametrize(
    ("heads", "width", "share"), [(12, 3072, 1 / 3), (3, 10, 0.5), (16, 5, 0.01), (12, 100, 0.99), (7, 64, 0.3)]
)
def test_every_plan_falls_in_proportion_to_one_head(heads, width, share):
    found = uniform.plan(heads, width, share)
    assert found[-1][0] == 1 and abs(found[0][0] - max(1, heads - max(1, share * heads))) <= 0.5
    assert all(after[0] < before[0] for before, after in zip([(heads, width), *found], found, strict=False))
    for left, neurons in found:
        assert neurons >= 1 and (abs(neurons / width - left / heads) <= 0.5 / width or neurons == 1)


def test_a_plan_that_cannot_be_is_a_clear_error():
    for arguments, line in (((12, 64, 1), "and 1"), ((12, 64, 0), "cannot take")):
        with pytest.raises(ValueError, match=line):
            uniform.plan(*arguments)


def test_shrinking_step_by_step_keeps_the_most_important_everywhere(model):
    given, last = [batch(1), batch(2)], [list(range(HEADS))] * 2
    for heads, neurons in uniform.plan(HEADS, WIDTH, 1 / HEADS):
        of_heads, of_neurons = uniform.importance(model, given)
        before = [parts(layer).narrow.weight.clone() for layer in layers(model)]
        gone = uniform.shrink_(model, given, heads, neurons)
        left = disk.heads_left(model)
        assert [len(of_layer) for of_layer in left] == [heads] * 2 and disk.neurons_left(model) == [neurons] * 2
        for layer, of_layer in enumerate(left):
            assert sorted([*of_layer, *gone[layer]]) == last[layer]  # nothing goes twice or unsaid
            assert of_layer == sorted(last[layer][slot] for slot in of_heads[layer].topk(heads).indices)
            rows = of_neurons[layer].topk(neurons).indices.sort().values
            assert torch.equal(parts(layers(model)[layer]).narrow.weight, before[layer][:, rows])
        last = left


def test_shrinking_equals_gates_on_the_heads_that_went(gated, model):
    given = batch(6)
    whole = copy.deepcopy(model)
    gone = uniform.shrink_(model, [given], 1, WIDTH)  # heads alone
    with gated(whole, gone), torch.no_grad():
        wanted = whole(**given).logits
    with torch.no_grad():
        torch.testing.assert_close(model(**given).logits, wanted, atol=1e-5, rtol=1e-5)


def test_a_shrunk_model_comes_back_from_disk_and_learns(model, tiny_backbone, tmp_path):
    given = batch(7)
    uniform.shrink_(model, [given], 2, 6)
    disk.save(model, load_tokenizer(str(tiny_backbone)), tmp_path / "small")
    again, _ = disk.load(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(again(**given).logits, model(**given).logits)
    assert disk.heads_left(again) == disk.heads_left(model)
    optimizer, losses = torch.optim.Adam(again.parameters(), lr=1e-2), []
    for _ in range(5):
        loss = again(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    uniform.shrink_(again, [given], 1, 3)  # and shrinks on from there
    assert disk.neurons_left(again) == [3, 3]


def test_a_layer_that_is_narrower_already_stays_as_it_is(model):
    uniform.remove_neurons_(model, {0: range(WIDTH - 3)})
    uniform.shrink_(model, [batch(7)], 2, 6)
    assert disk.neurons_left(model) == [3, 6]
