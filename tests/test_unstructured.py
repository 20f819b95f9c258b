"""Notebook 03's runs and drawings: every criterion from start to record, on a tiny model and a few sentences."""

import dataclasses

import pandas as pd
import pytest
import torch

from mmalib import profiles
from mmalib.data import corpus
from mmalib.model import disk
from mmalib.model.evaluate import multilingual_score
from mmalib.prune import sparsity
from mmalib.records import store
from mmalib.reports import tables
from mmalib.reports import unstructured as report
from mmalib.studies import baselines, trials, unstructured


@pytest.fixture(scope="module")
def setting(tiny_backbone, tmp_path_factory):
    profile = dataclasses.replace(
        profiles.PROFILES["smoke"], name="tiny", backbones=(str(tiny_backbone),), sparsities=(0.5, 0.9)
    )
    where = {"corpus": "sample", "runs": tmp_path_factory.mktemp("runs")}
    return profile, str(tiny_backbone), corpus.load(profile, "sample"), where


@pytest.fixture(scope="module")
def study(setting):
    """All records of one seed."""
    profile, backbone, corpora, where = setting
    for plan in unstructured.planned(profile):
        unstructured.prune(profile, *plan, backbone, 1, corpora, **where)
    for criterion in unstructured.AT_ONCE:
        unstructured.one_shot(profile, criterion, backbone, 1, corpora, **where)
    return store.read(store.records_folder(where["runs"], "tiny"))


def test_every_model_has_exactly_its_sparsity_after_reload(setting, study):
    profile, backbone, _, where = setting
    for plan in unstructured.planned(profile):
        name = unstructured.run_name(*plan, backbone, "sample", 1)
        model, _ = disk.load(where["runs"] / "tiny" / "models" / name)
        weights = sparsity.weights(model).values()
        zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
        assert zeros == round(plan[1] * total)
        record = next(r for r in study if r["run"] == name)
        assert record["sparsity"]["measured"] == zeros / total
        assert record["curve"][0]["sparsity"] == 0 and record["curve"][-1]["sparsity"] == pytest.approx(plan[1], 1e-3)


def test_pruning_at_once_meets_sparsity_and_pattern(study):
    for record in (r for r in study if "one_shot" in r["config"]):
        assert [(p["share"], p["pattern"]) for p in record["curve"]] == list(unstructured.ONE_SHOT)
        assert all(p["sparsity"] == pytest.approx(p["share"], 1e-3) for p in record["curve"])


def test_a_second_call_reads_and_trains_nothing(setting, study, monkeypatch):
    profile, backbone, corpora, where = setting
    monkeypatch.setattr(unstructured, "finetune", None)
    plan = unstructured.planned(profile)[0]
    record = unstructured.prune(profile, *plan, backbone, 1, corpora, **where)
    assert record in study


def test_table_3_has_the_loss_against_the_baseline_of_the_same_seed(setting, study):
    profile, backbone, _, _ = setting
    made = report.table_3(study)
    ours = made[made["source"] == "this study, sample"]
    assert len(ours) == 7 and (made["source"] == "paper").sum() == 7
    base = next(r for r in study if r["run"] == baselines.run_name(backbone, "sample", 1))
    plan = ("movement", 0.9, "cubic")
    record = next(r for r in study if r["run"] == unstructured.run_name(*plan, backbone, "sample", 1))
    row = made[made["model"].str.endswith("movement 90")].iloc[0]
    assert row["mls test mean"] == pytest.approx(multilingual_score(record["scores"], base["scores"], "test"))
    assert "not measured" not in tables.formatted(ours).to_string()


def test_everything_is_drawn_and_what_lacks_is_named(setting, study):
    profile, *_ = setting
    drawn = report.draw(study)
    assert set(drawn) == {"table_3", "retention", *report.CURVES, "table_oneshot"}
    assert report.gaps(study, profile) == []
    fewer = [record for record in study if "movement-90" not in record["run"]]
    assert len(report.gaps(fewer, profile)) == 1
    trying = dataclasses.replace(profile, trials=True)
    assert len(report.gaps(study, trying)) == sum(map(len, trials.TRIALS.values()))


def test_a_taught_model_learns_from_the_dense_one(setting):
    profile, backbone, corpora, where = setting
    plan = ("magnitude", 0.5, "cubic")
    plain = unstructured.prune(profile, *plan, backbone, 1, corpora, **where)
    taught = unstructured.prune(profile, *plan, backbone, 1, corpora, **where, taught=True)
    assert taught["config"]["hardness"] == 0.5 and "hardness" not in plain["config"]
    folders = [where["runs"] / "tiny" / "models" / record["run"] for record in (plain, taught)]
    one, other = (disk.load(folder)[0].classifier.weight for folder in folders)
    assert not torch.equal(one, other) and taught["sparsity"]["measured"] == plain["sparsity"]["measured"]


def test_all_criteria_have_the_same_number_of_trials_and_a_trial_looks_at_english_dev_alone(setting, monkeypatch):
    assert len({len(tried) for tried in trials.TRIALS.values()}) == 1
    profile, backbone, corpora, where = setting
    small = {"sentences": 64, "dev_sentences": 16, "pruning_epochs": 1.0, "sparse_epochs": 1.0}
    monkeypatch.setattr(trials, "TRIAL", trials.TRIAL | small)
    record = trials.attempt(profile, "magnitude", 1, backbone, corpora, **where)
    assert list(record["scores"]) == ["en"] and list(record["scores"]["en"]) == ["dev"]
    assert record["config"]["rate"] == 2.0
    made = report.trials_table([record])
    assert isinstance(made, pd.DataFrame) and made["English dev F1"].iloc[0] >= 0
