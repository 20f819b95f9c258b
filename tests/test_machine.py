"""What a record and `doctor` say about the machine, read from files and systems with known content."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from mmalib.app import doctor
from mmalib.data.corpus import ORIGINAL
from mmalib.records import machine

commit = machine.commit.__wrapped__  # which asks anew each time
XEON = "model name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\n"


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit of a package in it, taken for our own."""
    (tmp_path / "mmalib").mkdir()
    (tmp_path / "mmalib" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    return tmp_path


def line(name):
    """The line of `doctor` that begins with this name, without it."""
    (found,) = [text for text in doctor.lines() if text.startswith(name + " ")]
    return found[len(name) :].strip()


def test_describe_survives_json_and_names_every_flag():
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert set(described) == {"cpu", "cores", "threads", "ram_gib", "flags", "gpu", "python", "platform"}
    assert set(described["flags"]) == set(machine.FLAGS)
    assert described["cores"] >= 1
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_container_may_use_less_than_it_sees(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    seen = machine.cores()  # there is no quota
    for text, wanted in (
        ("max 100000\n", seen),
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("9900000 100000\n", seen),
    ):
        machine.QUOTA.write_text(text)
        assert machine.cores() == wanted


def test_the_flags_are_those_of_the_first_processor(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "none")
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: XEON)
    described = machine.describe()
    assert described["cpu"] == "Some Xeon"
    assert [flag for flag, there in described["flags"].items() if there] == [
        *("avx2", "avx512f", "avx512_vnni", "amx_int8")
    ]


def test_doctor_names_the_flags_that_are_there(monkeypatch):
    monkeypatch.setattr(machine, "flags", lambda: {flag: flag == "avx2" for flag in machine.FLAGS})
    assert line("CPU flags") == "avx2"


def test_without_proc_nothing_is_guessed(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", dict)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "")
    monkeypatch.setattr(machine.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    described = machine.describe()
    assert described["cpu"] == "unknown"
    assert described["ram_gib"] is None
    assert set(described["flags"].values()) == {None}
    assert line("CPU flags") == "none known"
    assert line("Memory") == "unknown"


def test_asking_for_the_commit_writes_nothing_that_a_kill_could_leave_behind(checkout):
    index, source = checkout / ".git" / "index", checkout / "mmalib" / "a.py"
    os.utime(source, (1e9, 1e9))  # git would note the new time in the index, under a lock
    before = index.read_bytes()
    assert commit() == git(checkout, "rev-parse", "HEAD").stdout.strip()
    assert index.read_bytes() == before
    git(checkout, "status")
    assert index.read_bytes() != before


def test_versions_are_the_installed_ones_and_leave_out_what_is_not(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package-of-ours"))
    assert machine.versions() == {"numpy": importlib.metadata.version("numpy")}


def test_commit_is_dirty_exactly_when_the_code_differs(checkout):
    head = git(checkout, "rev-parse", "HEAD").stdout.strip()
    assert commit() == head
    (checkout / "notes.txt").write_text("not code")
    assert commit() == head
    (checkout / "mmalib" / "b.py").write_text("b = 1\n")
    assert commit() == head + "-dirty"
    (checkout / "mmalib" / "b.py").unlink()
    (checkout / "mmalib" / "a.py").write_text("a = 2\n")
    assert commit() == head + "-dirty"


def test_a_copy_inside_another_repository_has_no_commit(checkout, monkeypatch):
    inner = checkout / "mmalib"
    monkeypatch.setattr(machine, "ROOT", inner)
    assert commit() is None


def test_a_machine_without_git_has_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_doctor_is_about_ten_single_lines():
    lines = doctor.lines()
    assert 8 <= len(lines) <= 12
    assert not any("\n" in text for text in lines)
    assert line("GPU")
    assert "GiB for runs/" in line("Free disk")


def test_doctor_tells_why_deepsparse_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "DEEPSPARSE", tmp_path)
    assert "deepsparse not available: there is no .venv-deepsparse (make deepsparse)" in line("Runtimes")
    (tmp_path / ".failed").write_text("ERROR: No matching distribution found\n")
    assert line("Runtimes").endswith("deepsparse not available: ERROR: No matching distribution found")


def test_doctor_asks_the_python_of_deepsparse_for_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "DEEPSPARSE", tmp_path)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 1.8.0 analytics $NM_DISABLE_ANALYTICS\n")
    python.chmod(0o755)
    assert line("Runtimes").endswith("deepsparse 1.8.0 analytics True")
    python.write_text("#!/bin/sh\nexit 1\n")
    assert line("Runtimes").endswith(".venv-deepsparse is incomplete (make deepsparse)")


def test_doctor_names_the_data_it_found(tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIB_DATA", "")
    assert line("Data").startswith("generated sample")
    monkeypatch.setenv("MMALIB_DATA", "hub")
    assert line("Data").startswith("CoNLL from the hub")
    monkeypatch.setenv("MMALIB_DATA", str(tmp_path))
    assert "is missing conll2003/eng.train" in line("Data")
    for files in ORIGINAL.values():
        for file in files.values():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    assert line("Data") == f"{tmp_path}: CoNLL, all files"
    monkeypatch.setenv("MMALIB_DATA", str(tmp_path / "gone"))
    assert "There is no data folder" in line("Data")


def test_doctor_describes_the_backbones(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "WEIGHTS", tmp_path)
    assert line("Backbones") == "none shipped"
    for name, parameters in (("e5", 40_670_000), ("e5-half", 30_020_000)):
        (tmp_path / name).mkdir()
        report = {"parameters": parameters, "megabytes": 1.5, "retrieval": {"en to es": 0.988, "en to nl": 0.98}}
        (tmp_path / name / "training.json").write_text(json.dumps(report))
    assert line("Backbones").startswith(
        "e5 40.7M weights, 1.5 MB (en to es 0.99, en to nl 0.98), "
        "e5-half 30.0M weights, 1.5 MB (en to es 0.99, en to nl 0.98); "
    )
