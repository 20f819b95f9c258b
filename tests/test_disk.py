"""A pruned model is a real model: saved and loaded, tuned further, exported, with the same logits everywhere."""

import json

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from smoke import SMOKE
from transformers import (
    AutoModelForTokenClassification,
)

from mmalib.data import corpus
from mmalib.model import backbones, disk
from mmalib.prune.heads import remove_heads_

UNEVEN = {0: [0, 2, 3], 1: [1]}
ARCHITECTURES = ("bert", "xlm-r", "distilbert")


def cut_neurons_(model, left):
    """The first `left[n]` neurons of layer n stay."""
    for layer, number in zip(backbones.layers(model), left, strict=True):
        own = backbones.parts(layer)
        disk.keep_([own.widen], own.narrow, torch.arange(number))
    disk.record_pruning_(model)


def inputs(rows, length, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 900, (rows, length), generator=draw)
    mask = torch.ones_like(ids)
    mask[0, length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model, given):
    with torch.no_grad():
        return model(**given).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pruned", ["whole", "heads", "neurons", "both"])
def test_loaded_is_what_was_saved(random_model, tokenizer, tmp_path, architecture, pruned):
    model, folder = random_model(architecture), tmp_path / "runs" / "model"
    if pruned in ("heads", "both"):
        remove_heads_(model, UNEVEN)
    if pruned in ("neurons", "both"):
        cut_neurons_(model, [10, 37])
    disk.save(model, tokenizer, folder)
    state = torch.random.get_rng_state()
    loaded, its_tokenizer = disk.load(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(loaded, inputs(3, 11)), logits(model, inputs(3, 11)))
    assert loaded.config.id2label == model.config.id2label and not loaded.training
    assert its_tokenizer("Madrid, 1998")["input_ids"] == tokenizer("Madrid, 1998")["input_ids"]
    assert its_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert disk.heads_left(loaded) == ([[1], [0, 2, 3]] if pruned in ("heads", "both") else [[0, 1, 2, 3]] * 2)
    assert disk.neurons_left(loaded) == ([10, 37] if pruned in ("neurons", "both") else [64, 64])
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing half written is left


def test_the_config_says_what_was_pruned_and_nothing_of_a_whole_model(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    disk.save(model, tokenizer, tmp_path / "whole")
    remove_heads_(model, UNEVEN)
    cut_neurons_(model, [10, 64])
    disk.save(model, tokenizer, tmp_path / "pruned")
    whole, pruned = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "pruned"))
    assert pruned.pop("pruned") == {
        "heads_left": [1, 3],
        "heads_removed": [[0, 2, 3], [1]],
        "neurons_left": [10, 64],
    }
    assert whole == pruned


def test_what_is_told_about_a_model_lies_beside_it(random_model, tokenizer, tmp_path):
    disk.save(random_model("bert"), tokenizer, tmp_path / "model", about={"run": "01-x", "seed": 1})
    assert json.loads((tmp_path / "model" / disk.PROVENANCE).read_text()) == {"run": "01-x", "seed": 1}
    disk.save(random_model("bert"), tokenizer, tmp_path / "model")  # over it, with nothing to tell
    assert not (tmp_path / "model" / disk.PROVENANCE).exists()


def test_pruning_goes_on_after_loading(random_model, tokenizer, tmp_path):
    model = random_model("distilbert")
    remove_heads_(model, {0: [1]})
    disk.save(model, tokenizer, tmp_path / "model")
    loaded, _ = disk.load(tmp_path / "model")
    for one in (model, loaded):
        remove_heads_(one, {0: [0, 2], 1: [3]})
        cut_neurons_(one, [20, 30])
    assert torch.equal(logits(loaded, inputs(2, 7)), logits(model, inputs(2, 7)))
    disk.save(loaded, tokenizer, tmp_path / "model")  # over the old one
    again, _ = disk.load(tmp_path / "model")
    assert torch.equal(logits(again, inputs(2, 7)), logits(model, inputs(2, 7)))
    assert disk.heads_left(again) == [[3], [0, 1, 2]]


def test_a_whole_model_is_one_that_transformers_loads_and_a_pruned_one_is_refused_there(
    random_model, tokenizer, tmp_path
):
    model = random_model("bert")
    disk.save(model, tokenizer, tmp_path / "model")
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(logits(theirs, inputs(2, 7)), logits(model, inputs(2, 7)))
    remove_heads_(model, UNEVEN)
    disk.save(model, tokenizer, tmp_path / "model")
    with pytest.raises((RuntimeError, ValueError)):
        AutoModelForTokenClassification.from_pretrained(tmp_path / "model")


def test_size_is_that_of_the_weights(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    disk.save(model, tokenizer, tmp_path / "model")
    whole = disk.size_mb(tmp_path / "model")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert 4 * numbers / 1e6 < whole < 4 * numbers / 1e6 + 0.01  # and the names of the tensors
    cut_neurons_(model, [1, 1])
    disk.save(model, tokenizer, tmp_path / "model")
    assert whole - disk.size_mb(tmp_path / "model") == pytest.approx(4 * 2 * 63 * (32 + 32 + 1) / 1e6, abs=1e-3)


def test_a_kill_while_saving_leaves_the_old_folder(random_model, tokenizer, tmp_path, monkeypatch):
    model = random_model("bert")
    disk.save(model, tokenizer, tmp_path / "model")
    remove_heads_(model, UNEVEN)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(tokenizer), "save_pretrained", killed)
        disk.save(model, tokenizer, tmp_path / "model")
    assert disk.heads_left(disk.load(tmp_path / "model")[0]) == [[0, 1, 2, 3]] * 2
    disk.save(model, tokenizer, tmp_path / "model")  # what was left behind does not stand in the way
    assert disk.heads_left(disk.load(tmp_path / "model")[0]) == [[1], [0, 2, 3]]


@pytest.fixture
def folder(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    remove_heads_(model, UNEVEN)
    disk.save(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    stored = load_file(folder / "model.safetensors")
    change(stored)
    save_file(stored, folder / "model.safetensors")


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_weights(f, lambda w: w.pop("classifier.bias")), 'does not fit .*Missing.*"classifier.bias"'),
        (lambda f: change_weights(f, lambda w: w.update(more=torch.ones(1))), 'does not fit .*Unexpected key.*"more"'),
        (lambda f: change_config(f, lambda c: c.pop("pruned")), r"size mismatch for .*\[8, 32\].*\[32, 32\]"),
        (lambda f: change_config(f, lambda c: c["pruned"].pop("neurons_left")), "'pruned' in .* does not fit"),
        (lambda f: change_config(f, lambda c: c["pruned"].update(neurons_left=[64])), "'pruned' in .* does not fit"),
        (lambda f: change_config(f, lambda c: c["pruned"].update(heads_left=[2, 3])), "'pruned' in .* does not fit"),
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{"), "model.safetensors cannot be read"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        disk.load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_named_like_a_backbone_is_the_folder(random_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk.save(random_model("bert"), tokenizer, tmp_path / "e5")
    model, its_tokenizer = disk.load("e5")
    assert model.config.hidden_size == 32 and its_tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_pruned_model_is_tuned_on_and_its_best_epoch_comes_back(tune, random_model, tokenizer, tmp_path):
    english = corpus.load(SMOKE, "sample")["en"]
    model, plain = random_model("bert"), random_model("bert")
    for one in (model, plain):
        remove_heads_(one, UNEVEN)
        cut_neurons_(one, [10, 37])
    settings = {"seed": 1, "batch_size": 32, "learning_rate": 3e-3, "max_length": 64, "epochs": 2}
    checkpoints = tmp_path / "checkpoints"
    tuned, history = tune(model, tokenizer, english, checkpoints, **settings)
    assert len(history["dev_f1"]) == 2 and history["train_loss"][1] < history["train_loss"][0]
    before = plain.state_dict()
    after = {name: tensor.cpu() for name, tensor in tuned.state_dict().items()}
    assert all(after[name].shape == tensor.shape for name, tensor in before.items())
    for part in ("attention.self.query", "attention.output.dense", "intermediate.dense"):
        name = f"bert.encoder.layer.0.{part}.weight"
        assert not torch.equal(after[name], before[name])
    # the Trainer's checkpoints are folders of pruned models as well
    steps = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    best = steps[int(history["best_epoch"]) - 1]
    disk.save(tuned, tokenizer, tmp_path / "model")
    # The Trainer may leave its mixed precision on in the live model: what counts is its weights in a plain one.
    plain.load_state_dict(after)
    for folder in (best, tmp_path / "model"):
        assert torch.equal(logits(disk.load(folder)[0], inputs(2, 9)), logits(plain, inputs(2, 9)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_onnx_of_a_pruned_model_for_any_batch_and_length(random_model, tmp_path, architecture):
    model = random_model(architecture)
    remove_heads_(model, UNEVEN)
    cut_neurons_(model, [10, 37])
    model.set_attn_implementation("eager")
    names, path = ["input_ids", "attention_mask"], tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        tuple(inputs(2, 6)[name] for name in names),
        path,
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in [*names, "logits"]},
        opset_version=14,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows, length in ((1, 5), (4, 23)):
        given = inputs(rows, length, seed=rows)
        (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})
        real = given["attention_mask"] == 1
        torch.testing.assert_close(torch.from_numpy(found)[real], logits(model, given)[real], atol=1e-4, rtol=0)
