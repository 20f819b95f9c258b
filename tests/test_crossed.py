"""Notebook 09's runs and drawings: a tiny model through every row on both tasks; matched layers, searched masks."""

import itertools
import math
import socket

import onnx
import pytest
import torch
from torch.nn import functional

from mmalib import plan, reports
from mmalib.data.subwords import IGNORED
from mmalib.model import adapters, disk, layerwise
from mmalib.model.backbones import layers, parts
from mmalib.prune import gates, search
from mmalib.records import emissions
from mmalib.reports import crossed as report
from mmalib.studies import crossed


def batch(rows=3, length=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids, labels = (torch.randint(low, high, (rows, length), generator=draw) for low, high in ((5, 900), (0, 9)))
    mask = torch.ones_like(ids)
    mask[0, 5:], labels[0, 5:], labels[:, 0] = 0, IGNORED, IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# ---- Layer by layer ----


def test_layers_are_matched_from_the_top_down_each_the_nearest_below_the_last():
    draw = torch.Generator().manual_seed(1)
    for distances in (torch.rand(3, 5, generator=draw) for _ in range(50)):
        below, wanted = 5, []
        for teacher in (2, 1, 0):  # by hand
            choice = list(range(below)) or [0]
            below = min(choice, key=lambda student: float(distances[teacher, student]))
            wanted.insert(0, below)
        assert layerwise.alignment(distances) == wanted == sorted(wanted)


def test_the_loss_of_a_batch_by_hand(random_model):
    teacher, student, given = random_model("bert"), random_model("bert"), batch()
    layerwise.every_second_(student)
    assert len(layers(student)) == 1 and student.config.num_hidden_layers == 1
    with layerwise.loss(student, teacher, **plan.LAYERWISE) as loss:
        logits = student(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        found = loss(logits, given)
        found.backward()
    assert not any(module._forward_hooks for model in (teacher, student) for module in layers(model))
    names = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}
    with torch.no_grad():
        told = teacher(**names, output_hidden_states=True)
        ours = student(**names, output_hidden_states=True)
    real = given["attention_mask"].bool()
    hidden = (told.hidden_states[-1] - ours.hidden_states[-1])[real].square().mean()
    scored = given["labels"] != IGNORED
    logs = [functional.log_softmax(of.logits[scored] / 2, -1) for of in (told, ours)]
    labels = 4 * (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    torch.testing.assert_close(found, 0.9 * hidden + 0.1 * labels, atol=1e-4, rtol=1e-4)
    assert layers(student)[0].attention.self.query.weight.grad.abs().sum() > 0


def test_a_student_of_another_width_and_of_nothing_are_one_line(random_model, tiny_backbone):
    teacher, student = random_model("bert"), random_model("xlm-r")
    student.config.hidden_size = 16
    with pytest.raises(ValueError, match="student is 16 wide and the teacher 32"):  # noqa: SIM117
        with layerwise.loss(student, teacher, **plan.LAYERWISE):
            pass
    one = random_model("distilbert")
    layerwise.every_second_(one)
    with pytest.raises(ValueError, match="one layer"):
        layerwise.every_second_(one)


# ---- The mask search ----


def test_the_importance_of_units_is_the_squared_gradient_of_every_row(random_model):
    model, given = random_model("bert").double(), batch()
    found = search.importance(model, [given])
    own, step = parts(layers(model)[1]), 1e-5
    for linear, place, size, which in ((own.mix, 2, 8, 2), (own.narrow, 11, 1, 3)):
        total = 0.0
        for row in range(3):
            one = {name: tensor[row : row + 1] for name, tensor in given.items()}
            around = []
            for gate in (1 + step, 1 - step):
                weight = linear.weight.data.clone()
                linear.weight.data[:, place * size : (place + 1) * size] *= gate
                logits = model(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits
                around.append(functional.cross_entropy(logits[0], one["labels"][0], ignore_index=IGNORED).item())
                linear.weight.data.copy_(weight)
            total += ((around[0] - around[1]) / (2 * step)) ** 2
        assert float(found[which][place]) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("limit", [0.0, 2.5, 4.0, 7.1, 100.0])
def test_the_units_chosen_are_the_best_by_brute_force(limit):
    draw = torch.Generator().manual_seed(0)
    worth = [torch.rand(number, generator=draw) for number in (2, 4, 2, 3)]  # heads and neurons of two layers
    kept, flat = search.choose(worth, 2.0, 0.7, limit), torch.cat(worth)
    cost = torch.cat([torch.full((number,), each) for number, each in ((2, 2.0), (4, 0.7), (2, 2.0), (3, 0.7))])
    masks = torch.tensor(list(itertools.product((False, True), repeat=11)))
    cheap = masks[(masks * cost).sum(1) <= limit + 1e-6]
    assert float(flat[torch.cat(kept)].sum()) == pytest.approx(float((cheap * flat).sum(1).max()))
    assert float(cost[torch.cat(kept)].sum()) <= limit + 1e-6


def ratio_of(rest, bend=0.0):
    """A machine on which a head costs 6 neurons; `bend` is what no straight line knows of."""

    def measured(model):
        heads, neurons = sum(map(len, disk.heads_left(model))) / 8, sum(disk.neurons_left(model)) / 128
        work = 0.3 * heads + 0.7 * neurons
        return 1 / (rest + (1 - rest) * work + bend * work * (1 - work))

    return measured


@pytest.mark.parametrize("bend", [0.0, 0.2])
def test_the_speed_asked_for_is_the_speed_got(random_model, bend):
    model = random_model("bert")
    worth = [torch.rand(part.number) for part in gates.parts_of(model)]
    found = search.search_(model, worth, 2.0, ratio_of(0.1, bend))
    assert found["measured"] == pytest.approx(2.0, rel=search.NEAR) == ratio_of(0.1, bend)(model)
    assert found["requested"] == 2.0 and found["measured"] == found["looks"][-1]


def test_a_speed_that_cannot_be_reached_is_one_line(random_model):
    model = random_model("bert")
    worth = [torch.rand(part.number) for part in gates.parts_of(model)]
    with pytest.raises(ValueError, match="4 times as fast cannot be reached: .* takes 50% of the time"):
        search.search_(model, worth, 4.0, ratio_of(0.5))
    with pytest.raises(ValueError, match="do not make this model faster"):
        search.search_(model, worth, 4.0, lambda model: 1.0)


def test_what_a_busy_moment_says_of_heads_and_neurons_is_asked_again(random_model):
    model, ratio = random_model("bert"), ratio_of(0.1)
    worth, busy = [torch.rand(part.number) for part in gates.parts_of(model)], iter([1.2, 0.9])
    found = search.search_(model, worth, 2.0, lambda candidate: next(busy, None) or ratio(candidate))
    assert found["measured"] == pytest.approx(2.0, rel=search.NEAR)


def test_where_no_look_is_near_enough_the_nearest_stays(random_model):
    model, looks, seen = random_model("bert"), [1.7, 1.89, 2.4, 2.2, 1.6, 2.3, 1.7, 2.4], []
    worth, answers = [torch.rand(part.number) for part in gates.parts_of(model)], iter([1.4, 1.4, *looks])

    def measured(candidate):
        seen.append((disk.heads_left(candidate), disk.neurons_left(candidate)))
        return next(answers)

    found = search.search_(model, worth, 2.0, measured)
    assert found["looks"] == looks and found["measured"] == 1.89
    assert (disk.heads_left(model), disk.neurons_left(model)) == seen[2 + looks.index(1.89)]


# ---- Emissions ----


def test_energy_is_estimated_without_a_connection(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with emissions.tracked("ESP") as estimate:
        for _ in range(20):
            torch.rand(400, 400) @ torch.rand(400, 400)
    assert estimate["country"] == "ESP" and estimate["seconds"] > 0 and estimate["watts"] > 0
    assert 50 < estimate["grams_a_kwh"] < 500 and "CPU" in estimate["estimated_from"]
    with pytest.raises(ValueError, match="'Spain' is no country"), emissions.tracked("Spain"):
        pass


# ---- The runs ----


@pytest.fixture(scope="module")
def study(tiny_study):
    rows = {"cross_rows": None, "pair_rows": ("FT", "P+A"), "pair_criteria": ("magnitude", "obs")}
    return tiny_study(speedups=(1.5,), used_models=2, **rows)


@pytest.fixture(scope="module")
def records(study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossed.speed, "measured", counted)
        study.make_all(study.runs(kind="searched"))
    study.make_all(study.runs("09"))
    return study.records()


def counted(settings, folders, names, base):
    """Speeds by the weights of the encoder, in place of a clock, which a busy machine would move."""
    whole, own = (
        sum(math.prod(tensor.dims) for tensor in onnx.load(folder / "model.onnx").graph.initializer if encodes(tensor))
        for folder in (base, folders["candidate"])
    )
    return [{"ratio": 1 / (0.2 + 0.8 * own / whole)}]


def encodes(tensor):
    return len(tensor.dims) == 2 and "embeddings" not in tensor.name


def made(records, row, task="entities"):
    (record,) = (r for r in records if (r["settings"].get("row"), r["settings"].get("task")) == (row, task))
    return record


def test_every_row_is_there_and_tells_what_it_took(study, records):
    assert study.missing("09") == []
    for record in (r for r in records if r["settings"]["notebook"] == "09"):
        (estimate,) = record["emissions"].values()
        assert estimate["watts"] >= 0 and estimate["country"] == "NLD" and estimate["estimated_from"]
    for row in plan.ROWS[1:]:
        record = made(records, row)
        layer = sum(weight.numel() for weight in layers(disk.load(study.folder(record["run"]))[0])[0].parameters())
        assert (record["trained_weights"] > layer) == (row == "D")
    assert made(records, "FT", "similarity")["scores"]["nl"]["test"]["pairs"] == 8


def test_a_student_has_every_second_layer_and_lora_is_merged(study, records):
    models = {row: disk.load(study.folder(made(records, row)["run"]))[0] for row in ("D", "D+A", "LoRA", "A")}
    assert {row: len(layers(model)) for row, model in models.items()} == {"D": 1, "D+A": 1, "LoRA": 2, "A": 2}
    assert not any("lora" in name for name in models["LoRA"].state_dict())
    assert getattr(models["D+A"].config, adapters.WIDTH) == 8
    pretrained = disk.load(study.folder(made(records, "A")["run"]))[0]
    assert torch.equal(layers(models["D+A"])[0].attention.self.query.weight,
                       layers(pretrained)[1].attention.self.query.weight)  # fmt: skip


def test_pruned_rows_are_as_small_as_asked_for_and_adapters_leave_the_rest_alone(study, records):
    for row in plan.PRUNED_ROWS:
        zeros = made(records, row)["sparsity"]
        assert zeros["measured"] == pytest.approx(0.6, abs=gates.NEAR) and 0 < zeros["expected"] < 1
    start, pruned = (disk.load(study.folder(made(records, row)["run"]))[0] for row in ("A", "P+A"))
    for before, after in zip(map(parts, layers(start)), map(parts, layers(pruned)), strict=True):
        rows = {tuple(row.tolist()) for row in before.widen.weight}
        assert all(tuple(row.tolist()) in rows for row in after.widen.weight)


def test_the_table_has_every_row_and_says_what_was_not_measured(records):
    table = report.table(records).set_index(["task", "row"])
    wanted = {("entities", row) for row in (*plan.ROWS, *plan.PRUNED_ROWS)}
    of_pairs = ("FT", "A", "P+A", "magnitude", "second order", "int8")
    wanted |= {("entities", "search")} | {("similarity", row) for row in of_pairs}
    assert set(table.index) == wanted
    assert isinstance(table.loc[("entities", "FT"), "speed-up"], float)
    assert table.loc[("similarity", "P+A"), "speed-up"] == "not measured"
    over = table.loc[("entities", "FT"), [*report.OVER_FT]]
    assert over["over FT low"] <= over["over FT"] <= over["over FT high"]
    assert table.loc[("entities", "P"), "own training Wh"] >= 0 and table.loc[("entities", "P"), "asked"] == "0.6"
    drawn = reports.draw(records, "crossed", "searched", "gated", "use")
    figures = {"crossed_quality", "crossed_size", "crossed_removed", "crossed_emissions"}
    assert set(drawn) == {"table_crossed", "table_searched"} | figures
    assert not math.isnan(table["en mean"].sum())


def test_a_searched_model_is_as_fast_as_asked_for_and_loads(study, records):
    record, (row,) = made(records, "search"), report.searched(records).to_dict("records")
    assert row["asked for"] == 1.5 and row["measured"] == pytest.approx(1.5, rel=search.NEAR)
    heads, neurons = record["structure"]["heads_left"], record["structure"]["neurons_left"]
    model, _ = disk.load(study.folder(record["run"]))
    assert disk.heads_left(model) == heads and disk.neurons_left(model) == neurons
    assert 0 < record["sparsity"]["measured"] < 1 and (sum(map(len, heads)), sum(neurons)) < (8, 128)


def test_what_went_is_counted_of_the_model_that_entered():
    whole = {"heads": [[0, 1, 2, 3], [0, 1]], "neurons": [10, 4]}
    structure = {"heads_left": [[1, 2], []], "neurons_left": [5, 4], "whole": whole}
    heads, neurons = report.gone_by_layer({"structure": structure})
    assert heads.tolist() == [0.5, 1.0] and neurons.tolist() == [0.5, 0.0]
