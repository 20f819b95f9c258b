"""Fine-tuning: reproducible to the bit, resumable to the bit, chosen by English dev alone."""

from types import SimpleNamespace

import pytest
import torch
from smoke import SMOKE
from transformers import TrainerCallback, get_linear_schedule_with_warmup

from mmalib.data import corpus, subwords
from mmalib.model import backbones, finetune
from mmalib.model.evaluate import score

SETTINGS = {"seed": 1, "epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "max_length": 64}


class StopAfterCheckpoint(TrainerCallback):
    """Stands for a kill: nothing after the n-th checkpoint happens."""

    def __init__(self, number):
        self.left = number

    def on_save(self, *_, **__):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class NoStep(TrainerCallback):
    def on_step_begin(self, *_, **__):
        raise AssertionError("a finished run trains again")


@pytest.fixture(scope="module")
def english():
    return corpus.load(SMOKE, "sample")["en"]


@pytest.fixture(scope="module")
def fit(tune, tiny_backbone, english):
    def run(folder, **changes):
        model = backbones.load_model(str(tiny_backbone), seed=1)
        tokenizer = backbones.load_tokenizer(str(tiny_backbone))
        return tune(model, tokenizer, english, folder, **{**SETTINGS, **changes})

    return run


@pytest.fixture(scope="module")
def tuned(fit, tmp_path_factory):
    return fit(tmp_path_factory.mktemp("tuned") / "run")


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_same_seed_same_result_another_seed_another(fit, tmp_path, tuned):
    model, history = tuned
    again, history_again = fit(tmp_path / "again")
    assert equal(model, again) and history["dev_f1"] == history_again["dev_f1"]
    other, _ = fit(tmp_path / "other", seed=2)
    assert not equal(model, other)


def test_it_learns(tuned):
    _, history = tuned
    assert len(history["dev_f1"]) == 3 and history["train_loss"][-1] < history["train_loss"][0]


def test_killed_and_resumed_equals_unbroken(fit, tmp_path, tuned):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", callbacks=[StopAfterCheckpoint(2)])
    half_written = tmp_path / "run" / "checkpoint-999"  # what a kill in the middle of saving leaves
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"")
    model, history = fit(tmp_path / "run")
    assert equal(model, tuned[0]) and history["dev_f1"] == tuned[1]["dev_f1"]
    assert not half_written.exists()
    # killed after the last epoch, before the result was put away: nothing is trained again
    model, history = fit(tmp_path / "run", callbacks=[NoStep()])
    assert equal(model, tuned[0]) and history["dev_f1"] == tuned[1]["dev_f1"]


def test_a_part_of_an_epoch_is_not_trained_twice(fit, tmp_path):
    model, history = fit(tmp_path / "run", epochs=1.5)
    again, history_again = fit(tmp_path / "run", epochs=1.5, callbacks=[NoStep()])  # killed before it was put away
    assert equal(again, model) and history_again == history


def test_checkpoints_that_have_moved_know_their_best(fit, tmp_path, monkeypatch):
    f1 = iter([0.2, 0.9, 0.4])
    monkeypatch.setattr(finetune, "entity_scores", lambda *_, **__: {"f1": next(f1)})
    model, history = fit(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    again, history_again = fit(tmp_path / "there", callbacks=[NoStep()])
    assert equal(again, model) and history_again["best_epoch"] == history["best_epoch"] == 2


def test_the_best_epoch_on_dev_is_kept(fit, tmp_path, monkeypatch):
    weights, f1 = [], iter([0.2, 0.9, 0.4])

    def scores(*_, **__):
        return {"f1": next(f1)}

    class Watch(TrainerCallback):
        def on_evaluate(self, *_, model, **__):
            weights.append({k: v.clone() for k, v in model.state_dict().items()})

    monkeypatch.setattr(finetune, "entity_scores", scores)
    model, history = fit(tmp_path / "run", callbacks=[Watch()])
    assert history["best_epoch"] == 2
    assert all(torch.equal(v, weights[1][k]) for k, v in model.state_dict().items())


def test_a_frozen_share_of_the_layers_does_not_move(fit, tiny_backbone, tmp_path):
    before = backbones.load_model(str(tiny_backbone), seed=1).state_dict()
    after = fit(tmp_path / "run", epochs=1, frozen=0.5)[0].state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and not any(".embeddings." in key or ".layer.0." in key for key in moved)


def test_the_average_is_that_of_the_checkpoints(fit, tmp_path, tiny_backbone, english):
    taken = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, *_, model, **__):
            if state.epoch > 1:
                taken.append({key: value.clone() for key, value in model.state_dict().items()})

    model, history = fit(tmp_path / "run", average_from=1, callbacks=[Watch()])
    assert history["averaged"] == len(taken) == 8  # two epochs of four steps
    tokenizer = backbones.load_tokenizer(str(tiny_backbone))
    found = score(model, tokenizer, {"en": {"dev": english["dev"]}}, max_length=SETTINGS["max_length"])
    assert history["average_dev_f1"] == found["en"]["dev"]["f1"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, torch.stack([one[key].float() for one in taken]).mean(dim=0))


def test_an_average_goes_on_where_it_was_killed(fit, tmp_path):
    whole, history = fit(tmp_path / "whole", average_from=0.5)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", average_from=0.5, callbacks=[StopAfterCheckpoint(2)])
    model, again = fit(tmp_path / "run", average_from=0.5)
    assert equal(model, whole)
    assert {**history, "seconds": 0} == {**again, "seconds": 0}


def test_frozen_weights_take_no_part_in_the_average(fit, tiny_backbone, tmp_path):
    before = backbones.load_model(str(tiny_backbone), seed=1).state_dict()
    after = fit(tmp_path / "run", frozen=0.5, average_from=1)[0].state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and not any(".embeddings." in key or ".layer.0." in key for key in moved)


def test_the_head_learns_at_a_rate_of_its_own(fit, tiny_backbone, tmp_path):
    rates = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, *_, model, optimizer, **__):
            names = {id(p): name for name, p in model.named_parameters()}
            for group in optimizer.param_groups:
                rates.update({names[id(p)]: (group["lr"], group["weight_decay"]) for p in group["params"]})

    fit(tmp_path / "run", epochs=1, head_rate=5.0, callbacks=[Watch()])
    body, decay = rates["bert.encoder.layer.0.output.dense.weight"]
    assert rates["classifier.weight"] == (pytest.approx(5 * body), decay)
    assert rates["classifier.bias"] == (pytest.approx(5 * body), 0.0) and decay > 0
    assert len(rates) == len(list(backbones.load_model(str(tiny_backbone)).parameters()))


def test_masked_words_are_whole_words_and_as_many_as_asked_for(tokenizer):
    sentences = [["Barcelona", "Leeuwarden", "x"] * 9] * 40
    rows = subwords.training_rows(subwords.encode(sentences, tokenizer, 128, [["O"] * 27] * 40), {"O": 0})
    plain = finetune._Collator(tokenizer, masked_words=0.0)(rows)
    torch.manual_seed(0)
    batch = finetune._Collator(tokenizer, masked_words=0.3)(rows)
    hidden = batch["input_ids"] != plain["input_ids"]
    assert (batch["input_ids"][hidden] == tokenizer.mask_token_id).all()
    assert torch.equal(batch["labels"], plain["labels"])
    starts = plain["labels"] != -100
    assert (hidden & starts).sum() / starts.sum() == pytest.approx(0.3, abs=0.04)
    inside = ~starts & ~torch.isin(plain["input_ids"], torch.tensor(tokenizer.all_special_ids))
    before = torch.roll(hidden, 1, dims=1)
    assert inside.any() and torch.equal(hidden[inside], before[inside])  # a word goes as a whole
    with pytest.raises(ValueError, match="needs a tokenizer with a mask"):
        finetune._Collator(SimpleNamespace(mask_token_id=None), masked_words=0.1)


def test_smoothed_labels_are_the_loss_of_transformers(fit, tmp_path):
    plain, smooth = (fit(tmp_path / str(s), label_smoothing=s)[1] for s in (0.0, 0.2))
    assert smooth["train_loss"][-1] > plain["train_loss"][-1]


def test_cycles_rewind_the_learning_rate(fit, tmp_path):
    rates = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_, lr_scheduler, **__):
            rates.append(lr_scheduler.get_last_lr()[0])

    fit(tmp_path / "run", cycles=2, warm_up=0.0, callbacks=[Watch()])
    half = len(rates) // 2
    assert rates[0] > rates[half - 2] < rates[half] > rates[-1]


def rates_of(fit, folder, **changes):
    rates = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_, lr_scheduler, **__):
            rates.append(lr_scheduler.get_last_lr()[0])

    fit(folder, callbacks=[Watch()], **changes)
    return rates


def test_linear_rate_is_that_of_transformers(fit, tmp_path):
    rates = rates_of(fit, tmp_path, warm_up=0.25)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=SETTINGS["learning_rate"])
    reference = get_linear_schedule_with_warmup(optimizer, 3, 12)
    for rate in rates:
        assert rate == reference.get_last_lr()[0]
        optimizer.step()
        reference.step()
    assert len(rates) == 12


def test_rewinds_start_the_rate_again(fit, tmp_path):
    settings = {"learning_rate": 8e-5, "end_rate": 2e-5, "rewinds": (1, 2), "warm_up": 0.0}
    rates = rates_of(fit, tmp_path, **settings)
    assert rates == pytest.approx([8e-5, 6.5e-5, 5e-5, 3.5e-5] * 3)  # 4 steps an epoch, down to 2e-5 after them


def test_only_late_epochs_compete(fit, tmp_path, monkeypatch):
    weights, f1 = [], iter([0.9, 0.8, 0.2])

    class Watch(TrainerCallback):
        def on_evaluate(self, *_, model, **__):
            weights.append({k: v.clone() for k, v in model.state_dict().items()})

    monkeypatch.setattr(finetune, "entity_scores", lambda *_, **__: {"f1": next(f1)})
    model, history = fit(tmp_path / "run", choose_after=1, callbacks=[Watch()])
    assert history["best_epoch"] == 2 and history["dev_f1"] == [0.9, 0.8, 0.2]
    assert all(torch.equal(v, weights[1][k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_run_stops_at_once(fit, tmp_path, bad):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, *_, model, **__):
            if state.global_step == 5:
                model.classifier.bias.data.fill_(bad)

    with pytest.raises(ValueError, match="at step 6: training has diverged"):
        fit(tmp_path, callbacks=[Break()])


@pytest.mark.parametrize(
    "changes",
    [
        {"end_rate": 1.0},
        {"end_rate": -1e-5},
        {"cycles": 2, "rewinds": (1,)},
        {"cycles": 2, "end_rate": 1e-5},
        {"rewinds": (3,)},
        {"rewinds": (0,)},
        {"choose_after": 3},
        {"choose_after": -1},
        {"average_from": 3},
        {"average_from": -1},
    ],
)
def test_settings_that_cannot_be(fit, tmp_path, changes):
    with pytest.raises(ValueError):
        fit(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_smoothing_goes_with_no_other_loss():
    recipe = finetune.Recipe(epochs=1, batch_size=1, learning_rate=1e-3, label_smoothing=0.1)
    with pytest.raises(ValueError, match="label_smoothing is of the model's own loss"):
        finetune.finetune(None, [], None, recipe, folder=None, seed=1, loss=lambda *_: None)
