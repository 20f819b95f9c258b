"""Second-order pruning against dense inverses, brute force over the constrained quadratic, and its own parts."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmalib.data import LABELS, sample, subwords
from mmalib.model import backbones
from mmalib.prune import fisher, obs, sparsity

DOUBLE = torch.float64
FEW = {"num_grads": 12, "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are so small that a second thread only waits, for long where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(number, size, seed=0, scale=1.0):
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * scale


def dense_fisher(grads, block, damp, num_grads=None):
    """lambda I + 1/m sum of g g^T as one matrix, with 0 between the blocks."""
    size = grads.shape[1]
    place = torch.arange(size) // block
    full = (grads.T @ grads) / (num_grads or len(grads)) * (place[:, None] == place[None])
    return full + damp * torch.eye(size, dtype=DOUBLE)


def accumulated(grads, block, damp, dtype=DOUBLE, num_grads=None):
    inverse = fisher.BlockInverseFisher(grads.shape[1], block, damp, num_grads or len(grads), dtype=dtype)
    for grad in grads:
        inverse.add(grad.to(dtype))
    return inverse


def solved(full, weight, gone):
    """The least 1/2 d^T F d with w + d = 0 in `gone`, and where it is: one linear system with multipliers."""
    places = gone.nonzero().flatten()
    picks = torch.eye(len(weight), dtype=DOUBLE)[places]  # [gone, weights]
    system = torch.cat(
        [torch.cat([full, picks.T], 1), torch.cat([picks, torch.zeros(len(places), len(places), dtype=DOUBLE)], 1)]
    )
    right = torch.cat([torch.zeros(len(weight), dtype=DOUBLE), -weight[places]])
    change = torch.linalg.solve(system, right)[: len(weight)]
    return change @ full @ change / 2, change


def mask(size, *gone):
    found = torch.zeros(size, dtype=torch.bool)
    found[list(gone)] = True
    return found


def blocks_of(inverse):
    """F^-1 itself, [blocks, B, B]."""
    return torch.cat([root @ root.mT for _, root in inverse.chunks()])


# 23 gradients wait in two full rounds and one of 3; 400 weights are more blocks than are worked on at once
@pytest.mark.parametrize(("size", "block"), [(37, 10), (40, 10), (7, 50), (5, 1), (800, 3)])
@pytest.mark.parametrize(("dtype", "near"), [(DOUBLE, 1e-8), (torch.float32, 1e-3)])
def test_inverse_is_that_of_the_dense_fisher(size, block, dtype, near):
    grads = drawn(23, size)
    inverse, wanted = accumulated(grads, block, 1e-3, dtype), torch.linalg.inv(dense_fisher(grads, block, 1e-3))
    close = {"rtol": near, "atol": near * wanted.abs().max().item()}
    torch.testing.assert_close(inverse.diagonal().double(), wanted.diagonal(), **close)
    blocks = torch.block_diag(*blocks_of(inverse).double())
    torch.testing.assert_close(blocks[:size, :size], wanted, **close)
    assert not blocks[:size, size:].any()  # what fills the last block touches nothing


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0])
def test_float32_holds_with_the_default_damping(scale):
    """The plain recursion in float32 is wrong in the third digit where gradients are near 1."""
    grads = drawn(1024, 150, scale=scale)
    inverse, wanted = accumulated(grads, 50, 1e-7, torch.float32), torch.linalg.inv(dense_fisher(grads, 50, 1e-7))
    torch.testing.assert_close(inverse.diagonal().double(), wanted.diagonal(), rtol=2e-4, atol=0)


def test_recursion_as_published():
    """One gradient after the other, as the paper writes it; fewer gradients than announced, asked for in between."""
    grads, inverse = drawn(17, 12), fisher.BlockInverseFisher(12, 12, 0.5, 30, dtype=DOUBLE)
    wanted = torch.eye(12, dtype=DOUBLE) / 0.5
    for number, grad in enumerate(grads):
        inverse.add(grad)
        moved = wanted @ grad
        wanted = wanted - moved[:, None] * moved[None] / (30 + grad @ moved)
        if number % 4 == 0:
            torch.testing.assert_close(inverse.diagonal(), wanted.diagonal(), rtol=1e-10, atol=0)
    torch.testing.assert_close(blocks_of(inverse)[0], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_saliency_is_the_least_cost(group):
    grads, weight = drawn(30, 20), drawn(1, 20, seed=1)[0]
    inverse, full = accumulated(grads, 8, 1e-2), dense_fisher(grads, 8, 1e-2)  # the last block is half as long
    found = fisher.saliency(weight, inverse, group)
    assert len(found) == 20 // group
    for number, value in enumerate(found):
        gone = mask(20, *range(number * group, (number + 1) * group))
        assert value.item() == pytest.approx(solved(full, weight, gone)[0].item(), rel=1e-8)


@pytest.mark.parametrize(
    "gone", [(3,), (4, 5, 6, 7), (0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19), tuple(range(8)), tuple(range(20)), ()]
)
def test_update_is_the_least_change(gone):
    """One weight, a block of 4, several of them in one block and in others, a whole block, all, none."""
    grads, weight, gone = drawn(30, 20), drawn(1, 20, seed=1)[0], mask(20, *gone)
    change = fisher.update(weight, accumulated(grads, 8, 1e-2), gone)
    torch.testing.assert_close(change, solved(dense_fisher(grads, 8, 1e-2), weight, gone)[1], rtol=1e-8, atol=1e-10)
    assert not (weight + change)[gone].any()  # exactly 0


def test_update_in_float32_is_exactly_zero_where_weights_go():
    grads, weight = drawn(60, 103, scale=1e-2), drawn(1, 103, seed=1)[0].float()
    gone = drawn(1, 103, seed=2)[0] > 0
    inverse = accumulated(grads, 50, 1e-7, torch.float32)
    change = fisher.update(weight, inverse, gone)
    assert not (weight + change)[gone].any() and change.dtype == torch.float32
    wanted = solved(dense_fisher(grads, 50, 1e-7), weight.double(), gone)[1]
    torch.testing.assert_close(change.double(), wanted, rtol=1e-2, atol=1e-3)


def test_pruned_weights_are_held_at_zero_while_others_are_weighed_and_moved():
    """With gradients of 0 for the pruned ones, all is as if they were in Q too, with the Fisher of all weights."""
    grads, weight = drawn(30, 8), drawn(1, 8, seed=1)[0]
    before = mask(8, 1, 4, 6)
    weight[before] = 0
    full, inverse = dense_fisher(grads, 8, 1e-2), accumulated(grads * ~before, 8, 1e-2)
    costs = fisher.saliency(weight, inverse)
    for place in (~before).nonzero().flatten().tolist():
        least, change = solved(full, weight, before | mask(8, place))
        assert costs[place].item() == pytest.approx(least.item(), rel=1e-8)
        for gone in (mask(8, place), before | mask(8, place)):  # the old ones may be named again or not
            found = fisher.update(weight, inverse, gone)
            torch.testing.assert_close(found, change, rtol=1e-8, atol=1e-10)
            assert not (weight + found)[gone | before].any()


def test_moving_together_costs_less_than_adding_up():
    grads, weight = drawn(40, 24), drawn(1, 24, seed=1)[0]
    inverse, full = accumulated(grads, 24, 1e-3), dense_fisher(grads, 24, 1e-3)
    gone = mask(24, *fisher.saliency(weight, inverse).argsort()[:12].tolist())
    added = -blocks_of(inverse)[0] @ torch.where(gone, weight / inverse.diagonal(), 0.0)
    ways = [fisher.update(weight, inverse, gone), torch.where(gone, -weight, added), torch.where(gone, -weight, 0.0)]
    together, one_by_one, none = [(way @ full @ way).item() for way in ways]
    assert together < one_by_one < none


@pytest.fixture
def model(tiny_backbone):
    return backbones.load_model(str(tiny_backbone), seed=1).train()


@pytest.fixture(scope="module")
def tokenizer(tiny_backbone):
    return backbones.load_tokenizer(str(tiny_backbone))


@pytest.fixture(scope="module")
def rows(tokenizer):
    pairs = sample.generate()["en"]["train"][:40]
    labels = {label: number for number, label in enumerate(LABELS)}
    words, tags = zip(*pairs, strict=True)
    return subwords.training_rows(subwords.encode(words, tokenizer, 64, tags), labels)


def whole(model):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in sparsity.weights(model).items()}


def test_gradients_are_those_of_autograd(model, rows, tokenizer):
    """Without dropout, over first subwords, masked; the model is as before, frozen weights included."""
    names = list(whole(model))
    frozen = sparsity.weights(model)[names[0]].requires_grad_(False)
    masks = whole(model)
    masks[names[1]][:, ::2] = False
    found = list(obs.gradients(model, obs.of_rows(rows[:5], tokenizer, num_grads=2, batch_size=5), masks, 2))
    assert model.training and not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    frozen.requires_grad_(True)
    (batch,) = subwords.batches(rows[:5], tokenizer, 5)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    scored = batch["labels"] != subwords.IGNORED
    torch.nn.functional.cross_entropy(logits[scored], batch["labels"][scored]).backward()
    for name, weight in sparsity.weights(model).items():
        for gradient in found:  # every batch holds all five rows
            torch.testing.assert_close(gradient[name], weight.grad * masks[name], rtol=1e-3, atol=1e-7)


def test_gradients_differ_between_rounds_and_are_the_same_again(model, rows, tokenizer):
    def run():
        masks = dict(list(whole(model).items())[-1:])
        loss = obs.of_rows(rows[:40], tokenizer, num_grads=4, batch_size=20)  # two rounds over 40 rows
        return torch.stack([next(iter(g.values())) for g in obs.gradients(model, loss, masks, 4)])

    first = run()
    assert torch.equal(first, run())
    assert len({gradient.sum().item() for gradient in first}) == 4


@pytest.mark.parametrize("pattern", ["1", "4", "2:4"])
def test_portions_change_nothing(model, rows, tokenizer, pattern):
    """Weights and scores of a run that inverts in portions are those of a run that holds everything, bit for bit."""
    sizes = {name: mask.numel() for name, mask in whole(model).items()}
    small = 4 * 64 * 32 * (13 + fisher.WAITING + 2) / 2**30  # the largest weight and a little
    assert len(obs.portions(sizes, 12, small)) >= 4 and len(obs.portions(sizes, 12, 1.0)) == 1
    ends = []
    for limit in (1.0, small):
        pruned = copy.deepcopy(model)
        criterion = obs.criterion(rows, tokenizer, block_size=13, max_gib=limit, **FEW)
        masks = sparsity.one_shot_(pruned, criterion, 0.45, pattern, steps=2)
        ends.append((pruned, criterion.scores(pruned, pattern, masks)))
    (one, its_scores), (other, other_scores) = ends
    for name, weight in sparsity.weights(one).items():
        assert torch.equal(weight, sparsity.weights(other)[name])
        assert torch.equal(its_scores[name], other_scores[name])
    units = round(0.45 * sum(sizes.values()) / sparsity.block_size(pattern))
    assert sparsity.measured(one) == units * sparsity.block_size(pattern) / sum(sizes.values())


def test_every_gradient_pass_sees_the_weights_that_were_scored(model, rows, tokenizer, monkeypatch):
    """A portion's update must not be in the weights while another portion's gradients are taken."""
    seen, real = [], obs.gradients

    def watched(model, *given, **named):
        seen.append({name: weight.detach().clone() for name, weight in sparsity.weights(model).items()})
        yield from real(model, *given, **named)

    monkeypatch.setattr(obs, "gradients", watched)
    small = 4 * 64 * 32 * (50 + fisher.WAITING + 2) / 2**30
    parts = len(obs.portions({name: mask.numel() for name, mask in whole(model).items()}, 50, small))
    sparsity.one_shot_(model, obs.criterion(rows, tokenizer, max_gib=small, **FEW), 0.5)
    assert len(seen) == 2 * parts - 1  # the last portion's inverse was kept
    assert all(torch.equal(state[name], seen[0][name]) for state in seen for name in state)


@pytest.mark.parametrize("block_size, passes", [(48, 1), (50, 2)])  # 2:4 makes 48 of 50
def test_copies_of_one_model_share_an_inverse(model, rows, tokenizer, monkeypatch, block_size, passes):
    points, calls, real = [(0.3, "1"), (0.7, "1"), (0.5, "2:4")], [], obs.gradients
    shared = obs.criterion(rows, tokenizer, block_size=block_size, anew=False, **FEW)
    copies = [copy.deepcopy(model) for _ in points]
    monkeypatch.setattr(obs, "gradients", lambda *given: calls.append(1) or real(*given))
    for pruned, point in zip(copies, points, strict=True):
        sparsity.one_shot_(pruned, shared, *point)
    assert len(calls) == passes
    for pruned, point in zip(copies, points, strict=True):
        alone = copy.deepcopy(model)
        sparsity.one_shot_(alone, obs.criterion(rows, tokenizer, block_size=block_size, **FEW), *point)
        for name, weight in sparsity.weights(alone).items():
            assert torch.equal(sparsity.weights(pruned)[name], weight)


def test_large_damping_ranks_as_magnitude_does(model, rows, tokenizer):
    criterion, masks = obs.criterion(rows, tokenizer, damp=1e6, **FEW), whole(model)
    for pattern in ("1", "4"):
        ours = criterion.scores(model, pattern, masks)
        theirs = {
            name: sparsity.per_block(weight.detach().square(), pattern)
            for name, weight in sparsity.weights(model).items()
        }
        for name, scores in ours.items():
            torch.testing.assert_close(scores, theirs[name] * 1e6 / 2, rtol=1e-4, atol=0)
    ours = sparsity.choose(criterion.scores(model, "1", masks), 0.5)
    theirs = sparsity.choose(sparsity.by_magnitude().scores(model, "1", masks), 0.5)
    agree = torch.cat([(ours[name] == theirs[name]).flatten() for name in ours])
    assert agree.float().mean() > 0.999  # but for weights that are the same in the first digits


def test_one_shot_costs_less_than_magnitude(model, rows, tokenizer):
    """In the quadratic model that both are held against, over the gradients of the dense model."""
    dense = {name: weight.detach().clone().flatten().double() for name, weight in sparsity.weights(model).items()}
    found = list(obs.gradients(model, obs.of_rows(rows, tokenizer, **FEW), whole(model), FEW["num_grads"]))
    grads = {name: torch.stack([each[name].flatten() for each in found]).double() for name in dense}

    def cost(pruned):
        total = 0.0
        for name, weight in sparsity.weights(pruned).items():
            change = weight.detach().flatten().double() - dense[name]
            parts = (torch.nn.functional.pad(grads[name] * change, (0, -len(change) % 50))).unflatten(1, (-1, 50))
            total += (parts.sum(2).square().mean(0).sum() + 1e-7 * change.square().sum()).item() / 2
        return total

    costs = {}
    for name, criterion in {
        "obs": obs.criterion(rows, tokenizer, **FEW),
        "magnitude": sparsity.by_magnitude(),
    }.items():
        pruned = copy.deepcopy(model)
        sparsity.one_shot_(pruned, criterion, 0.5)
        costs[name] = cost(pruned)
    assert costs["obs"] < 0.5 * costs["magnitude"]


def test_pruned_stays_pruned_and_sparsity_is_met(model, rows, tokenizer):
    criterion = obs.criterion(rows, tokenizer, **FEW)
    before = sparsity.one_shot_(model, criterion, 0.3)
    after = sparsity.one_shot_(model, criterion, 0.7, steps=2)
    total = sum(mask.numel() for mask in after.values())
    assert sparsity.dropped(after) == round(0.7 * total)
    for name, weight in sparsity.weights(model).items():
        assert not weight[~before[name]].any() and not weight[~after[name]].any()
        assert weight.isfinite().all()


def test_errors_come_before_the_work(model, rows, tokenizer):
    unlabelled = [{**row, "labels": [subwords.IGNORED] * len(row["labels"])} for row in rows]
    with pytest.raises(ValueError, match="no gradient"):
        obs.criterion(unlabelled, tokenizer)
    for wrong in ({"damp": 0.0}, {"block_size": 0}, {"num_grads": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            obs.criterion(rows, tokenizer, **wrong)
    obs.check(model, "2:4", block_size=50)
    with pytest.raises(ValueError, match="max_gib"):
        obs.check(model, "1", max_gib=1e-6)
    with pytest.raises(ValueError, match="do not fit pattern '2:4'"):
        obs.check(model, "2:4", block_size=3)
    with pytest.raises(ValueError, match="do not fit pattern '4'"):
        sparsity.one_shot_(model, obs.criterion(rows, tokenizer, block_size=3, **FEW), 0.5, "4")
    with pytest.raises(ValueError, match="multiple of 4"):
        fisher.saliency(torch.zeros(20), fisher.BlockInverseFisher(20, 10), 4)
    with pytest.raises(ValueError, match="flat tensor of 20"):
        fisher.BlockInverseFisher(20).add(torch.zeros(4, 5))


def test_errors_of_a_model_that_has_diverged(model, rows, tokenizer):
    criterion = obs.criterion(rows, tokenizer, **FEW)
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="The loss is nan"):
        criterion.scores(model, "1", whole(model))
    with torch.no_grad():  # the same tag everywhere whatever the encoder says
        model.classifier.weight.zero_()
    with pytest.raises(ValueError, match="All gradients are 0"):
        criterion.scores(model, "1", whole(model))


@pytest.mark.parametrize(
    ("asked", "pattern", "wanted"), [(50, "1", 50), (50, "4", 48), (50, "2:4", 48), (50, "16", 48)]
)
def test_block_size_is_a_multiple_of_the_pattern(asked, pattern, wanted):
    assert obs.fitted(asked, pattern) == wanted


def test_benchmark_runs():
    """Every row of its table; in one process, so that it takes no time."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "inverse_fisher.py"))
    rows = [script[way]("smoke", 3, 1.0, "cpu") for way in ("recursion", "reference", "mask_update")]
    assert {row["gradients"] for row in rows} == {3} and all(float(row["seconds"]) >= 0 for row in rows)


def test_benchmark_compares_the_same_fisher():
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "inverse_fisher.py"))
    grad, inverse = drawn(1, 100, scale=1e-3)[0], fisher.BlockInverseFisher(100, 50, 1e-7, 60, dtype=DOUBLE)
    script["add_all"](inverse, grad, 60)
    torch.testing.assert_close(
        blocks_of(inverse), torch.linalg.inv(script["summed"](grad.view(2, 50), 60)), rtol=1e-6, atol=1e-3
    )


def test_rows_without_a_label_are_never_drawn(tokenizer):
    text = subwords.encode([["a"]] * 4, tokenizer, 8, [["O"], None, None, None])
    rows = subwords.training_rows(text, {label: number for number, label in enumerate(LABELS)})
    seen = []

    class Model:
        device = "cpu"

        def __call__(self, **batch):
            seen.append((batch["labels"] != subwords.IGNORED).any(1).all().item())
            return SimpleNamespace(loss=None)

    loss = obs.of_rows(rows, tokenizer, num_grads=6, batch_size=1)
    for number in range(6):
        loss(Model(), number)
    assert len(seen) == 6 and all(seen)
