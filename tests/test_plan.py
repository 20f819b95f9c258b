"""The runs of a study as plain data: their order, their names, what a changed setting does, what is missing."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from mmalib import plan, profiles
from mmalib.profiles import PROFILES, load_profile
from mmalib.records import store
from mmalib.studies.study import MAKERS


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_what_a_run_needs_comes_before_it_and_every_kind_can_be_made(profile):
    runs, before = plan.runs(profile, "conll"), set()
    for run in runs:
        assert set(run.needs.values()) <= before and run.name not in before
        before.add(run.name)
        assert any(run.kind in kinds for kinds in MAKERS.values()) and re.fullmatch(r"0[1-9]", run.settings["notebook"])
        assert run.settings["corpus"] == "conll" and run.settings["label"]
    leaves = [leaf for run in runs for leaf in run.leaves]
    assert len(set(leaves)) == len(leaves)


def test_settings_decide_the_digest_and_nothing_else_does():
    quick = load_profile("quick")
    first, second = (plan.baseline(quick, "e5-half", "sample", seed) for seed in (1, 2))
    again = plan.baseline(quick, "e5-half", "sample", 1)
    assert first.digest == again.digest != second.digest
    assert plan.baseline(profiles.changed(quick, {"epochs": 9}), "e5-half", "sample", 1).digest != first.digest


def test_a_changed_setting_renames_what_comes_out_otherwise_and_all_that_starts_from_it():
    quick = load_profile("quick")
    before = {run.name: run for run in plan.runs(quick, "sample")}
    changed = plan.runs(quick, "sample", changes={"pruning_epochs": 4})
    renamed = {run.name.replace("+pruning_epochs=4", "") for run in changed if "varied" in run.settings}
    kinds = {before[name].kind for name in renamed if not name.startswith("07")}
    assert kinds == {"gradual", "combination", "compound", "compound int8", "compound speed", "crossed sparse"}
    assert "06-50-q-e5-half-sample-seed1" in renamed and "06-distil-q-e5-half-sample-seed1" not in renamed
    for run in changed:
        if "varied" in run.settings:
            assert run.name not in before and run.settings["label"] == "e5-half, pruning_epochs 4"
            assert all("+pruning_epochs=4" in leaf for leaf in run.leaves)
        else:
            assert run == before[run.name]
    combination = next(run for run in changed if run.name == "06-50-q-e5-half-sample-seed1+pruning_epochs=4")
    assert combination.needs["start"] == "03-obs-50-cubic-taught-e5-half-sample-seed1+pruning_epochs=4"
    assert combination.needs["float"] == "05-float-e5-half-sample-seed1"
    for run in changed:
        if run.kind == "trained":
            assert run.settings["model"] == run.needs["model"] and run.settings["folder"].startswith(run.needs["model"])


def test_a_backbone_of_notebook_09_is_tuned_there_on_what_all_rows_read():
    changes = {"cross_backbone": "e5-narrow", "cross_sentences": 100}
    runs = {run.name: run for run in plan.runs(profiles.changed(load_profile("quick"), changes), "sample")}
    full = runs["09-entities-ft-e5-narrow-sample-seed1"]
    assert full.needs == {} and full.settings["cross_sentences"] == 100
    for row in ("a", "d", "magnitude-50"):  # both tasks are pruned weight by weight: notebook 03 has not this backbone
        assert runs[f"09-entities-{row}-e5-narrow-sample-seed1"].needs == {"base": full.name}
    assert "09-similarity-magnitude-50-e5-narrow-sample-seed1" in runs
    own = {run.name for run in plan.runs(load_profile("quick"), "sample")}
    assert not own & {"09-entities-ft-e5-half-sample-seed1", "09-entities-magnitude-50-e5-half-sample-seed1"}


def test_a_profile_may_leave_out_rows_of_notebook_09_and_train_adapters_longer():
    some = dataclasses.replace(PROFILES["small"], cross_rows=("FT", "P+A"), cross_epochs=2, adapter_epochs=6)
    rows = [run for run in plan.runs(some, "conll") if run.kind in ("crossed", "gated")]
    epochs = {run.settings["row"]: run.settings["epochs"] for run in rows if run.settings["task"] == "entities"}
    assert epochs == {"FT": 2, "A": 6, "P+A": 6}  # A comes along: it is what P+A prunes
    same = dataclasses.replace(some, adapter_epochs=None)
    assert {run.settings["epochs"] for run in plan.runs(same, "conll") if run.kind == "crossed"} == {2}


def test_a_changed_baseline_renames_everything_that_is_made_from_it(tmp_path):
    changed = plan.runs(load_profile("quick"), "sample", changes={"learning_rate": 1e-4, "frozen": None})
    assert {run.kind for run in changed if "varied" not in run.settings} == {"shape"}
    tag = "+frozen=None,learning_rate=0.0001"
    for run in changed:
        if "varied" in run.settings:
            assert tag in run.name and all(tag in need for need in run.needs.values())
            assert store.finished(tmp_path, run.name, run.settings) is None  # the name is one of a file


def test_the_seeds_of_a_profile_are_those_of_all_its_runs():
    few = dataclasses.replace(load_profile("small"), seeds=(2,))
    assert {run.settings["seed"] for run in plan.runs(few, "conll") if "seed" in run.settings} == {2}


@pytest.mark.parametrize(
    "changes",
    [
        {"left_out": ("distil-q", "distil-halved-q")},
        {"left_out": plan.combinations(dataclasses.replace(load_profile("quick"), left_out=()))},
        {"pruning_seeds": (2,)},
    ],
    ids=("students left out", "notebook 06 left out", "another seed"),
)
def test_what_a_run_needs_is_planned_whatever_is_left_out(changes):
    every = plan.runs(dataclasses.replace(load_profile("quick"), **changes), "sample")
    assert every and {need for run in every for need in run.needs.values()} <= {run.name for run in every}


def test_two_runs_of_one_name_are_refused():
    two = dataclasses.replace(load_profile("quick"), backbones=("/a/model", "/b/model"))
    with pytest.raises(ValueError, match="Two runs of the profile would be called 01-model-sample-seed1"):
        plan.runs(two, "sample")


def test_a_combination_starts_from_the_sparsity_that_its_run_has():
    odd = dataclasses.replace(load_profile("small"), sparsities=(0.875,))
    runs = {run.name: run for run in plan.runs(odd, "conll")}
    combined = runs["06-88-q-e5-conll-seed1"]
    assert combined.settings["start"]["share"] == 0.875 == runs[combined.needs["start"]].settings["share"]


def test_half_of_every_four_goes_by_the_published_damping():
    runs = {run.name: run.settings for run in plan.runs(load_profile("small"), "conll")}
    assert runs["08-2-of-4-obs-e5-conll-seed1"]["damp"] == plan.PUBLISHED["obs"]["damp"] > plan.CHOSEN["obs"]["damp"]


def test_what_no_runtime_of_a_profile_runs_is_not_planned():
    some = profiles.changed(load_profile("small"), {"speed_runtimes": ["openvino"]})
    shapes = [run for run in plan.runs(some, "sample") if run.kind == "shape"]
    assert shapes and all(run.settings["runtimes"] for run in shapes)


def test_an_unknown_setting_is_one_line_with_the_nearest_name():
    with pytest.raises(ValueError, match="no setting 'prunning_epochs'. Did you mean 'pruning_epochs'?"):
        plan.runs(load_profile("quick"), "sample", changes={"prunning_epochs": 4})


def test_a_profile_of_your_own_is_a_file_with_what_differs(tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text('{"like": "quick", "epochs": 2, "pruning_epochs": 1, "one_shot": [0.5], "frozen": null}')
    own, quick = load_profile(str(mine)), load_profile("quick")
    assert own == dataclasses.replace(quick, name="mine", epochs=2, pruning_epochs=1, one_shot=(0.5,), frozen=None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "mine.json is not JSON"),
        ('["quick"]', "names no profile to begin from"),
        ('{"like": "huge"}', "names no profile to begin from"),
        ('{"like": "quick", "epoch": 2}', "no setting 'epoch'. Did you mean 'epochs'?"),
        ('{"like": "quick", "name": "small"}', "no setting 'name'"),
        ('{"like": "quick", "epochs": "2"}', "The setting 'epochs' is '2', where int is wanted."),
        ('{"like": "quick", "epochs": true}', "The setting 'epochs' is True, where int is wanted."),
        ('{"like": "quick", "seeds": [1, "2"]}', r"'seeds' is \(1, '2'\), where tuple\[int, ...\] is wanted."),
    ],
)
def test_what_is_wrong_in_a_profile_of_your_own_is_one_line(tmp_path, text, says):
    mine = tmp_path / "mine.json"
    mine.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_profile(str(mine))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"int8_graphs": ["qta"]}, "int8_graphs of profile mine has 'qta'. Known are float, longer,"),
        ({"compound": ["9 layers dense"]}, "compound of profile mine has '9 layers dense'"),
        ({"speed_cases": ["base 99%"]}, "speed_cases of profile mine has 'base 99%'"),
        ({"speed_runtimes": ["openvino:hint=throughput"]}, "speed_runtimes of profile mine has 'openvino:hint"),
        ({"cross_rows": ["FT", "P+"]}, r"cross_rows of profile mine has 'P\+'"),
        ({"pair_criteria": ["size"]}, "Known are random, magnitude, movement, obs."),
        ({"calibration_methods": ["max"]}, "Known are minmax, percentile, entropy."),
        ({"left_out": ["80q"]}, "left_out of profile mine has '80q'. Known are 50-q, distil-q,"),
        ({"depths": [6, 3]}, "layer_choices of profile mine is empty. Give one at least."),
        *(
            ({name: []}, f"{name} of profile mine is empty")
            for name in ("backbones", "seeds", "sparsities", "students")
        ),
    ],
)
def test_what_a_profile_lists_must_be_known_and_what_is_needed_be_there(tmp_path, changes, says):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"like": "quick", **changes}))
    with pytest.raises(ValueError, match=says):
        plan.runs(load_profile(str(mine)), "sample")


def test_a_profile_of_your_own_cannot_take_a_name_that_is_taken(tmp_path):
    (tmp_path / "quick.json").write_text('{"like": "small"}')
    with pytest.raises(ValueError, match="would write into the folder of the profile 'quick'"):
        load_profile(str(tmp_path / "quick.json"))


def record(run, languages=("en", "es")):
    scores = {language: {"test": {"f1": 0.5}} for language in languages}
    return {"run": run.name, "settings": run.settings, "scores": scores, "needs": run.needs}


def test_missing_are_whole_runs_and_scores_that_others_of_the_kind_have():
    one, two, three = (plan.baseline(load_profile("quick"), "e5-half", "sample", seed) for seed in (1, 2, 3))
    assert plan.missing([record(one), record(two, ["en"])], [one, two, three]) == [three.name, f"{two.name} (es test)"]
    further = record(one) | {"further": {"fr": {"test": {"f1": 0.5}}}}
    assert plan.missing([further, record(two)], [one, two]) == [f"{two.name} (fr test)"]
    assert plan.missing([record(one), record(two)], [one, two]) == []
    assert plan.of_kind([record(one)], "baseline") == [record(one)] and plan.of_kind([record(one)], "graph") == []


@pytest.mark.parametrize("module", ("mmalib.plan", "mmalib.reports", "mmalib.app.publish", "mmalib.studies.study"))
def test_plans_and_drawings_load_no_training_code(module):
    heavy = ("torch", "transformers", "datasets", "onnxruntime", "openvino", "onnx")
    program = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
