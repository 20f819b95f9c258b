"""The command line: answers at once, and turns mistakes into one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmalib.app import batch, bench, cli, doctor
from mmalib.records import machine
from mmalib.studies import workers
from mmalib.use import shipped


def test_help_explains_the_commands_without_importing_torch():
    program = (
        "import sys\nfrom mmalib.app import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(heavy in sys.modules for heavy in ('torch', 'pandas', 'papermill')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, "help imported something heavy"
    commands = ("study", "figures", "bench", "predict", "models", "score", "ship", "doctor")
    for word in (*commands, "examples:", "MMALIB_DATA"):
        assert word in done.stdout


def test_a_file_is_no_text(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("Madrid")
    assert cli.main(["predict", str(tmp_path / "mine.txt")]) == 2
    out, error = capsys.readouterr()
    assert not out and error.endswith(f"python -m mmalib predict < {tmp_path}/mine.txt\n") and error.count("\n") == 1


def test_a_folder_is_no_text_and_no_input_at_all_is_one_line(tmp_path, capsys, monkeypatch):
    assert cli.main(["predict", str(tmp_path)]) == 2
    assert f"{tmp_path} is no text but a path" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # as under cron, or after <&-
    assert cli.main(["predict"]) == 2
    assert "neither text nor a standard input" in capsys.readouterr().err


def test_a_home_folder_that_nobody_has_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("MMALIB_DATA", "~nobody-of-this-name/data")
    assert cli.main(["doctor"]) == 2
    told = capsys.readouterr().err
    assert "Could not determine home directory" in told and "MMALIB_DATA" in told and told.count("\n") == 1


def test_a_shipped_model_can_be_timed_by_its_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(bench, "run", lambda folders, _, base, *__, **___: asked.extend([*folders, base]) or 0)
    monkeypatch.setattr(shipped, "unpacked", lambda name: tmp_path / name)
    assert cli.main(["bench", "fast", "other", "--baseline", "faithful"]) == 0
    assert asked == [tmp_path / "fast", Path("other"), tmp_path / "faithful"]


def test_the_module_ends_with_one_line_where_there_is_no_notebook(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mmalib", "study", "--runs", tmp_path / "runs", "--notebooks", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmalib: There are no notebooks (01_….ipynb and up) in {tmp_path}.")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_study_hands_over_what_was_asked(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(batch, "run", lambda *given: asked.append(given) or 1)
    assert cli.main(["study"]) == 1
    assert cli.main(["study", "--profile", "paper", "--only", "01,03", "--fresh", "--runs", str(tmp_path)]) == 1
    assert [given[:3] for given in asked] == [("quick", None, False), ("paper", "01,03", True)]
    assert asked[0][4] == batch.NOTEBOOKS and asked[1][3] == tmp_path


def test_workers_and_a_cluster_reach_the_kernels(monkeypatch):
    seen = {}
    monkeypatch.setattr(batch, "run", lambda *_: seen.update(os.environ) or 0)
    for name in (workers.WORKERS, workers.CLUSTER):
        monkeypatch.setenv(name, "")  # what the command sets is taken back after the test
    assert cli.main(["study", "--workers", "2", "--ray", "auto"]) == 0
    assert (seen[workers.WORKERS], seen[workers.CLUSTER]) == ("2", "auto")


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_a_mistake_is_one_line_and_a_code(monkeypatch, capsys, kind):
    def fail(*_):
        raise kind("one thing")

    monkeypatch.setattr(batch, "redraw", fail)
    assert cli.main(["figures", "--profile", "quick"]) == 2
    assert capsys.readouterr() == ("", "mmalib: one thing\n")


def test_doctor_prints_what_the_machine_says(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "lines", lambda: ["Python 3", "GPU none"])
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "Python 3\nGPU none\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_has_read_enough_may_close_the_pipe(unbuffered):
    program = (
        "import sys\nfrom mmalib.app import cli, doctor\n"
        "doctor.lines = lambda: ['Python 3', 'GPU none']\nsys.exit(cli.main(['doctor']))"
    )
    read, write = os.pipe()
    os.close(read)
    how = {"stdout": write, "stderr": subprocess.PIPE, "env": os.environ | {"PYTHONUNBUFFERED": unbuffered}}
    done = subprocess.run([sys.executable, "-c", program], **how)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_published_is_a_profiles(capsys):
    assert cli.main(["figures", "--publish"]) == 2
    assert "say which with --profile" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train"], ["study", "--profil"], ["figures", "--fresh"]])
def test_what_is_no_command_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and "usage: mmalib" in capsys.readouterr().err


def test_bench_hands_over_what_was_asked(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(bench, "run", lambda *given, **named: asked.append((given, named)) or 0)
    assert cli.main(["bench", "a", "b", "--runtime", "onnxruntime,openvino", "--batch", "1,8", "--threads", "1"]) == 0
    assert cli.main(["bench", "a", "--runs", str(tmp_path), "--length", "64", "--seconds", "0.5"]) == 0
    given, named = asked[0]
    assert given == ([Path("a"), Path("b")], ["onnxruntime", "openvino"], None, Path("runs/bench/records"))
    assert named == {"batches": [1, 8], "length": 128, "threads": 1, "seconds": 5.0}
    given, named = asked[1]
    assert given == ([Path("a")], ["onnxruntime"], None, tmp_path / "bench" / "records")
    assert named == {"batches": [1], "length": 64, "threads": machine.cores(), "seconds": 0.5}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "1,x"], "--batch is '1,x'"),
        (["--batch", "0"], "batch is 0"),
        (["--runtime", "tensorrt"], "no runtime 'tensorrt'"),
        ([], "has no model.onnx"),
    ],
)
def test_bench_says_in_one_line_what_is_wrong(arguments, said, tmp_path, capsys):
    empty = not arguments
    if not empty:
        (tmp_path / "model.onnx").touch()
    assert cli.main(["bench", str(tmp_path), *arguments, "--runs", str(tmp_path / "runs")]) == 2
    out, error = capsys.readouterr()
    assert said in error and error.count("\n") == 1 and not out and not (tmp_path / "runs").exists()
