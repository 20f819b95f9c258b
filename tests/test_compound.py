"""Notebook 08: layers dropped, compound models, masks held, pruning upstream; on a tiny model and a few sentences."""

import copy
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from mmalib import plan, profiles, reports, runtimes
from mmalib.app import card
from mmalib.data import subwords, text
from mmalib.data.subwords import IGNORED
from mmalib.model import backbones, disk
from mmalib.pretrain import shrink, train
from mmalib.prune import layers, mfac, obs, sparsity
from mmalib.prune.heads import remove_heads_
from mmalib.reports import compound as report
from mmalib.studies import upstream
from mmalib.studies.study import Study

TINY = dict(
    depths=(2, 1), sparsities=(0.5,), eval_sentences=16, curve_sentences=8, ablation_gradients=(4, 6),
    compound=("2 layers dense", "1 layers 50% unstructured", "1 layers 50% 4-block int8", "10 epochs 90%", "2:4 obs",
              "upstream three-90", "upstream three-magnitude-90", "ablation steps", "ablation matrix-free"),
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(unlabelled_students=(), **TINY)


@pytest.fixture(scope="module")
def records(study):
    study.make_all(study.runs("08"))
    return study.records()


@pytest.fixture
def run_of(study):
    def one(what):
        (run,) = (run for run in study.runs("08") if run.name.startswith(f"08-{what}-"))
        return run

    return one


# ---- Layers ----


@pytest.mark.parametrize("architecture", ["bert", "xlm-r", "distilbert"])
def test_a_model_without_layers_is_the_shallower_model_built_by_hand(random_model, architecture, tmp_path, tokenizer):
    model = random_model(architecture)
    shallow = layers.without(model, [1])
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 1
    by_hand = type(model)(config).eval()
    stack = "layer.1."
    weights = {name.replace(stack, "layer.0."): w for name, w in model.state_dict().items() if "layer.0." not in name}
    by_hand.load_state_dict(weights)
    ids = torch.arange(5, 45).view(2, 20)
    wanted = by_hand(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(shallow(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, wanted)
    assert len(layers.layers(model)) == 2 and not torch.equal(model(input_ids=ids).logits, wanted)
    disk.save(shallow, tokenizer, tmp_path / "saved")
    assert torch.equal(disk.load(tmp_path / "saved")[0](input_ids=ids).logits, shallow(input_ids=ids).logits)


def test_a_model_that_has_lost_heads_loses_layers_and_comes_back(random_model, tokenizer, tmp_path):
    model, ids = random_model("bert"), torch.arange(5, 45).view(2, 20)
    remove_heads_(model, {0: [1], 1: [0, 2]})
    shallow = layers.without(model, [1])
    assert shallow.config.pruned["heads_removed"] == [[0, 2]] and len(model.config.pruned["heads_left"]) == 2
    disk.save(shallow, tokenizer, tmp_path)
    assert torch.equal(disk.load(tmp_path)[0](input_ids=ids).logits, shallow(input_ids=ids).logits)


def test_what_stays_are_layers_that_are_there_in_their_order(random_model):
    model = random_model("bert")
    both = list(layers.layers(model))
    remove_heads_(model, {0: [1], 1: [0, 2]})
    for kept in ([], [2], [-1, 0]):
        with pytest.raises(ValueError, match="cannot be what stays of 2"):
            disk.keep_layers_(model, kept)
    disk.keep_layers_(model, [1, 0])
    assert list(layers.layers(model)) == both and model.config.pruned["heads_removed"] == [[1], [0, 2]]


def test_which_layers_stay():
    assert layers.choose(12, 6, "evenly") == [1, 3, 5, 7, 9, 11] and layers.choose(12, 3, "evenly") == [3, 7, 11]
    assert layers.choose(5, 2, "evenly") == [1, 4] and layers.choose(7, 7, "evenly") == list(range(7))
    assert (layers.choose(12, 2, "top"), layers.choose(12, 2, "bottom")) == ([10, 11], [0, 1])
    assert layers.choose(4, 2, "loss", [0.1, 0.4, 0.2, 0.3]) == [1, 3]
    with pytest.raises(ValueError, match="A model of 12 layers cannot keep 13"):
        layers.choose(12, 13, "top")
    with pytest.raises(ValueError, match="not chosen by 'middle'"):
        layers.choose(12, 6, "middle")


def test_the_loss_without_a_layer_is_that_of_every_word_alike(random_model, tokenizer):
    model, rows = random_model("bert"), _rows(tokenizer)
    found = layers.losses_without(model, subwords.batches(rows, tokenizer, 2))
    (whole,) = subwords.batches(rows, tokenizer, len(rows))
    for left_out, loss in enumerate(found):
        assert loss == pytest.approx(layers.without(model, [1 - left_out])(**whole).loss.item(), rel=1e-5)
    assert len(layers.layers(model)) == 2 and found[0] != found[1]


def _rows(tokenizer):
    words = [["Madrid", "in"], ["the", "bank", "of", "Angela", "Merkel"], ["a"], ["Peter"]]
    tags = [["B-LOC", "O"], ["O", "O", "O", "B-PER", "I-PER"], ["O"], ["B-PER"]]
    labels = {label: number for number, label in enumerate(subwords.LABELS)}
    return subwords.training_rows(subwords.encode(words, tokenizer, 64, tags), labels)


# ---- M-FAC ----


def test_without_blocks_the_inverse_and_its_minimum_are_those_of_the_dense_fisher():
    torch.manual_seed(0)
    damp, grads = 1e-3, {"a": torch.randn(5, 6), "b": torch.randn(5, 4)}
    every = torch.cat(list(grads.values()), dim=1).double()
    fisher = damp * torch.eye(10).double() + every.T @ every / 5
    flat = torch.cat(list(mfac.diagonal(grads, damp).values()))
    torch.testing.assert_close(flat.double(), fisher.inverse().diagonal(), rtol=1e-3, atol=0)
    weights, stays = torch.randn(10), torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 0, 1]).bool()
    split = lambda vector: dict(zip(grads, vector.split([6, 4]), strict=True))  # noqa: E731
    change = torch.cat(list(mfac.update(grads, damp, split(weights), split(stays)).values())).double()
    wanted = -torch.linalg.solve(fisher[stays][:, stays], fisher[stays][:, ~stays] @ -weights[~stays].double())
    torch.testing.assert_close(change[stays], wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(change[~stays], -weights[~stays].double())


def test_without_blocks_pruning_costs_less_than_in_blocks_of_one(random_model, tokenizer):
    """In the quadratic model of the whole Fisher, which only this way knows."""
    model, rows, few = random_model("bert"), _rows(tokenizer), {"num_grads": 6, "batch_size": 2}
    dense = {name: weight.detach().clone() for name, weight in sparsity.weights(model).items()}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in dense.items()}
    grads = list(obs.gradients(model, obs.of_rows(rows, tokenizer, **few), masks, 6))
    costs = {}
    for name, worth in {
        "whole": mfac.criterion(rows, tokenizer, damp=1e-8, **few),
        "blocks": obs.criterion(rows, tokenizer, damp=1e-8, block_size=1, **few),
    }.items():
        pruned = copy.deepcopy(model)
        sparsity.one_shot_(pruned, worth, 0.5)
        assert sparsity.measured(pruned) == 0.5
        change = {key: weight.detach() - dense[key] for key, weight in sparsity.weights(pruned).items()}
        along = [sum((g[key] * change[key]).sum() for key in change).item() for g in grads]
        costs[name] = np.square(along).mean() + 1e-8 * sum(c.square().sum().item() for c in change.values())
    assert costs["whole"] < 0.5 * costs["blocks"]
    with pytest.raises(ValueError, match="only single weights"):
        sparsity.one_shot_(model, mfac.criterion(rows, tokenizer, damp=1e-7, **few), 0.5, "4")
    unlabelled = [row | {"labels": [IGNORED] * len(row["labels"])} for row in rows]
    with pytest.raises(ValueError, match="No row has a label"):
        mfac.criterion(unlabelled, tokenizer, damp=1e-7, **few)
    again = copy.deepcopy(model)  # rows without a label are as good as not there
    sparsity.one_shot_(again, mfac.criterion([*unlabelled, *rows], tokenizer, damp=1e-8, **few), 0.5)
    wanted = copy.deepcopy(model)
    sparsity.one_shot_(wanted, mfac.criterion(rows, tokenizer, damp=1e-8, **few), 0.5)
    assert all(map(torch.equal, again.parameters(), wanted.parameters()))


# ---- The runs ----


def test_everything_is_made_and_drawn_and_nothing_is_missing(study, records):
    kinds = {run.kind for run in study.runs("08")}
    assert study.missing("08") == [] and kinds == {
        *("layers", "compound", "compound int8", "compound speed", "held", "upstream", "transfer", "ablation")
    }
    drawn = reports.draw(records, *kinds)
    tables = {name: made for name, made in drawn.items() if isinstance(made, pd.DataFrame)}
    assert len(tables) == 7 and set(drawn) - set(tables) == {"compound", "ablations"}
    compound = tables["table_compound"]
    assert list(compound["form"]) == ["dense", "unstructured", "4-block int8"] and compound["batch"].eq(1).all()
    assert compound["ONNX Runtime"].notna().all() and compound["PyTorch, int8"].notna().sum() == 1
    assert compound["million weights left"].iloc[0] >= 3.9 * compound["million weights left"].iloc[1] > 0
    ours = tables["table_upstream"].query("source == 'this study, sample'")
    assert list(ours["pruned"]) == ["upstream, second order", "upstream, magnitude"]
    assert ours["from"].eq("the training sentences of sample").all()
    others = [record for record in records if record["settings"]["notebook"] != "08"]
    assert reports.draw(others, *kinds) == {}


def test_what_has_lost_layers_goes_everywhere(study, records, run_of):
    run = run_of("1-layers-evenly")
    model, _ = study.model(run.name)
    assert model.config.num_hidden_layers == len(layers.layers(model)) == 1
    record = study.make(run)
    assert record["stay"] == [1] and record["parameters"] == model.num_parameters()
    chosen = study.make(run_of("1-layers-loss"))
    assert chosen["stay"] == [int(np.argmax(chosen["losses_without"]))]
    for leaf in run_of("1-layers-50-4-block-int8").leaves:
        with runtimes.load(study.folder(leaf), 1) as session:
            assert session(np.full((1, 4), 5), np.ones((1, 4), int)).shape[1:] == (4, len(subwords.LABELS))
    with pytest.raises(ValueError, match="A model of 2 layers cannot keep 9"):
        deeper = study.vary(depths=(2, 9), compound=())
        deeper.make(deeper.runs("08", "layers")[0])
    with pytest.raises(ValueError, match="A model of 2 layers cannot keep 9"):
        upstream.check(deeper)


def test_zeros_are_in_blocks_of_four_and_stay_through_int8(study, records, run_of):
    start = run_of("1-layers-50-4-block-tiny")
    masks = sparsity.masks_of(study.model(start.name)[0])
    for mask in masks.values():
        groups = mask.unflatten(1, (-1, 4))
        assert (groups.all(2) | ~groups.any(2)).all()
    int8 = study.make(run_of("1-layers-50-4-block-int8"))
    assert int8["sparsity"]["measured"] == study.make(start)["sparsity"]["measured"] == 0.5
    half = study.make(run_of("2-of-4-obs"))
    kept = sparsity.masks_of(study.model(half["run"])[0]).values()
    assert all((mask.unflatten(1, (-1, 4)).sum(2) == 2).all() for mask in kept) and half["sparsity"]["measured"] == 0.5


def test_a_card_tells_the_speeds_of_its_own_form(study, records, run_of):
    for leaf in run_of("1-layers-50-4-block-int8").leaves:
        runtimes_of_leaf = {row["runtime"] for row in card._speeds(leaf, records)}
        assert runtimes_of_leaf == ({"onnxruntime", "openvino", "torch"} if "qdq" in leaf else {"torch:kernel=sparse"})


@pytest.mark.skipif(not shutil.which("gzip"), reason="there is no gzip here")
def test_sizes_are_those_of_gzip_on_the_command_line(study, records, run_of):
    for leaf, size in study.make(run_of("speed-1-layers-50-4-block-int8"))["sizes"].items():
        packed = subprocess.run(["gzip", "-c", study.folder(leaf) / runtimes.GRAPH], capture_output=True, check=True)
        assert size["gzip_megabytes"] == pytest.approx(len(packed.stdout) / 1e6, rel=0.01)
    backbone = study.make(run_of("upstream-three-90"))
    packed = subprocess.run(
        ["gzip", "-c", study.folder(backbone["run"]) / disk.WEIGHTS], capture_output=True, check=True
    )
    assert backbone["size"]["gzip_megabytes"] == pytest.approx(len(packed.stdout) / 1e6, rel=0.01)


def test_an_ablation_in_one_step_is_notebook_03_at_once(study, records, run_of):
    (at_once,) = (run for run in study.runs("03", "one-shot") if run.settings["method"] == "obs")
    curve = study.make(run_of("ablation-steps"))["curve"]
    assert [point["value"] for point in curve] == [1, 2, 4, 8]
    assert curve[0]["scores"] == study.make(at_once)["curve"][0]["scores"]
    assert all(point["sparsity"] == 0.5 for point in curve)


# ---- Upstream ----


def test_the_objective_is_the_missed_variance_of_both_layers(random_model):
    teacher = random_model("bert").base_model
    for weight in sparsity.weights(teacher).values():
        torch.nn.init.normal_(weight, std=0.4)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for weight in sparsity.weights(student).values():
            weight.mul_(0.5)
    ids = torch.arange(5, 45).view(2, 20)
    ours, theirs = (one(ids, output_hidden_states=True).hidden_states[1:] for one in (student, teacher))
    wanted = (
        sum(
            functional.mse_loss(a, b) / b.var(dim=(0, 1), correction=0).mean()
            for a, b in zip(ours, theirs, strict=True)
        )
        / 2
    )
    assert shrink.hidden_loss(teacher, (0, 1))(student, ids).item() == pytest.approx(wanted.item(), rel=0.02)  # bf16
    torch.manual_seed(0)
    noisy = torch.stack([shrink.hidden_loss(teacher, (0, 1), noise=2.0)(student, ids) for _ in range(20)]).mean()
    assert noisy.item() == pytest.approx(wanted.item() + 4.0, rel=0.02)  # variances add up


def test_masks_after_the_transfer_are_those_before_it(study, records, run_of):
    for name in ("three-90", "three-magnitude-90"):
        start, run = run_of(f"upstream-{name}"), run_of(f"transfer-{name}")
        folder = study.folder(start.name)
        before = sparsity.masks_of(backbones.load_model(str(folder), sparse=True))
        after = sparsity.masks_of(study.model(run.name)[0])
        assert before.keys() == after.keys() and all(torch.equal(before[one], after[one]) for one in before)
        total = sum(mask.numel() for mask in before.values())
        assert sparsity.dropped(before) == round(0.9 * total)
        assert "90%" in (folder / "README.md").read_text() and study.make(start)["read"]["source"]
    assert sparsity.dropped(sparsity.masks_of(backbones.load_model(str(folder)))) == 0  # as of any other backbone


def test_an_upstream_model_with_another_vocabulary_is_refused(study, records, run_of, tokenizer, monkeypatch, tmp_path):
    run = run_of("transfer-three-90")
    other = tmp_path / "other"
    shutil.copytree(study.folder(run.needs["start"]), other)
    path = other / "tokenizer.json"
    piece = tokenizer.convert_ids_to_tokens(700)
    path.write_text(path.read_text().replace(f'"{piece}"', f'"{piece}X"'))
    monkeypatch.setattr(study, "folder", lambda leaf: other)
    with pytest.raises(ValueError, match="vocabulary of .* that is not that of"):
        upstream.transfer(study, run, tmp_path / "unfinished")


def test_text_comes_from_a_folder_without_what_is_tested_on(study, tokenizer, tmp_path, run_of, monkeypatch):
    settings = run_of("upstream-three-90").settings | {"upstream_subwords": 90}
    secret = next(words for words in study.corpora["es"]["test"]["words"] if len(words) > 6)
    for name in ("en", "es", "nl"):
        (tmp_path / f"{name}.txt").write_text("the bank of Madrid is in Madrid\n" * 9 + " ".join(secret) + "\n")
    of_folder = Study.open(study.profile, study.top, "sample", str(tmp_path))
    monkeypatch.setenv("MMALIB_TEXT", str(tmp_path))
    assert Study.open(study.profile, study.top, "sample").profile == of_folder.profile != study.profile
    material, about = upstream.read(of_folder, settings, tokenizer)
    line = tokenizer.encode("the bank of Madrid is in Madrid", add_special_tokens=False)
    for tokens in material.text.values():
        assert 0 < sum(map(len, tokens)) <= 30 and all(list(one) == line for one in tokens)
    assert about["source"] == "a folder of text" and of_folder.runs("08") != study.runs("08")
    (tmp_path / "es.txt").write_text("\n")
    with pytest.raises(ValueError, match="no text in es"):
        upstream.check(of_folder)
    upstream.check(study)
    with pytest.raises(ValueError, match="depths begins with 1, and .* has 2 layers"):
        upstream.check(study.vary(depths=(1,), compound=()))


def test_masks_change_at_even_distances_and_leave_time_in_the_end():
    settings = {"upstream_epochs": 3, "updates_an_epoch": 4, "initial": 0.7, "share": 0.9}
    moments = upstream.when(settings | {"upstream_subwords": 4000, "upstream_batch": 10})
    assert list(moments) == list(range(0, 1200, 100))
    assert (moments[0], moments[1100]) == (0.7, 0.9) and list(moments.values()) == sorted(moments.values())


def test_training_that_was_killed_goes_on_with_the_zeros_that_it_had(tmp_path):
    def go(folder, stop=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        zeros = {}

        def after_step(step):
            if not zeros or step == 2:
                zeros["at"] = model.weight.detach().abs() < (0.2 if step == 2 else 1e-9)
            model.weight.data.masked_fill_(zeros["at"], 0.0)

        def draw(step):
            if step == stop:
                raise KeyboardInterrupt
            return torch.randn(8, 4)

        loss = lambda one, given: (one(given) - given).square().mean()  # noqa: E731
        how = dict(steps=6, loss=loss, after_step=after_step, save_every_s=0.0)
        train.train(model, draw, folder, **how)
        return model.weight

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", stop=4)
    assert torch.equal(go(tmp_path / "killed"), whole) and (whole == 0).any()


def test_more_pieces_than_two_bytes_count_keep_their_numbers():
    tokenizer = text.Tokenizer(text.Tokenizer.from_str(_words(70_000)).model)
    tokens = text.tokenize(tokenizer, ["w69999"])
    assert tokens[0].tolist() == [69_999]


def _words(number):
    import json

    vocab = {f"w{i}": i for i in range(number)}
    return json.dumps(
        {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}}
    )


# ---- Beside the paper ----


def test_theirs_stands_beside_the_same_model():
    assert report.printed(3, 0.8, "4-block int8") == {"kept": 92.66, "speedup": 28.75, "gzip_mb": 20.3}
    assert report.printed(12, 0.0, "dense") == {"kept": 101.06, "speedup": 1.0, "gzip_mb": 384.7}
    assert report.printed(6, 0.9, "unstructured") == {"kept": 98.01, "speedup": 10.07, "gzip_mb": 111.8}
    assert report.printed(6, 0.9, "4-block") == {"kept": 96.39} and report.printed(2, 0.5, "4-block") == {}


def test_a_study_has_every_compound_model_of_the_paper():
    names = plan.compound_models(profiles.PROFILES["small"])
    assert {
        f"{depth} layers {rest}" for depth in (12, 6, 3) for rest in ("dense", "80% unstructured", "90% 4-block int8")
    } <= set(names)
    assert len(names) == 24
    small = {run.name: run for run in plan.runs(profiles.PROFILES["small"], "conll")}
    assert small["08-speed-12-layers-80-unstructured-e5-conll-seed1"].needs["model"] in small
    assert small["08-3-layers-80-4-block-e5-conll-seed1"].settings["initial"] == plan.SHALLOW
    with pytest.raises(ValueError, match="has '4 layers dense'. Known are 12 layers dense"):
        plan.runs(profiles.changed(profiles.PROFILES["small"], {"compound": ("4 layers dense",)}), "conll")
