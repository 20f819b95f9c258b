"""Notebook 03's runs and drawings: every criterion from start to record, on a tiny model and a few sentences."""

import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from mmalib import plan, reports
from mmalib.model import disk
from mmalib.prune import sparsity
from mmalib.reports import tables
from mmalib.reports import unstructured as report
from mmalib.reports.tables import multilingual_score
from mmalib.studies import unstructured


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(sparsities=(0.5, 0.9))


@pytest.fixture(scope="module")
def records(study):
    """All records of one seed."""
    study.make_all(study.runs("03"))
    return study.records()


@pytest.fixture
def base(study):
    return study.runs("01", "baseline")[0]


def test_every_model_has_exactly_its_sparsity_after_reload(study, records):
    for run in study.runs("03", "gradual"):
        model, _ = disk.load(study.folder(run.name))
        weights, share = sparsity.weights(model).values(), run.settings["share"]
        zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
        assert zeros == round(share * total)
        record = next(r for r in records if r["run"] == run.name)
        assert record["sparsity"]["measured"] == zeros / total
        if run.settings.get("hardness"):  # notebook 06 goes on from its end alone
            assert record["curve"] == []
            continue
        assert record["curve"][0]["sparsity"] == 0 and record["curve"][-1]["sparsity"] == pytest.approx(share, 1e-3)


def test_pruning_at_once_meets_sparsity_and_pattern(records):
    at_once = plan.of_kind(records, "one-shot")
    assert {record["settings"]["method"] for record in at_once} == set(plan.AT_ONCE)
    for record in at_once:
        assert [[p["share"], p["pattern"]] for p in record["curve"]] == record["settings"]["points"]
        assert all(p["sparsity"] == pytest.approx(p["share"], 1e-3) for p in record["curve"])


def test_a_second_call_reads_and_trains_nothing(study, records, monkeypatch):
    monkeypatch.setattr(unstructured, "finetune", None)
    assert study.make(study.runs("03", "gradual")[0]) in records


def test_table_3_has_the_loss_against_the_baseline_of_the_same_seed(study, records, base):
    made = report.table_3(records)
    ours = made[made["source"] == "this study, sample"]
    assert len(ours) == 11 and (made["source"] == "paper").sum() == 7
    dense, sparse = study.make(base), study.make(plan.gradual(study.profile, base, "movement", 0.9))
    row = made[made["model"].str.endswith("movement 90")].iloc[0]
    assert row["mls test mean"] == pytest.approx(multilingual_score(sparse["scores"], dense["scores"], "test"))
    assert "not measured" not in tables.formatted(ours).to_string()


def test_everything_is_drawn_and_what_lacks_is_named(study, records):
    drawn = reports.draw(records, "gradual", "one-shot", "trial", "movement")
    assert set(drawn) == {"table_3", "retention", "figure_3", "figure_4", "figure_5", "table_oneshot"}
    assert study.missing("03") == []
    fewer = [record for record in records if "movement-90" not in record["run"]]
    assert len(plan.missing(fewer, study.runs("03"))) == 1
    trying = plan.runs(dataclasses.replace(study.profile, trials=True), "sample")
    trying = [run for run in trying if run.settings["notebook"] == "03"]
    assert len(plan.missing(records, trying)) == sum(map(len, plan.TRIALS.values())) + len(plan.MOVEMENT)


def test_a_taught_model_learns_from_the_dense_one(study, base):
    runs = [plan.gradual(study.profile, base, "magnitude", 0.5, taught=taught) for taught in (False, True)]
    plain, taught = map(study.make, runs)
    assert taught["settings"]["hardness"] == 1.0 and "hardness" not in plain["settings"]
    one, other = (disk.load(study.folder(run.name))[0].classifier.weight for run in runs)
    assert not torch.equal(one, other) and taught["sparsity"]["measured"] == plain["sparsity"]["measured"]


@pytest.mark.parametrize(("taught", "warm_up"), [(False, 0.1), (True, 0.0)])
def test_the_first_jump_of_a_taught_model_does_not_fall_where_the_rate_is_0(study, base, monkeypatch, taught, warm_up):
    recipes = []
    monkeypatch.setattr(unstructured, "finetune", lambda *given, **_: (recipes.append(given[3]), {}))
    settings = plan.gradual(study.profile, base, "magnitude", 0.9, taught=taught).settings
    unstructured.gradually(settings, None, [{}] * 64, SimpleNamespace(tokenizer=None), folder=None)
    assert recipes[0].warm_up == warm_up and settings["initial"] == (0.7 if taught else 0.0)


def test_all_criteria_have_the_same_number_of_trials_and_a_trial_looks_at_english_dev_alone(study, base, monkeypatch):
    assert len({len(tried) for tried in plan.TRIALS.values()}) == 1
    monkeypatch.setattr(plan, "TRIAL", plan.TRIAL | {"trial_sentences": 64, "trial_dev_sentences": 16})
    record = study.make(plan.trials(study.profile, base)[1])
    assert list(record["scores"]) == ["en"] and list(record["scores"]["en"]) == ["dev"]
    assert record["settings"]["rate"] == 2.0
    made = report.trials_table([record])
    assert isinstance(made, pd.DataFrame) and made["English dev F1"].iloc[0] >= 0


def test_what_keeps_movement_alive_is_tried_step_by_step(study, base, monkeypatch):
    few = {"trial_sentences": 32, "trial_dev_sentences": 16, "pruning_epochs": 1.0}
    monkeypatch.setattr(plan, "MOVEMENT_TRIAL", plan.MOVEMENT_TRIAL | few)
    records = [study.make(run) for run in plan.trials(study.profile, base) if run.kind == "movement"]
    assert report.movement_table(records[::-1])["setting"].tolist() == list(plan.MOVEMENT)
    own = [record["settings"] for record in records]
    assert [settings["method"] for settings in own] == ["random"] + ["movement"] * 9
    *in_turn, of_its_own = own
    linear = in_turn[list(plan.MOVEMENT).index("linear")]
    for before, settings in [*zip(in_turn[1:], in_turn[2:], strict=False), (linear, of_its_own)]:  # one thing at a time
        changed = {name for name in settings if settings[name] != before.get(name)} - {"step"}
        assert changed <= {"updates", "every"} or len(changed) == 1


def test_the_rate_is_rewound_at_every_stretch_and_ends_at_its_share(monkeypatch):
    recipes = []
    monkeypatch.setattr(unstructured, "finetune", lambda *given, **_: (recipes.append(given[3]), {}))
    settings = {"method": "magnitude", "pruning_epochs": 2, "sparse_epochs": 1, "batch_size": 4, "updates": 4}
    settings |= {"schedule": "cubic", "initial": 0.0, "share": 0.5, "pattern": "1", "rate": 2.0, "rate_after": 1e-4}
    settings |= {"stretches": 2, "end_rate": 0.25, "cycles": 1, "frozen_after": None, "seed": 1}
    unstructured.gradually(settings, None, [{}] * 64, SimpleNamespace(tokenizer=None), folder=None)
    (recipe,) = recipes
    assert (recipe.learning_rate, recipe.end_rate) == (pytest.approx(2e-4), pytest.approx(0.5e-4))
    assert (recipe.epochs, recipe.choose_after, list(recipe.rewinds)) == (3, 2, [1, 2])


def test_a_trials_f1_is_of_an_epoch_at_full_sparsity(monkeypatch):
    monkeypatch.setattr(unstructured, "english", lambda *_: (None, None))
    monkeypatch.setattr(unstructured, "training_rows", lambda *_: [])
    monkeypatch.setattr(unstructured, "gradually", lambda *_, **__: (None, {"dev_f1": [0.9, 0.5, 0.6]}, []))
    study = SimpleNamespace(model=lambda _: (SimpleNamespace(config=SimpleNamespace(label2id={})), None))
    settings = {"trial_sentences": 1, "trial_dev_sentences": 1, "pruning_epochs": 1.0}
    made = unstructured.attempt(study, SimpleNamespace(settings=settings, needs={"base": ""}), None)
    assert made["scores"]["en"]["dev"]["f1"] == 0.6


def test_points_that_differ_in_what_goes_alone_share_one_weighing(monkeypatch, tmp_path):
    asked = []
    for name in ("fewer_to_score", "encode_split", "score"):
        monkeypatch.setattr(unstructured, name, lambda *_, **__: {})
    monkeypatch.setattr(unstructured, "training_rows", lambda *_: [])
    monkeypatch.setattr(unstructured, "criterion", lambda own, *_, **how: asked.append((own["damp"], how["anew"])))
    monkeypatch.setattr(unstructured.sparsity, "one_shot_", lambda *_, **__: None)
    monkeypatch.setattr(unstructured.sparsity, "measured", lambda _: 0.5)
    model = SimpleNamespace(config=SimpleNamespace(label2id={}))
    study = SimpleNamespace(model=lambda _: (model, None), corpora={"en": {"train": None}})
    settings = {"curve_sentences": 1, "max_length": 8, "varies": "damp"}
    settings["points"] = [(0.5, "1", 1e-7), (0.6, "1", 1e-7), (0.5, "1", 1e-3)]
    unstructured.one_shot(study, SimpleNamespace(settings=settings, needs={"base": ""}), tmp_path)
    assert asked == [(1e-7, False), (1e-3, False)]
