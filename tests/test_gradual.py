"""Gradual pruning: the published schedules, exact sparsity through Adam, kills and later phases."""

import copy
from types import SimpleNamespace

import pytest
import torch
from smoke import SMOKE
from torch.nn.utils import prune
from transformers import TrainerCallback

from mmalib import plan
from mmalib.data import corpus
from mmalib.model import backbones, disk
from mmalib.prune import gradual, movement, sparsity

CRITERIA = {"magnitude": sparsity.by_magnitude, "movement": movement.criterion}
SETTINGS = {"seed": 1, "batch_size": 16, "learning_rate": 3e-3, "max_length": 64}
EPOCHS, UPDATES = 3, gradual.schedule("cubic", 0.5, 2, 0.5, 0.9, 4)  # at epochs 0.5, 1, 1.5 and 2


def test_cubic_as_published():
    found = gradual.schedule("cubic", 2, 8, 0.7, 0.9, 13)
    assert [when for when, _ in found] == pytest.approx([2 + n / 2 for n in range(13)])
    # s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with n dt = 6, by hand at t = 2, 3.5, 5 and 8
    at = dict(found)
    assert [at[2], at[3.5], at[5], at[8]] == pytest.approx([0.7, 0.9 - 0.2 * 27 / 64, 0.9 - 0.2 / 8, 0.9])


def test_linear_by_hand():
    assert gradual.schedule("linear", 1, 3, 0.5, 0.9, 5) == [
        (pytest.approx(when), pytest.approx(share))
        for when, share in [(1, 0.5), (1.5, 0.6), (2, 0.7), (2.5, 0.8), (3, 0.9)]
    ]


def test_one_update_goes_all_the_way():
    assert gradual.schedule("cubic", 2, 2, 0.3, 0.5, 1) == [(2, 0.5)]


@pytest.mark.parametrize(("name", "every"), [("10 epochs", 0.5), ("30 epochs", 4)])
def test_recipes_as_printed(name, every):
    recipe = plan.OBERT[name]
    dense = 2
    assert dense + recipe["pruning_epochs"] + recipe["sparse_epochs"] == int(name.split()[0])
    updates = gradual.schedule("cubic", 0, recipe["pruning_epochs"], 0.7, 0.9, recipe["updates"])
    assert updates[0] == (0, pytest.approx(0.7)) and updates[-1] == (recipe["pruning_epochs"], 0.9)
    assert updates[1][0] - updates[0][0] == every
    assert 8e-5 * recipe["end_rate"] == pytest.approx({"10 epochs": 3e-5, "30 epochs": 8e-6}[name])


@pytest.fixture(scope="module")
def corpora():
    return corpus.load(SMOKE, "sample")


@pytest.fixture(scope="module")
def fit(tune, tiny_backbone, corpora):
    def run(folder, callbacks, model=None, **changes):
        model = model or backbones.load_model(str(tiny_backbone), seed=1)
        settings = {**SETTINGS, "epochs": EPOCHS, "choose_after": UPDATES[-1][0], **changes}
        tokenizer = backbones.load_tokenizer(str(tiny_backbone))
        return tune(model, tokenizer, corpora["en"], folder, callbacks=callbacks, **settings)

    return run


def score(model):
    """Cheaper than F1, and different after every step."""
    return {"es": {"dev": {"f1": sum(float(weight.detach().sum()) for weight in sparsity.weights(model).values())}}}


def pruning(name):
    return gradual.Pruning(CRITERIA[name](), UPDATES, score=score)


class Watch(TrainerCallback):
    """Before and after the pruning callback: what the optimizer does to pruned weights, and what is left of it."""

    def __init__(self, pruning, before):
        self.pruning, self.before, self.revived, self.wrong, self.masks = pruning, before, 0, 0, []

    def on_optimizer_step(self, *_, model, **__):
        own = sparsity.weights(model)
        alive = sum(int(own[name][~mask].count_nonzero()) for name, mask in self.pruning.masks.items())
        if self.before:
            self.revived += alive
        else:
            self.wrong += alive
            self.masks.append(self.pruning.masks)


@pytest.fixture(scope="module", params=CRITERIA)
def pruned(fit, request, tmp_path_factory):
    callback = pruning(request.param)
    watch = Watch(callback, before=True), Watch(callback, before=False)
    folder = tmp_path_factory.mktemp("pruned") / "run"
    model, history = fit(folder, [watch[0], callback, watch[1]])
    return request.param, model, history, callback, watch


def units(model):
    return sum(weight.numel() for weight in sparsity.weights(model).values())


def test_exact_after_training_with_adam(pruned):
    _, model, history, callback, (before, after) = pruned
    assert round(sparsity.measured(model) * units(model)) == round(0.9 * units(model))
    assert all(torch.equal(mask, callback.masks[name]) for name, mask in sparsity.masks_of(model).items())
    assert before.revived > 0 and after.wrong == 0  # Adam does revive them, and none outlives its step
    assert history["best_epoch"] == 3  # the only one that ends after the last update


def test_points_along_the_way(pruned):
    _, model, _, callback, _ = pruned
    steps = [2, 4, 6, 8]  # of 4 an epoch
    assert [(point["step"], point["stage"]) for point in callback.points] == [
        *((step, stage) for step in steps for stage in ("recovered", "pruned")),
        (12, "recovered"),
    ]
    wanted = [0.0]
    for _, share in UPDATES:
        wanted += [round(share * units(model)) / units(model)] * 2
    assert [point["sparsity"] for point in callback.points] == wanted
    scores = [point["scores"]["es"]["dev"]["f1"] for point in callback.points]
    assert len(set(scores)) == len(scores) and scores[-1] == score(model)["es"]["dev"]["f1"]


def test_where_nothing_goes_nothing_is_asked_and_the_model_is_scored_once(fit, tmp_path):
    asked = []

    def scores(*given):
        asked.append(given)
        return sparsity.by_magnitude().scores(*given)

    updates = gradual.schedule("cubic", 0, 1, 0.0, 0.5, 3)
    callback = gradual.Pruning(sparsity.Criterion(scores), updates, score=score)
    fit(tmp_path, [callback], epochs=2, choose_after=1)
    assert len(asked) == 2
    points = [(point["step"], point["stage"], round(point["sparsity"], 2)) for point in callback.points]
    assert points[:3] == [(0, "recovered", 0.0), (2, "recovered", 0.0), (2, "pruned", 0.44)]
    assert points[3:] == [(4, "recovered", 0.44), (4, "pruned", 0.5), (8, "recovered", 0.5)]


def test_movement_brings_weights_back_and_magnitude_does_not(pruned):
    name, _, _, _, (_, after) = pruned
    steps = zip(after.masks, after.masks[1:], strict=False)
    back = sum(int((now[key] & ~then[key]).sum()) for then, now in steps for key in now)
    assert (back > 0) == (name == "movement")


class Kill(TrainerCallback):
    """Stands for a kill at a moment of the loop."""

    def __init__(self, event, number):
        self.left = number
        setattr(self, event, self.strike)

    def strike(self, *_, **__):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("pruned", "event", "number"),
    [
        ("movement", "on_save", 1),  # masks are half-way
        ("movement", "on_optimizer_step", 7),  # in the second epoch, after a mask update that must be repeated
        ("movement", "on_evaluate", 2),  # the masks of the second epoch are written, its checkpoint is not
        ("movement", "on_save", 3),  # nothing is left to train
        ("magnitude", "on_optimizer_step", 7),
    ],
    indirect=["pruned"],
    scope="module",
)
def test_killed_and_resumed_equals_unbroken(fit, pruned, tmp_path, event, number):
    name, model, history, callback, _ = pruned
    again = pruning(name)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", [again, Kill(event, number)])
    again = pruning(name)  # another process knows nothing
    resumed, history_again = fit(tmp_path / "run", [again])
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in resumed.state_dict().items())
    assert again.points == callback.points and history_again["dev_f1"] == history["dev_f1"]
    assert all(torch.equal(mask, callback.masks[key]) for key, mask in again.masks.items())
    checkpoints = {path.name.split("-")[1] for path in (tmp_path / "run").glob("checkpoint-*")}
    assert {path.stem.split("-")[1] for path in (tmp_path / "run").glob("pruning-*")} == checkpoints


@pytest.mark.parametrize(("pattern", "final"), [("4", 0.8), ("2:4", 0.5)])
def test_patterns_hold_through_training(fit, tmp_path, pattern, final):
    updates = gradual.schedule("linear", 0.5, 1, 0.3, final, 3)
    callback = gradual.Pruning(sparsity.by_magnitude(), updates, pattern=pattern)
    model, _ = fit(tmp_path, [callback], epochs=2, choose_after=1)
    groups = [(weight == 0).unflatten(1, (-1, 4)).sum(2) for weight in sparsity.weights(model).values()]
    if pattern == "2:4":
        assert all((group == 2).all() for group in groups)
    else:
        assert all(set(group.unique().tolist()) <= {0, 4} for group in groups)
        assert sum(int(group.sum()) for group in groups) == 4 * round(final * units(model) / 4)


def test_masks_hold_through_later_phases(fit, pruned, tiny_backbone, tmp_path):
    _, model, _, callback, _ = pruned
    model = copy.deepcopy(model)
    disk.save(model, backbones.load_tokenizer(str(tiny_backbone)), tmp_path / "sparse")
    model, _ = disk.load(tmp_path / "sparse")
    before = {name: weight.detach().clone() for name, weight in sparsity.weights(model).items()}
    hold = gradual.Hold(sparsity.masks_of(model))
    tuned, _ = fit(tmp_path / "run", [hold], model, epochs=1, choose_after=0)
    for name, weight in sparsity.weights(tuned).items():
        assert torch.equal(weight != 0, callback.masks[name])
    assert any(not torch.equal(weight, before[name]) for name, weight in sparsity.weights(tuned).items())


def test_someone_else_changing_pruned_weights_is_found_out(fit, tiny_backbone, tmp_path):
    model = backbones.load_model(str(tiny_backbone), seed=1)
    hold = gradual.Hold(sparsity.one_shot_(model, sparsity.by_magnitude(), 0.8))

    class Spoil(TrainerCallback):
        def on_optimizer_step(self, *_, model, **__):
            next(iter(sparsity.weights(model).values())).data.fill_(1.0)

    with pytest.raises(RuntimeError, match="not 0 after training"):
        fit(tmp_path, [hold, Spoil()], model, epochs=1, choose_after=0)


def test_held_weights_train_as_torch_trains_a_masked_model(tiny_backbone):
    """Setting weights back to 0 after AdamW's step is the same as a mask inside the forward pass."""
    model = backbones.load_model(str(tiny_backbone), seed=1).eval()
    masks = sparsity.one_shot_(model, sparsity.by_magnitude(), 0.8)
    reference = copy.deepcopy(model)
    linears = [linear for layer in backbones.layers(reference) for linear in backbones.parts(layer)]
    for linear, mask in zip(linears, masks.values(), strict=True):
        prune.custom_from_mask(linear, "weight", mask)
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(5, 900, (4, 12), generator=draw) for _ in range(5)]
    for one, after in ((model, lambda: sparsity.apply_(model, masks)), (reference, lambda: None)):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2, weight_decay=0.1)
        for ids in batches:
            optimizer.zero_grad()
            one(input_ids=ids, labels=ids % 9).loss.backward()
            optimizer.step()
            after()
    for weight, linear in zip(sparsity.weights(model).values(), linears, strict=True):
        torch.testing.assert_close(weight.detach(), linear.weight_mask * linear.weight_orig.detach())


@pytest.mark.parametrize(
    ("updates", "changes", "message"),
    [
        ([(3.0, 0.9)], {}, "Leave time"),
        ([(1.0, 0.5)], {"frozen": 0.5}, "frozen"),
        ([(1.0, 1.0)], {}, "sparsity of 1.0"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(fit, tmp_path, updates, changes, message):
    class NoStep(TrainerCallback):
        def on_step_begin(self, *_, **__):
            raise AssertionError("too late")

    callback = gradual.Pruning(sparsity.by_magnitude(), updates)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [callback, NoStep()], **changes)


def test_an_epoch_that_is_not_sparse_enough_cannot_be_chosen(fit, tmp_path):
    callback = gradual.Pruning(sparsity.by_magnitude(), UPDATES)
    with pytest.raises(RuntimeError, match="not 0 after training"):
        fit(tmp_path, [callback], choose_after=0)


def test_a_criterion_is_told_the_rate_as_a_share_of_its_highest():
    paces = []
    worth = sparsity.Criterion(None, observe=lambda model, masks, pace: paces.append(pace))
    callback = gradual.Pruning(worth, [(0, 0.5)])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    for _ in range(3):
        callback.on_pre_optimizer_step(None, None, None, model=None, lr_scheduler=falls)
        optimizer.step()
        falls.step()
    assert paces == pytest.approx([1, 0.75, 0.5])


def test_points_lie_apart(tiny_backbone):
    updates = [(n / 10, share) for n, share in enumerate((0.0, 0.05, 0.1, 0.15, 0.3))]
    callback = gradual.Pruning(sparsity.by_magnitude(), updates, score=lambda model: {}, apart=0.1)
    state = SimpleNamespace(max_steps=10, global_step=0)
    model = backbones.load_model(str(tiny_backbone), seed=1)
    callback.on_train_begin(SimpleNamespace(num_train_epochs=1), state, None, model=model)
    assert callback.measured == {0: 0.0, 2: 0.1, 4: 0.3}
