"""What runs took: the median over runs of a kind, everything a record timed added up."""

import runpy
from pathlib import Path

import nbformat
import pytest

from mmalib.app import batch
from mmalib.plan import Run
from mmalib.records import store
from mmalib.reports import costs


def record(run, cores=2, timings=None, **settings):
    on = {"cores": cores, "cpu": "Xeon(R) Processor"}
    return {"run": run, "settings": settings, "timings": timings, "machine": on}


def test_a_gpu_is_named_in_place_of_the_cores():
    on_gpu = record("a", 16, {"training": 60.0}, notebook="05", method="quantization", graph="qat")
    on_gpu["machine"]["gpu"] = "NVIDIA H100"
    assert costs.table([on_gpu])["on"].to_list() == ["NVIDIA H100"]


def test_minutes_are_added_up_within_a_run_and_their_median_taken_over_runs():
    found = costs.table(
        [
            record("a", 1, {"training": 60.0, "scoring": 60.0}, notebook="05", method="quantization", graph="qat"),
            record("b", 2, {"make_s": 240.0}, notebook="05", method="quantization", graph="qat"),
            record("c", 2, {"make_s": 600.0}, notebook="05", method="quantization", graph="qat"),
            record("c2", 2, {"training": 60.0, "scoring": 60.0}, notebook="05", method="quantization", graph="qat"),
            record("d", 2, {"seconds": 90.0}, notebook="07", method="shape"),
            record("e", 2, None, notebook="03", method="obs"),
            record("f", 2, {"seconds": 1.0}, method="bench"),
        ]
    )
    assert found.to_dict("records") == [
        {"notebook": "05", "kind": "qat", "on": "1 core, Xeon", "runs": 1, "minutes": "2.0"},
        {"notebook": "05", "kind": "qat", "on": "2 cores, Xeon", "runs": 3, "minutes": "4.0"},
        {"notebook": "07", "kind": "shape", "on": "2 cores, Xeon", "runs": 1, "minutes": "1.5"},
    ]


def test_a_short_trial_is_no_full_pruning():
    full = {"notebook": "03", "kind": "gradual", "method": "obs", "share": 0.8}
    kinds = [costs._kind(full | {"kind": kind}) for kind in ("gradual", "trial", "movement")]
    assert kinds == ["obs 80%", "trial", "movement"]
    assert costs._kind({"notebook": "06", "kind": "halved", "setting": "teacher", "method": "halved"}) == "halved"


def test_without_timings_there_is_no_table():
    assert costs.table([record("e", 2, None, notebook="03", method="obs")]).empty


def test_what_is_missing_would_take_as_long_as_its_kind_did():
    def run(name, seed, **settings):
        return Run(name, {"notebook": "05", "method": "quantization", "seed": seed, **settings})

    runs = [run(f"qat{seed}", seed, graph="qat") for seed in (1, 2, 3)]
    runs += [run("floor", 1, graph="floor"), Run("07-x", {"notebook": "07", "method": "shape"})]
    there = [
        record("qat1", 2, {"training": 3600.0, "scoring": 3600.0}),
        {
            **record("qat2", 2, {"training": 7200.0}),
            "machine": {"cores": 2, "threads": 1, "cpu": "EPYC", "flags": {"avx512_vnni": True, "avx2": True}},
        },
        record("of another study", 2, {"training": 1e6}),
        {**record("floor", 16, {"training": 360.0}), "machine": {"cores": 16, "threads": 1, "gpu": "H100"}},
    ]
    assert costs.planned(there, runs).to_dict("records") == [
        {"notebook": "05", "runs": 4, "there": 3, "seeds": "1, 2", "made on": "EPYC VNNI, H100, Xeon"}
        | {"core-hours": "6.0"}
        | {"hours of runs on a GPU": "0.1", "still, about": "3.0"},
        {"notebook": "07", "runs": 1, "there": 0, "seeds": "", "made on": "", "core-hours": "0.0"}
        | {"hours of runs on a GPU": "0.0", "still, about": "0.0 and 1 never timed"},
    ]
    assert list(costs.planned([], runs)["core-hours"]) == ["0.0", "0.0"]


def test_the_benchmark_reads_what_papermill_measured(tmp_path, monkeypatch, capsys):
    names = [path.name for path in batch.notebooks(batch.NOTEBOOKS)]

    def study(profile, *, runs):
        for number, name in enumerate(names):  # each begins before the one before it has ended
            told = {"start_time": f"2030-01-01T00:{number:02d}:00.500000", "duration": 90.4}
            notebook = nbformat.v4.new_notebook(metadata={"papermill": told})
            path = Path(runs) / profile / "notebooks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
        return 0

    monkeypatch.setattr(batch, "run", study)
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "study.py"))
    monkeypatch.setattr("sys.argv", ["study.py", "--profile", "quick", "--out", str(tmp_path)])
    assert script["main"]() == 0
    assert "| 02_head_pruning | 60 | 90 |" in capsys.readouterr().out
    (found,) = store.read(tmp_path)
    assert found["run"] == "study_quick"
    seven, together = found["rows"][-2:]
    assert seven == {"notebook": "01 to 07 together", "begins at second": "0", "seconds": "450"}
    assert together == {"notebook": "all together", "begins at second": "0", "seconds": f"{60 * len(names) + 30:.0f}"}
    study("quick", runs=tmp_path / "there")
    assert script["took"](tmp_path / "there" / "quick")["02_head_pruning"] == pytest.approx((60.0, 150.4))
    (tmp_path / "there" / "quick" / "notebooks" / names[0]).unlink()
    with pytest.raises(SystemExit, match="is missing executed notebooks: 01_baselines"):
        script["took"](tmp_path / "there" / "quick")
