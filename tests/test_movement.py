"""Movement against a run computed by hand and against autograd's own derivative with respect to the masks."""

import copy

import pytest
import torch
from datasets import Dataset
from smoke import SMOKE
from torch import nn
from torch.func import functional_call
from transformers import TrainerCallback

from mmalib.data import corpus
from mmalib.model import backbones
from mmalib.prune import movement, sparsity
from mmalib.prune.gradual import Pruning, schedule


def test_three_steps_by_hand(monkeypatch):
    """Two weights, loss (w.x - t)^2 / 2, plain SGD at 0.25, all numbers exact in binary.

    | step | w'         | x       | t | error | gradient  | S after it        | w after it      |
    |  1   | 3, 1       | 1, 1    | 2 |  2    | 2, 2      | -6, -2            | 2.5, 0.5        |
    |  2   | 2.5, 0.5   | 1, 1    | 2 |  1    | 1, 1      | -8.5, -2.5        | 2.25, 0.25      |
    half goes: the first weight, with 2.25 put aside
    |  3   | 0, 0.25    | 4, -1   | 4 | -4.25 | -17, 4.25 | 29.75, -3.5625    | 0, -0.8125      |
    half goes: the first comes back with 2.25, the second goes
    """
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 1.0]])
    for module in (movement, sparsity):
        monkeypatch.setattr(module, "weights", lambda model: dict(model.named_parameters()))
    criterion, masks = movement.criterion(None), {"weight": torch.tensor([[True, True]])}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)

    def step(x, target):
        optimizer.zero_grad()
        ((model(torch.tensor(x)) - target) ** 2 / 2).sum().backward()
        criterion.observe(model, masks, 1.0)
        optimizer.step()
        sparsity.apply_(model, masks)
        return criterion.scores(model, "1", masks)["weight"].tolist()[0], model.weight.tolist()[0]

    assert step([1.0, 1.0], 2) == ([-6, -2], [2.5, 0.5])
    assert step([1.0, 1.0], 2) == ([-8.5, -2.5], [2.25, 0.25])
    masks = sparsity.prune_(model, criterion, 0.5, "1", masks, 1)
    assert masks["weight"].tolist() == [[False, True]] and model.weight.tolist() == [[0, 0.25]]
    assert step([4.0, -1.0], 4) == ([29.75, -3.5625], [0, -0.8125])
    masks = sparsity.prune_(model, criterion, 0.5, "1", masks, 1)
    assert masks["weight"].tolist() == [[True, False]] and model.weight.tolist() == [[2.25, 0]]
    assert criterion.scores(model, "2", masks)["weight"].tolist() == [[26.1875]]  # a block weighs as its weights


def test_scores_are_the_derivative_with_respect_to_the_masks(tiny_backbone):
    """Straight-through: S falls by dL/dM, M taken as numbers that multiply the dense weights."""
    model = backbones.load_model(str(tiny_backbone), seed=1).eval()
    ids, labels = torch.randint(5, 900, (4, 12)), torch.randint(0, 9, (4, 12))
    weights, criterion = sparsity.weights(model), movement.criterion(None)
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in weights.items()}
    wanted = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    whole = {name: torch.ones_like(mask) for name, mask in masks.items()}

    def check(now):
        numbers = {name: mask.float().requires_grad_() for name, mask in now.items()}
        masked = {name: dense[name] * number for name, number in numbers.items()}
        loss = functional_call(model, masked, kwargs={"input_ids": ids, "labels": labels}).loss
        for name, gradient in zip(numbers, torch.autograd.grad(loss, list(numbers.values())), strict=True):
            wanted[name] -= gradient
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        criterion.observe(model, now, 1.0)
        for name, score in criterion.scores(model, "1", now).items():
            torch.testing.assert_close(score, wanted[name], atol=1e-7, rtol=1e-4)
            assert not weights[name].grad[~now[name]].any() and weights[name].grad[now[name]].any()

    check(whole)
    criterion.prune_(model, masks, whole)
    sparsity.apply_(model, masks)
    check(masks)
    opposite = {name: ~mask for name, mask in masks.items()}  # everything that was gone comes back as it was
    criterion.prune_(model, opposite, masks)
    sparsity.apply_(model, opposite)
    assert all(torch.equal(weight, dense[name] * opposite[name]) for name, weight in weights.items())
    check(opposite)


def test_nothing_to_go_by(tiny_backbone):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    with pytest.raises(ValueError, match="before training"):
        sparsity.one_shot_(model, movement.criterion(None), 0.5)


def test_the_gradient_is_what_the_optimizer_gets(tune, tiny_backbone, tmp_path):
    """Clipped to a norm of 1: the callback sees the numbers that the step is made of."""
    words = [["Anna", "lives", "in", "Rome"]] * 32
    data = Dataset.from_dict({"words": words, "tags": [["B-PER", "O", "O", "B-LOC"]] * 32})
    model, sums, norms = backbones.load_model(str(tiny_backbone), seed=1), {}, []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_, model, **__):
            norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters()])))
            for name, weight in sparsity.weights(model).items():
                sums[name] = sums.get(name, 0) - weight.detach() * weight.grad

    criterion = movement.criterion(None)
    seen = {}

    def scores(model, pattern, masks):
        seen.update(criterion.scores(model, pattern, masks))
        return seen

    class Freeze(TrainerCallback):  # stops adding up where the masks change
        def on_step_begin(self, args, state, *_, **__):
            if state.global_step == 6:
                for name in sums:
                    torch.testing.assert_close(seen[name], sums[name], atol=1e-8, rtol=1e-5)
                norms.append(None)

    spy = sparsity.Criterion(scores, criterion.prune_, criterion.observe, revives=True, state=criterion.state)
    tune(
        model,
        backbones.load_tokenizer(str(tiny_backbone)),
        {"train": data, "dev": data},
        tmp_path,
        seed=1,
        epochs=2,
        batch_size=8,
        learning_rate=1e-2,
        max_length=32,
        choose_after=1.5,
        callbacks=[Watch(), Pruning(spy, [(1.5, 0.8)]), Freeze()],
    )
    before = norms[: norms.index(None)]
    assert len(before) == 6 and max(before) <= 1.0001
    assert sparsity.measured(model) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("start", [0.0, 2.0])
def test_scores_under_adam_are_parameters_of_torch(tiny_backbone, start):
    """A copy of the scores as a parameter of torch's own Adam, with the gradient W * dL/dW', at a falling rate."""
    model = backbones.load_model(str(tiny_backbone), seed=1).eval()
    own, criterion = sparsity.weights(model), movement.criterion(1e-2, start=start)
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in own.items()}
    sparsity.apply_(model, masks)
    mean = torch.cat([weight.detach().abs().flatten() for weight in own.values()]).mean()
    reference = {name: nn.Parameter(start * weight.detach().abs() / mean) for name, weight in own.items()}
    optimizer = torch.optim.AdamW(reference.values(), lr=1e-2, weight_decay=0.0)
    for pace in (0.5, 1.0, 0.25):
        ids, labels = torch.randint(5, 900, (4, 12)), torch.randint(0, 9, (4, 12))
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        for name, score in reference.items():
            score.grad = own[name].detach() * own[name].grad
        optimizer.param_groups[0]["lr"] = 1e-2 * pace
        optimizer.step()
        criterion.observe(model, masks, pace)
    for name, score in criterion.scores(model, "1", masks).items():
        torch.testing.assert_close(score, reference[name].detach())


@pytest.mark.parametrize("per_matrix", [False, True])
def test_each_matrix_or_the_whole_model_loses_its_share(tiny_backbone, per_matrix):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    criterion = movement.criterion(per_matrix=per_matrix)
    ids = torch.randint(5, 900, (4, 12), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids % 9).loss.backward()
    criterion.observe(model, sparsity.masks_of(model), 1.0)
    masks = sparsity.one_shot_(model, criterion, 0.3)
    shares = {sparsity.dropped({name: mask}) / mask.numel() for name, mask in masks.items()}
    assert (max(shares) - min(shares) < 1e-3) == per_matrix
    assert sparsity.measured(model) == pytest.approx(0.3, abs=1e-3)


def test_before_anything_has_moved_scores_rank_as_the_sizes_they_begin_at(tiny_backbone):
    model = backbones.load_model(str(tiny_backbone), seed=1).eval()
    own, criterion = sparsity.weights(model), movement.criterion(1e-2, start=1.0)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in own.items()}
    for weight in own.values():
        weight.grad = torch.zeros_like(weight)
    criterion.observe(model, masks, 1.0)
    chosen, by_size = (sparsity.choose(c.scores(model, "1", masks), 0.5) for c in (criterion, sparsity.by_magnitude()))
    assert all(torch.equal(chosen[name], by_size[name]) for name in own)


def test_movement_beats_random_on_a_small_trained_model(tune, tiny_backbone, tmp_path):
    english = corpus.load(SMOKE, "sample")["en"]
    few = {"train": english["train"], "dev": english["train"]}  # learnt by heart: there is something to lose
    tokenizer, how = backbones.load_tokenizer(str(tiny_backbone)), {"seed": 1, "batch_size": 4, "max_length": 64}
    dense, history = tune(
        backbones.load_model(str(tiny_backbone), seed=1), tokenizer, few, tmp_path / "dense",
        epochs=30, learning_rate=5e-3, **how,
    )  # fmt: skip
    assert max(history["dev_f1"]) > 0.8
    f1 = {}
    for name, criterion in {"movement": movement.criterion(), "random": sparsity.at_random(1)}.items():
        callback = Pruning(criterion, schedule("cubic", 0.25, 3, 0.0, 0.5, 40))
        _, history = tune(
            copy.deepcopy(dense), tokenizer, few, tmp_path / name,
            epochs=4, learning_rate=1e-3, choose_after=3, callbacks=[callback], **how,
        )  # fmt: skip
        f1[name] = max(history["dev_f1"][3:])
    assert f1["movement"] > f1["random"] + 0.05
