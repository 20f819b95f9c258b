"""The study as a batch job: in order, one at a time, and complete after any number of kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from mmalib import plan, reports
from mmalib.app import batch, cli
from mmalib.profiles import load_profile
from mmalib.records import lock, store
from mmalib.studies import workers

PARAMETERS = 'profile = "quick"  # which study\nruns = "runs"  # where'
RECORDS = """\
import json, os, time
from pathlib import Path
from mmalib.records import store
folder = Path(runs) / profile / "records"
made = 0
for seed in range(1, 9):
    settings = {"kind": "baseline", "method": "baseline", "label": "e5", "corpus": "sample", "seed": seed}
    if store.finished(folder, f"e5-{seed}", settings) is None:
        time.sleep(0.2)
        one = {"f1": seed / 10, "precision": 0.5, "recall": 0.5, "f1_low": 0.1, "f1_high": 0.9}
        scores = {language: {"dev": one, "test": one} for language in ("en", "es", "nl")}
        # Long enough that a kill can fall into the middle of a write.
        ballast = list(range(100_000))
        store.save(folder, f"e5-{seed}", settings, scores=scores, pid=os.getpid(), ballast=ballast)
        made += 1
print(f"RESULT: {made} new")"""
DRAW = """\
from pathlib import Path
from mmalib import reports
from mmalib.records import store
home = Path(runs) / profile
reports.write(reports.draw(store.read(home / "records")), home / "tables", home / "figures")"""


@pytest.fixture
def write(tmp_path):
    """Write a notebook of code cells (after one with the parameters) and return its folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def write(name, *cells):
        notebook = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell("# A notebook"),
                nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
                *map(nbformat.v4.new_code_cell, cells),
            ]
        )
        nbformat.write(notebook, folder / f"{name}.ipynb")
        return folder

    return write


def start(tmp_path, *options):
    """A study in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "mmalib", "study", "--runs", tmp_path / "runs"]
    command += ["--notebooks", tmp_path / "notebooks", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_notebooks_are_found_by_their_number_and_00_is_no_part_of_the_study(write, tmp_path):
    for name in ("10_b", "02_a", "00_backbones", "notes", "1_x"):
        folder = write(name)
    assert [path.name for path in batch.notebooks(folder)] == ["02_a.ipynb", "10_b.ipynb"]
    with pytest.raises(ValueError, match=r"There are no notebooks .* in .*elsewhere"):
        batch.notebooks(tmp_path / "elsewhere")


def test_notebooks_run_in_order_in_this_interpreter_with_their_parameters(write, tmp_path, capfd, monkeypatch):
    say = "import os, sys; print(profile, runs, sys.executable, os.environ['TOKENIZERS_PARALLELISM'])"
    shapes = "from pathlib import Path\nshapes = Path(runs, profile, 'shapes')\n"
    write("02_second", RECORDS, DRAW, f"{shapes}assert shapes.is_dir()  # of another notebook")
    folder = write(
        "01_first {x}", say, f"{shapes}shapes.mkdir()", "print('RESULT: one')\nprint('RESULT: two')\nprint('more')"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(batch.__file__).parents[1]))  # also where it is not installed
    monkeypatch.chdir(tmp_path)
    assert batch.run("quick", folder=folder) == 0
    home = tmp_path / "runs" / "quick"
    said = outputs(home / "notebooks" / "01_first {x}.ipynb")
    assert said.startswith(f"quick {tmp_path / 'runs'} {sys.executable} false\n")
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("  ")[0:2] for line in lines[:4]] == [
        ["01_first {x}", "started"],
        ["01_first {x}", "ok"],
        ["02_second", "started"],
        ["02_second", "ok"],
    ]
    assert lines[1].endswith("  two") and lines[3].endswith("  8 new")
    assert any(line.startswith("| e5 | this study, sample | 8 |") for line in lines)
    assert lines[-3:] == [
        "notebooks: runs/quick/notebooks (2 files)",
        "tables: runs/quick/tables (6 files)",
        "figures: runs/quick/figures (2 files)",
    ]
    assert len(store.read(home / "records")) == 8 and not (home / "shapes").exists()


def test_what_a_notebook_elsewhere_is_measured_beside_stays(write, tmp_path):
    (shapes := tmp_path / "quick" / "shapes").mkdir(parents=True)
    with lock.hold(tmp_path / "quick" / "locks" / "07-base-sample.lock", "A run"):
        assert batch.run("quick", runs=tmp_path, folder=write("01_first", "1")) == 0
    assert shapes.is_dir()
    assert batch.run("quick", runs=tmp_path, folder=write("01_first", "1")) == 0
    assert not shapes.exists()


MEET = """\
import os, time
from pathlib import Path
Path(runs, {name!r}).touch()
deadline = time.monotonic() + 60
while not Path(runs, {other!r}).exists():
    assert time.monotonic() < deadline, "the other does not run"
    time.sleep(0.05)
print("RESULT:", os.environ["MMALIB_THREADS"])"""


def test_the_notebooks_after_the_first_run_side_by_side_on_half_of_the_threads(write, tmp_path, capfd, monkeypatch):
    write("01_first", "import os\nprint('RESULT:', os.environ['MMALIB_THREADS'])")
    write("02_left", MEET.format(name="left", other="right"))
    write("03_right", MEET.format(name="right", other="left"))
    folder = write("06_last", "import os\nprint('RESULT:', os.environ['MMALIB_THREADS'])")
    monkeypatch.setenv("MMALIB_THREADS", "6")
    assert batch.run("quick", runs=tmp_path, folder=folder) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "  ok  " in line]
    assert sorted(line.split("  ")[0] for line in lines[1:3]) == ["02_left", "03_right"]
    assert [line.rpartition("  ")[2] for line in lines] == ["6", "3", "3", "6"]


def test_beside_a_failing_notebook_one_ends_and_no_other_begins(write, tmp_path, capfd, monkeypatch):
    write("05_bad", MEET.format(name="left", other="right"), "raise ValueError('no')")
    write("03_good", MEET.format(name="right", other="left"), "time.sleep(2)\nprint('RESULT: here')")
    write("04_never", "print('never')")
    folder = write("06_never", "print('never')")
    monkeypatch.setenv("MMALIB_THREADS", "2")
    assert batch.run("quick", runs=tmp_path, folder=folder) == 1
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("05_bad  failed") for line in lines) and lines[-1].startswith("03_good  ok")
    assert lines[-1].endswith("here") and not any("never" in line for line in lines)


def test_a_failing_cell_ends_the_study_with_its_error_and_leaves_the_executed_notebook(write, tmp_path, capfd):
    write("01_bad", "x = 1", "# the cell that fails\nraise ValueError('no such\\nthing' + '\\nmore' * 99)")
    folder = write("02_never", "print('never')")
    assert batch.run("quick", runs=tmp_path / "runs", folder=folder) == 1
    executed = tmp_path / "runs" / "quick" / "notebooks" / "01_bad.ipynb"
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[1].startswith("01_bad  failed  ")
    assert lines[2:6] == [
        "  in code cell 4: # the cell that fails",
        "  ValueError: no such",
        "  thing",
        "  more",
    ]
    assert lines[-1] == f"  The executed notebook: {executed}" and len(lines) < 20
    assert "Traceback" not in out + err
    failed = nbformat.read(executed, as_version=4).cells[-1].outputs[-1]
    assert (failed.output_type, failed.ename) == ("error", "ValueError")
    assert [path.name for path in executed.parent.iterdir()] == ["01_bad.ipynb"]


def test_a_kernel_is_handed_on_without_what_a_notebook_left_in_it(write, tmp_path):
    left = "import os, torch\nmine = os.getpid()\nprint(mine)"
    write("01_a", left)
    folder = write("06_b", "import os, sys\nprint(os.getpid(), 'torch' in sys.modules, 'mine' in globals())")
    assert batch.run("quick", runs=tmp_path, folder=folder) == 0
    first, second = (tmp_path / "quick" / "notebooks" / f"{name}.ipynb" for name in ("01_a", "06_b"))
    assert outputs(second).split() == [outputs(first).strip(), "True", "False"]
    counts = [cell.execution_count for cell in nbformat.read(second, as_version=4).cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3]
    assert ended(int(outputs(first)))


def test_a_kernel_that_dies_is_a_failing_cell(write, tmp_path, capfd):
    folder = write("01_dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert batch.run("quick", runs=tmp_path, folder=folder) == 1
    out = capfd.readouterr().out
    assert "in code cell 3: import os" in out and "The kernel died while this cell ran" in out
    told = [line.rpartition(": ")[2] for line in out.splitlines() if "The executed notebook" in line]
    assert told == [str(path) for path in (tmp_path / "quick" / "notebooks").iterdir()]  # none where none is left


def test_only_takes_numbers_that_are_there(write, tmp_path):
    write("01_a")
    write("02_b", "raise ValueError")
    folder = write("03_c")
    assert batch.run("quick", only="3,01", runs=tmp_path, folder=folder) == 0
    assert sorted(path.name for path in (tmp_path / "quick" / "notebooks").iterdir()) == [
        "01_a.ipynb",
        "03_c.ipynb",
    ]
    for unknown in ("07", "", "01,x", "1,,3"):
        with pytest.raises(ValueError, match="There is no notebook .*Choose from: 01, 02, 03"):
            batch.run("quick", only=unknown, runs=tmp_path / "new", folder=folder)
    with pytest.raises(ValueError, match="no profile 'huge'"):
        batch.run("huge", runs=tmp_path / "new", folder=folder)
    assert not (tmp_path / "new").exists()


def test_fresh_deletes_what_the_profile_made_and_nothing_else(write, tmp_path, capfd):
    folder = write("01_a")
    home, other = tmp_path / "runs" / "quick", tmp_path / "runs" / "small" / "records" / "a.json"
    for path in (home / "records" / "a.json", home / "models" / "a" / "x", home / "notes.txt", other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(ValueError, match="cannot go with --only"):
        batch.run("quick", only="01", fresh=True, runs=tmp_path / "runs", folder=folder)
    assert (home / "records" / "a.json").exists()
    assert batch.run("quick", fresh=True, runs=tmp_path / "runs", folder=folder) == 0
    assert f"deleting:\n  {home / 'records'}\n  {home / 'models'}\n" in capfd.readouterr().out
    assert sorted(path.name for path in home.iterdir()) == ["notebooks", "notes.txt", "study.lock"]
    assert other.exists()


def test_fresh_follows_no_link(write, tmp_path):
    folder = write("01_a")
    outside, home = tmp_path / "outside", tmp_path / "runs" / "quick"
    for path in (outside / "precious", home / "records" / "a.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    (home / "models").symlink_to(outside)
    with pytest.raises(ValueError, match="does not follow links"):
        batch.run("quick", fresh=True, runs=tmp_path / "runs", folder=folder)
    assert (outside / "precious").exists() and (home / "records" / "a.json").exists()


def test_fresh_deletes_nothing_while_somebody_makes_a_run(write, tmp_path):
    folder, home = write("01_a"), tmp_path / "runs" / "quick"
    with lock.hold(home / "locks" / "01-e5.lock", "The run 01-e5"):
        (home / "records").mkdir()
        with pytest.raises(ValueError, match="would delete what others are making: 01-e5. Wait"):
            batch.run("quick", fresh=True, runs=tmp_path / "runs", folder=folder)
    assert (home / "records").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MMALIB_DATA", "nowhere", "There is no data folder nowhere"),
        ("MMALIB_TEXT", "nowhere", "No text in nowhere"),
        (workers.WORKERS, "0", "--workers is '0'"),
        (workers.WORKERS, "two", "--workers is 'two'"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_made(write, tmp_path, monkeypatch, name, value, said):
    folder = write("01_a")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        batch.run("quick", runs=tmp_path / "runs", folder=folder)
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_refused_before_the_first_notebook(write, tmp_path, monkeypatch):
    folder = write("01_a")
    monkeypatch.setattr(batch, "ROOM", 1e9)
    with pytest.raises(ValueError, match=r"Only [\d.]+ GiB are free in .*quick, and a study wants"):
        batch.run("quick", runs=tmp_path, folder=folder)
    assert list((tmp_path / "quick").iterdir()) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_study_that_is_killed_completes_when_started_again(write, tmp_path, seed):
    write("01_records", RECORDS)
    home = tmp_path / "runs" / "quick"
    records, chance = home / "records", random.Random(seed)
    for _ in range(2):
        before = len(list(records.glob("*.json")))
        with start(tmp_path) as study:
            wait_for(lambda before=before: len(list(records.glob("*.json"))) > before)
            time.sleep(chance.uniform(0, 0.5))
            study.kill()
    with lock.hold(home / "study.lock", "A study"):  # once the killed study's kernel is gone
        kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in records.glob("*.json")}
    assert 2 <= len(kept) < 8
    store.read(records)  # whatever is there can be read
    orphans = {record["pid"] for record in store.read(records)}
    study = start(tmp_path)
    out, err = study.communicate()
    assert study.returncode == 0, err
    assert out.splitlines()[1].endswith(f"  {8 - len(kept)} new")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    assert [record["settings"]["seed"] for record in store.read(records)] == list(range(1, 9))
    assert sorted(os.listdir(records)) == [f"e5-{number}.json" for number in range(1, 9)]
    assert os.listdir(home / "notebooks") == ["01_records.ipynb"]
    assert all(ended(pid) for pid in orphans)


def test_the_kernel_of_a_killed_study_dies_and_holds_the_lock_until_then(write, tmp_path):
    marker, path = tmp_path / "pid", tmp_path / "runs" / "quick" / "study.lock"
    write("01_busy", f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid()))", "time.sleep(600)")
    with start(tmp_path) as study:
        wait_for(lambda: marker.exists() and marker.read_text())
        kernel = int(marker.read_text())
        os.kill(kernel, signal.SIGSTOP)  # an orphan that cannot notice yet
        study.kill()
    with (
        pytest.raises(ValueError, match=f"pid {study.pid}"),
        lock.hold(path, "A study", patience=0.5),
    ):
        pytest.fail("a study started beside the kernel of a killed one")
    os.kill(kernel, signal.SIGCONT)
    with lock.hold(path, "A study"):
        assert ended(kernel)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("numbers", [["01"], ["02", "03"]])
def test_an_interrupted_study_takes_its_kernels_along_and_says_one_line(write, tmp_path, name, numbers, monkeypatch):
    monkeypatch.setenv("MMALIB_THREADS", "2")
    markers = [tmp_path / number for number in numbers]
    for marker in markers:
        busy = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid()))"
        write(f"{marker.name}_busy", busy, "time.sleep(600)")
    with start(tmp_path) as study:
        wait_for(lambda: all(marker.exists() and marker.read_text() for marker in markers))
        study.send_signal(getattr(signal, name))
        out, err = study.communicate()
    assert study.returncode == 130
    assert err == "mmalib: interrupted; started again, it goes on from the last finished run\n"
    assert sorted(out.splitlines()) == [f"{number}_busy  started" for number in numbers]
    for marker in markers:
        wait_for(lambda marker=marker: ended(int(marker.read_text())), seconds=5)


def test_a_second_study_on_the_same_folder_ends_with_one_sentence(write, tmp_path, capsys, monkeypatch):
    marker = tmp_path / "ready"
    folder = write("01_busy", f"open({str(marker)!r}, 'w').close()", "import time; time.sleep(600)")
    with start(tmp_path) as first:
        wait_for(marker.exists)
        home = tmp_path / "runs" / "quick"
        record = home / "records" / "a.json"
        record.parent.mkdir()
        record.touch()
        before = sorted(home.rglob("*"))
        arguments = ["study", "--fresh", "--runs", str(tmp_path / "runs"), "--notebooks", str(folder)]
        assert cli.main(arguments) == 2
        assert sorted(home.rglob("*")) == before
        first.terminate()
    err = capsys.readouterr().err
    assert err.startswith(
        f"mmalib: A study in {home} is held elsewhere (pid {first.pid} on {os.uname().nodename}, since "
    )
    assert err.count("\n") == 1


def test_redraw_needs_records_alone_and_lists_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "DRAWN", {"baseline": reports.DRAWN["baseline"]})
    quick = load_profile("quick")
    wanted = [plan.baseline(quick, "e5-half", "sample", seed) for seed in (1, 2)]
    monkeypatch.setattr(plan, "runs", lambda profile, corpus: wanted)
    with pytest.raises(ValueError, match="There are no records in .* Run `python -m mmalib study"):
        batch.redraw("quick", tmp_path, reports.FORMATS)
    one = {"f1": 0.5, "precision": 0.5, "recall": 0.5, "f1_low": 0.4, "f1_high": 0.6}
    scores = {language: {"dev": one, "test": one} for language in ("en", "es", "nl")}
    for run, left in zip(wanted, (["01-e5-half-sample-seed2"], []), strict=True):
        store.save(tmp_path / "quick" / "records", run.name, run.settings, scores=scores)
        missing, written = batch.redraw("quick", tmp_path, reports.FORMATS)
        assert missing == left
        for made in (
            "tables/table_1.csv",
            "tables/table_1.md",
            "figures/baselines.svg",
            "figures/baselines.png",
        ):
            assert tmp_path / "quick" / made in written and (tmp_path / "quick" / made).stat().st_size > 0


def test_a_corrupted_record_ends_the_study_and_names_the_file(write, tmp_path, capfd):
    folder = write("01_records", RECORDS)
    broken = tmp_path / "quick" / "records" / "e5-3.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(json.dumps({"run": "e5-3"})[:-4])
    assert batch.run("quick", runs=tmp_path, folder=folder) == 1
    assert f"ValueError: The record {broken} cannot be used (" in capfd.readouterr().out
    broken.unlink()
    assert batch.run("quick", runs=tmp_path, folder=folder) == 0


def test_what_others_are_writing_is_not_swept(write, tmp_path, monkeypatch):
    folder, left = write("01_a"), tmp_path / "quick" / "records" / ".a.json.1.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    monkeypatch.setattr(batch, "_execute_all", lambda *_: True)
    with lock.hold(tmp_path / "quick" / "locks" / "01-x.lock", "A run"):
        batch.run("quick", runs=tmp_path, folder=folder)
        assert left.exists()
    batch.run("quick", runs=tmp_path, folder=folder)
    assert not left.exists()


def test_only_what_this_start_spent_is_told(tmp_path, capsys):
    store.save(tmp_path / "records", "a", {}, scores={}, timings={"training": 5.0})
    batch._report(tmp_path, "9999")
    assert "where the time went" not in capsys.readouterr().out
    batch._report(tmp_path, "2000")
    assert "where the time went: training 5 s" in capsys.readouterr().out
