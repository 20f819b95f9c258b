"""Hard concrete gates against draws and finite differences; what is taken out against what was gated."""

import copy
from types import SimpleNamespace

import pytest
import torch

from mmalib.data import sample
from mmalib.graph import export
from mmalib.model import adapters, disk
from mmalib.model.backbones import layers, parts
from mmalib.prune import gates, sparsity

ARCHITECTURES = ("bert", "xlm-r", "distilbert")


@pytest.fixture(params=ARCHITECTURES)
def model(request, random_model):
    return with_biases(random_model(request.param))


@pytest.fixture
def bert(random_model):
    return with_biases(random_model("bert"))


def with_biases(model):
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def inputs(rows=3, length=11):
    ids = torch.randint(5, 900, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model):
    with torch.no_grad():
        return model(**inputs()).logits


def spread_(over, seed=0):
    """Gates anywhere between closed and open."""
    draw = torch.Generator().manual_seed(seed)
    for part in over.parts:
        for log_alpha in (part.units, part.whole):
            log_alpha.data = 1.2 + 2.5 * torch.randn(log_alpha.shape, generator=draw)
    return over


def counted(model):
    return sum(weight.numel() for weight in sparsity.weights(model).values())


@pytest.mark.parametrize("log_alpha", [-4.6, -1.5, 0.0, 0.7, 4.6])
def test_the_chance_of_a_gate_against_many_draws(log_alpha):
    torch.manual_seed(0)
    values = gates.drawn(torch.full((100_000,), log_alpha))
    chance = float(gates.chance(torch.tensor(log_alpha)))
    assert float((values > 0).float().mean()) == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 1e5) ** 0.5)
    assert values.min() >= 0 and values.max() <= 1


def test_the_expected_size_against_the_counted_size_of_drawn_models(bert):
    over, total = spread_(gates.Gates(bert, 0.5)), counted(bert)
    torch.manual_seed(1)
    sizes = []
    for _ in range(800):
        size = 0
        for part in over.parts:
            part.draw_()
            units, whole = part.now
            size += float((units > 0).sum() * (whole > 0)) * part.weights
        sizes.append(1 - size / total)
    assert over.total == total
    spread = torch.tensor(sizes).std() / len(sizes) ** 0.5
    assert torch.tensor(sizes).mean() == pytest.approx(float(over.expected().detach()), abs=4 * float(spread))


def test_gradients_of_the_penalty_against_finite_differences(bert):
    over = spread_(gates.Gates(bert, 0.5))
    for part in over.parts:
        part.units, part.whole = (log.detach().double().requires_grad_() for log in (part.units, part.whole))
    over.multipliers = torch.tensor([0.7, -1.3], dtype=torch.double, requires_grad=True)
    values = [*over._alphas(), over.multipliers]
    gradients = torch.autograd.grad(over.penalty(0.3), values)
    for value, gradient in zip(values, gradients, strict=True):
        for place in range(min(3, value.numel())):
            around = []
            for step in (1e-5, -1e-5):
                value.data.view(-1)[place] += step
                around.append(float(over.penalty(0.3).detach()))
                value.data.view(-1)[place] -= step
            assert float(gradient.reshape(-1)[place]) == pytest.approx(
                (around[0] - around[1]) / 2e-5, rel=1e-4, abs=1e-9
            )


@pytest.mark.parametrize("emptied", [False, True], ids=["some", "whole parts"])
@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "adapters"])
def test_what_is_taken_out_is_what_was_closed(model, tokenizer, tmp_path, emptied, adapted):
    if adapted:
        adapters.add_(model, 6)
        with_biases(model)
    over, whole = spread_(gates.Gates(model, 0.6)), counted(model)
    for part in (over.parts[0], over.parts[3]) if emptied else ():
        part.whole.data.fill_(-1.0)  # half open: its bias stays in part
        part.units.data.fill_(-4.6)
    before = logits(model)
    over.hooks = [hook for part in over.parts for hook in part.hooks()]
    over.decide_()
    gated = logits(model)
    assert (gated - before).abs().max() > 0.01
    share = over.finalise_(model)
    assert share == pytest.approx(1 - counted(model) / whole) == pytest.approx(0.6, abs=gates.NEAR)
    torch.testing.assert_close(logits(model), gated, atol=1e-4, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())
    if emptied:
        assert disk.heads_left(model)[0] == [] and disk.neurons_left(model)[1] == 0
        assert not hasattr(parts(layers(model)[0]).mix, "adapter")
    disk.save(model, tokenizer, tmp_path / "model")
    loaded, _ = disk.load(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(copy.deepcopy(loaded)), logits(model))
    about = export.export(loaded, tokenizer, tmp_path / "graph")
    assert about["parity"]["max_abs_difference"] < 1e-4 and about["encoder_weights"] == counted(model)


def test_a_layer_that_lost_everything_still_learns(bert):
    over = gates.Gates(bert, 0.5)
    for part in over.parts[:2]:
        part.units.data.fill_(-4.6)
    over.finalise_(bert)
    bert.train()
    bert(**inputs(), labels=torch.ones(3, 11, dtype=torch.long)).loss.backward()
    own = parts(layers(bert)[0])
    assert own.mix.in_features == own.narrow.in_features == 0
    assert own.mix.bias.grad.abs().sum() > 0 and own.narrow.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_the_multipliers_bring_gates_to_the_share_against_a_task_that_likes_them_open(bert, share):
    over, steps = gates.Gates(bert, share, rate=0.1), 500
    torch.manual_seed(0)
    worth = [2e-3 * torch.rand(part.number) for part in over.parts]
    over.on_train_begin(None, SimpleNamespace(global_step=0), None)
    for step in range(steps):
        sum(((1 - part.there()) * of_part).sum() for part, of_part in zip(over.parts, worth, strict=True)).backward()
        over.on_pre_optimizer_step(None, SimpleNamespace(global_step=step, max_steps=steps), None)
    assert float(over.expected().detach()) == pytest.approx(share, abs=0.03)


@pytest.fixture(scope="module")
def english(tokenizer):
    sentences = sample.generate()["en"]
    train, dev = sentences["train"][:48], sentences["dev"][:8]
    as_split = lambda chosen: {"words": [w for w, _ in chosen], "tags": [t for _, t in chosen]}  # noqa: E731
    return {"train": as_split(train), "dev": as_split(dev)}


def prune(model, tokenizer, english, tune, folder, share=0.6, callbacks=()):
    over = gates.Gates(model, share, rate=0.15)
    recipe = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "choose_after": 1.9}
    how = {"callbacks": [over, *callbacks], "max_length": 64, "seed": 0}
    tune(model, tokenizer, english, folder, **how, **recipe)
    return over


def test_training_closes_gates_to_the_share_that_is_asked_for(random_model, tokenizer, english, tune, tmp_path):
    model = random_model("bert")
    over = prune(model, tokenizer, english, tune, tmp_path)
    assert float(over.expected().detach()) > 0.2
    assert over.finalise_(model) == pytest.approx(0.6, abs=gates.NEAR)
    assert float(over.multipliers.detach().abs().sum()) > 0


def test_a_killed_run_goes_on_to_the_same_gates(random_model, tokenizer, english, tune, tmp_path):
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **_):
            if state.epoch >= 1:
                raise KeyboardInterrupt

    whole = prune(random_model("bert"), tokenizer, english, tune, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prune(random_model("bert"), tokenizer, english, tune, tmp_path / "killed", callbacks=[Kill()])
    again = prune(random_model("bert"), tokenizer, english, tune, tmp_path / "killed")
    for one, other in zip([*whole._alphas(), whole.multipliers], [*again._alphas(), again.multipliers], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_mistakes_are_one_line(bert):
    for share in (0, 1, 1.5, 0.999):
        with pytest.raises(ValueError, match="cannot go"):
            gates.Gates(bert, share)
    over = gates.Gates(bert, 0.3)
    for part in over.parts:
        part.units.data.fill_(-4.6)
        part.whole.data.fill_(-4.6)
    with pytest.raises(ValueError, match="collapsed"):
        over.decide_()
    over = gates.Gates(bert, 0.3)
    for part in over.parts:
        part.whole.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="collapsed"):
        over.decide_()


def test_of_units_that_are_shut_the_largest_stay_wherever_they_are(bert):
    over = gates.Gates(bert, 0.6)
    for part in over.parts:
        part.units.data.fill_(-gates.CLAMP)
    over.parts[2].units.data[-1] = 0.0  # not shut, and small
    over.parts[2].linear.weight.data[:, -over.parts[2].size :] /= 100
    over.decide_()
    assert bool(over.parts[2].kept[-1])
    over.parts[2].kept = over.parts[2].kept[:-1]
    for half in (0, 1):  # heads, then neurons
        sizes, kept = [], torch.cat([part.kept for part in over.parts[half::2]])
        for part in over.parts[half::2]:
            slots = range(len(part.kept))
            sizes += [
                float(part.linear.weight[:, n * part.size : (n + 1) * part.size].detach().abs().mean()) for n in slots
            ]
        order = torch.tensor(sizes).argsort()
        assert kept[order].tolist() == sorted(kept.tolist()) and 0 < kept.sum() < len(kept)


def test_what_stays_is_never_quite_closed(bert):
    over, whole = gates.Gates(bert, 0.3), counted(bert)
    for part in over.parts[1:]:
        part.units.data.fill_(-4.0)  # far more is closed than the share asked for
    before = [weight.detach().clone() for weight in sparsity.weights(bert).values()]
    over.finalise_(bert)
    assert all((weight != 0).all() for weight in before)
    assert all((weight != 0).all() for weight in sparsity.weights(bert).values())
    assert 1 - counted(bert) / whole == pytest.approx(0.3, abs=gates.NEAR)


def test_the_mean_of_the_draws_is_folded_in():
    torch.manual_seed(0)
    for log_alpha in torch.linspace(-gates.CLAMP, gates.CLAMP, 21):
        draws = gates.drawn(log_alpha.expand(100_000)).mean()
        assert float(gates.mean(log_alpha)) == pytest.approx(float(draws), abs=0.01)


@pytest.mark.parametrize("noise", [15, 40])
def test_gates_close_to_the_share_and_no_further_in_a_short_training(bert, noise):
    """As many steps as a study has: as published far too many go, or they stay half open."""
    ends, units = {}, sum(part.number for part in gates.parts_of(bert))
    for rate, multipliers in ((0.02, 1), (0.1, 5)):
        over = gates.Gates(bert, 0.6, rate=rate, warm_up=0.5, multipliers=multipliers)
        torch.manual_seed(0)
        over.on_train_begin(None, SimpleNamespace(global_step=0), None)
        for step in range(500):
            for log_alpha in over._alphas():
                log_alpha.grad = noise / units * torch.randn_like(log_alpha)
            over.on_pre_optimizer_step(None, SimpleNamespace(global_step=step, max_steps=500), None)
        open_ = [(gates.settled(part.units) * gates.settled(part.whole) > 0).sum() for part in over.parts]
        closed = 1 - sum(int(n) * part.weights for n, part in zip(open_, over.parts, strict=True)) / over.total
        ends[rate] = float(over.expected().detach()), closed
    assert ends[0.1] == (pytest.approx(0.6, abs=0.02), pytest.approx(0.6, abs=0.12)), ends
    assert ends[0.02][0] > 0.64 or ends[0.02][1] > 0.72, ends
