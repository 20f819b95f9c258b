"""Notebook 02's runs and drawings: the knee by hand, the table from a synthetic curve, a killed trajectory."""

import pytest

from mmalib import plan
from mmalib.model import disk
from mmalib.records import store
from mmalib.reports import structured as report
from mmalib.reports import tables


def test_where_f1_falls_over_seeds_has_a_mean_only_if_it_falls_in_all():
    assert report.over_seeds([0.5, 0.7]) == ("60%", pytest.approx(0.6))
    assert report.over_seeds([0.7, float("nan")]) == ("≥70%", None)
    assert report.over_seeds([float("nan")] * 2) == ("never", None)


@pytest.mark.parametrize(
    ("f1", "at"),
    [
        ([1.0, 1.0, 0.9, 0.5], 0.25 + 0.25 * 0.5),  # 0.95 lies half-way between 1.0 and 0.9
        ([0.8, 0.4, 0.8, 0.8], 0.25 * 0.1),  # the first fall counts, 0.04 of 0.4 down
        ([0.8, 0.79, 0.78, 0.77], float("nan")),
        ([0.8, 0.76, 0.75, 0.7], 0.25),  # exactly 95% is not under it
    ],
)
def test_the_knee_is_where_a_straight_line_crosses_95_percent(f1, at):
    assert report.knee([0.0, 0.25, 0.5, 0.75], f1) == pytest.approx(at, nan_ok=True)


def pruned(losses):
    """Two seeds; every language loses `losses[share]` from 0.8, seed 2 twice as much; recovery halves it."""
    records = []
    for seed in (1, 2):
        settings = {"kind": "structured", "label": "e5", "corpus": "sample", "method": "heads", "seed": seed}
        curve = []
        for step, (share, loss) in enumerate(losses.items()):
            for recovered in (False, True):
                f1 = {"f1": 0.8 - loss * seed * (0.5 if recovered else 1)}
                point = {"step": step, "share": share, "recovered": recovered, "megabytes": 16.0}
                point |= {"parameters": 4e6 * (1 - share)}
                curve.append(point | {"scores": {name: {"dev": f1, "test": f1} for name in ("en", "es", "nl")}})
        records.append({"run": f"heads-{seed}", "settings": settings, "scores": {}, "curve": curve})
    return records


def test_the_table_has_four_shares_and_measures_the_loss_from_the_whole_model():
    made = report.table(pruned({0.0: 0.0, 0.25: 0.02, 1 / 3: 0.03, 0.5: 0.1, 0.75: 0.4}))
    assert list(zip(made["recovered"], made["share"], strict=True)) == [
        (kind, share) for kind in ("no", "yes") for share in ("0%", "25%", "50%", "75%")
    ]
    half = made[(made["recovered"] == "no") & (made["share"] == "50%")].iloc[0]
    assert half["nl test mean"] == pytest.approx(0.65) and half["mls test mean"] == pytest.approx(-0.3)
    assert half["mls test std"] == pytest.approx(0.2 / 2**0.5)
    assert half["million parameters"] == 2.0 and half["seeds"] == 2
    assert "0.650 ± 0.071" in tables.formatted(made).to_string()


def test_knees_are_found_for_every_language_and_measured_from_the_baseline():
    at = report.knees(store.curves(pruned({0.0: 0.0, 0.5: 0.04, 1.0: 0.4}))).set_index(
        ["recovered", "language", "seed"]
    )["knee"]
    assert at[(False, "es", 1)] == pytest.approx(0.5)  # 0.76 is exactly 95% of 0.8
    assert at[(False, "es", 2)] == pytest.approx(0.25)
    assert at[(True, "en", 2)] == pytest.approx(0.5)


@pytest.fixture
def study(tiny_study):
    return tiny_study()


@pytest.mark.parametrize("method", plan.METHODS)
def test_a_killed_trajectory_goes_on_to_the_same_curve(study, method, monkeypatch):
    (run,) = [run for run in study.runs("02", "structured") if run.settings["method"] == method]
    record = study.make(run)
    path = study.home / "records" / f"{run.name}.json"
    path.unlink()
    calls = []

    def kill(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        add_point(*arguments)

    add_point = store.add_point
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(store, "add_point", kill)
        study.make(run)
    assert not path.exists()
    again = study.make(run)
    assert again["curve"] == record["curve"]
    assert [point["recovered"] for point in again["curve"]] == [False, True] * (len(again["curve"]) // 2)
    assert again["curve"][0]["share"] == 0 and again["curve"][-1]["share"] == pytest.approx(0.75)  # 4 heads: one left
    model, _ = disk.load(study.folder(plan.kept_leaf(run.name, 0.5)))
    assert sum(p.numel() for p in model.parameters()) < again["curve"][0]["parameters"]


def test_the_vocabulary_is_cut_and_the_rest_of_the_model_stays(study):
    (run,) = study.runs("02", "vocabulary")
    record = study.make(run)
    rest = [record[key]["parameters"] - record[key]["embedding_parameters"] for key in ("before", "after")]
    assert rest[0] == rest[1] and record["after"]["megabytes"] < record["before"]["megabytes"]
    baseline = study.records()[0]
    assert baseline["run"] == record["needs"]["base"] == plan.baseline_name(run.settings["backbone"], "sample", 1)
    made = report.vocabulary_table([record, baseline])
    assert made["vocabulary"].tolist() == ["whole", "cut"] and made["en test mean"].notna().all()
