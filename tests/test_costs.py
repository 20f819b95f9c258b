"""What runs took: the median over runs of a kind, everything a record timed added up."""

import runpy
from pathlib import Path

import nbformat
import pytest

from mmalib.app import batch
from mmalib.records import store
from mmalib.reports import costs


def record(run, cores=2, timings=None, **settings):
    return {"run": run, "settings": settings, "timings": timings, "machine": {"cores": cores}}


def test_minutes_are_added_up_within_a_run_and_their_median_taken_over_runs():
    found = costs.table(
        [
            record("a", 1, {"training": 60.0, "scoring": 60.0}, notebook="05", method="quantization", graph="qat"),
            record("b", 2, {"make_s": 240.0}, notebook="05", method="quantization", graph="qat"),
            record("c", 2, {"make_s": 600.0}, notebook="05", method="quantization", graph="qat"),
            record("d", 2, {"seconds": 90.0}, notebook="07", method="shape"),
            record("e", 2, None, notebook="03", method="obs"),
            record("f", 2, {"seconds": 1.0}, method="bench"),
        ]
    )
    assert found.to_dict("records") == [
        {"notebook": "05", "kind": "qat", "runs": 3, "minutes": "4.0", "cores": "1, 2"},
        {"notebook": "07", "kind": "shape", "runs": 1, "minutes": "1.5", "cores": "2"},
    ]


def test_without_timings_there_is_no_table():
    assert costs.table([record("e", 2, None, notebook="03", method="obs")]).empty


def test_the_benchmark_reads_what_papermill_measured(tmp_path, monkeypatch, capsys):
    names = [path.name for path in batch.notebooks(batch.NOTEBOOKS)]

    def study(profile, *, runs):
        for number, name in enumerate(names, start=1):
            notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 10.4 * number}})
            path = Path(runs) / profile / "notebooks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
        return 0

    monkeypatch.setattr(batch, "run", study)
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "study.py"))
    monkeypatch.setattr("sys.argv", ["study.py", "--profile", "smoke", "--out", str(tmp_path)])
    assert script["main"]() == 0
    assert "| 01_baselines | 10 |" in capsys.readouterr().out
    (found,) = store.read(tmp_path)
    assert found["run"] == "study_smoke"
    assert found["rows"][-1] == {"notebook": "together", "seconds": f"{10.4 * sum(range(1, len(names) + 1)):.0f}"}
    study("smoke", runs=tmp_path / "there")
    assert script["took"](tmp_path / "there" / "smoke")["02_head_pruning"] == pytest.approx(20.8)
    (tmp_path / "there" / "smoke" / "notebooks" / names[0]).unlink()
    with pytest.raises(SystemExit, match="is missing executed notebooks: 01_baselines"):
        script["took"](tmp_path / "there" / "smoke")
