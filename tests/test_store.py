"""Records: complete or absent, skipped or refused, never half a file."""

import errno
import json
import math
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from mmalib.records import lock, store

SETTINGS = {"notebook": "01", "method": "baseline", "backbone": "e5", "corpus": "sample", "seed": 1}


def scores(f1=0.5, languages=("en", "es"), splits=("dev", "test")):
    one = {"f1": f1, "precision": f1, "recall": f1, "f1_low": f1 - 0.1, "f1_high": f1 + 0.1}
    one |= {"sentences": 4, "types": {"PER": {"f1": 0.75, "precision": 0.7, "recall": 0.8, "entities": 3}}}
    return {language: {split: dict(one) for split in splits} for language in languages}


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch):
    monkeypatch.setattr(store.machine, "describe", lambda: {"cpu": "test", "cores": 2})
    monkeypatch.setattr(store.machine, "versions", lambda: {"torch": "0"})
    monkeypatch.setattr(store.machine, "commit", lambda: None)


def test_a_saved_record_is_found_again_with_everything_in_it(tmp_path):
    assert store.finished(tmp_path, "a", SETTINGS) is None
    path = store.save(tmp_path, "a", SETTINGS, scores=scores(), timings={"train": 1.5})
    record = store.finished(tmp_path, "a", SETTINGS)
    assert path == tmp_path / "a.json"
    assert record == store.read(tmp_path)[0]
    assert record["settings"] == SETTINGS and record["scores"] == scores() and record["timings"] == {"train": 1.5}
    assert record["machine"] == {"cpu": "test", "cores": 2} and record["commit"] is None and record["finished"]
    assert os.listdir(tmp_path) == ["a.json"]


def test_tuples_and_numpy_numbers_are_the_same_settings_as_what_json_makes_of_them(tmp_path):
    settings = {"seeds": (1, 2), "rate": np.float32(0.5), "training": {"epochs": np.int64(3)}}
    store.save(tmp_path, "a", settings, scores={})
    assert store.finished(tmp_path, "a", settings)["settings"] == {
        "seeds": [1, 2],
        "rate": 0.5,
        "training": {"epochs": 3},
    }


def test_other_settings_are_refused_with_the_whole_difference(tmp_path):
    before = {"seed": 1, "training": {"rate": 0.1, "epochs": 3}, "gone": [], "same": "x"}
    after = {"seed": 1, "training": {"rate": 0.2, "epochs": 3}, "new": {"a": None}, "same": "x"}
    path = store.save(tmp_path, "a", before, scores={})
    content = path.read_bytes()
    for refused in (store.finished, lambda *given: store.save(*given, scores={})):
        with pytest.raises(ValueError) as error:
            refused(tmp_path, "a", after)
        assert str(error.value).splitlines() == [
            f"{path} holds run 'a' with other settings (there -> here):",
            "  training.rate: 0.1 -> 0.2",
            "  gone: [] -> (absent)",
            "  new.a: (absent) -> null",
            "To have both, change settings by study.vary(...) in a notebook, or give another folder for runs "
            "(`runs` in a notebook, --runs). To have the new one alone, delete that one file, or start the profile "
            "over (study --fresh).",
        ]
    assert path.read_bytes() == content


@pytest.mark.parametrize("run", ["", "../a", "a/b", ".a", "-a", "a b", "ä", "a\n"])
def test_a_run_name_that_is_no_file_name_is_refused(tmp_path, run):
    with pytest.raises(ValueError, match="cannot name a run"):
        store.save(tmp_path, run, SETTINGS, scores={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hole", [math.nan, math.inf, np.float32("nan"), [1.0, math.nan]])
def test_what_is_not_a_finite_number_is_never_written(tmp_path, hole):
    broken = scores() | {"nl": {"dev": {"f1": hole}}}
    with pytest.raises(ValueError, match=r"Run 'a' is not saved.*: scores\.nl\.dev\.f1\. Training"):
        store.save(tmp_path, "a", SETTINGS, scores=broken)
    assert not list(tmp_path.iterdir())


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_leaves_the_previous_record(tmp_path, monkeypatch, step):
    path = store.save(tmp_path, "a", SETTINGS, scores=scores(0.5))
    content = path.read_bytes()
    monkeypatch.setattr(store.os, step, no_space)
    with pytest.raises(OSError) as error:
        store.save(tmp_path, "a", SETTINGS, scores=scores(0.6))
    message = str(error.value)
    assert message.startswith(f"{path} could not be written (No space left on device)") and "\n" not in message
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_write_that_stops_half_way_leaves_the_previous_record(tmp_path):
    path = store.save(tmp_path, "a", SETTINGS, scores=scores(0.5))
    content = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.json could not be written \(File too large\)"):
            store.save(tmp_path, "a", SETTINGS, scores=scores(0.6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.json"]


CORRUPT = {
    "empty": "",
    "truncated": '{"run": "a", "settings": {"se',
    "not an object": "[1]",
    "keys missing": '{"run": "a", "settings": {}}',
    "another run": json.dumps(dict.fromkeys(store.REQUIRED, {}) | {"run": "b"}),
    "scores no object": json.dumps(dict.fromkeys(store.REQUIRED, {}) | {"run": "a", "scores": 3}),
    "broken utf-8": b'{"run": "\xff"}',
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupted_record_is_one_sentence_that_names_the_file_and_the_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for reader in (lambda: store.read(tmp_path), lambda: store.finished(tmp_path, "a", SETTINGS)):
        with pytest.raises(ValueError) as error:
            reader()
        assert str(error.value).startswith(f"The record {path} cannot be used (")
        assert "Delete that file" in str(error.value) and "\n" not in str(error.value)


def test_what_a_killed_writer_left_is_not_read_and_is_swept(tmp_path):
    store.save(tmp_path, "a", SETTINGS, scores={})
    leftover = tmp_path / ".b.json.123.tmp"
    leftover.write_text('{"run": "b", ')
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "weights").touch()
    assert [record["run"] for record in store.read(tmp_path)] == ["a"]
    store.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_frame_has_a_row_per_run_language_and_split(tmp_path):
    settings = SETTINGS | {"training": {"rate": 0.1}, "languages": ["en", "es"]}
    store.save(tmp_path, "a", settings, scores=scores(), timings={"train": 2.0})
    store.save(tmp_path, "b", SETTINGS, scores=scores(languages=("en",)))
    frame = store.frame(store.read(tmp_path))
    assert len(frame) == 6
    assert list(frame.columns[: len(store.COLUMNS)]) == store.COLUMNS
    row = frame[(frame["run"] == "a") & (frame["language"] == "es") & (frame["split"] == "dev")].iloc[0]
    assert row["f1"] == 0.5 and row["seed"] == 1 and row["training_rate"] == 0.1
    assert not {"languages", "types"} & set(frame.columns)


def test_an_empty_frame_has_its_columns():
    assert list(store.frame([]).columns) == store.COLUMNS


def test_a_setting_cannot_hide_a_result(tmp_path):
    store.save(tmp_path, "a", {"language": "en"}, scores=scores())
    assert set(store.frame(store.read(tmp_path))["language"]) == {"en", "es"}


def test_one_study_at_a_time_and_the_second_learns_who_is_first(tmp_path):
    path, what = tmp_path / "locks" / "study.lock", "A study in runs"
    with lock.hold(path, what):
        before = path.read_text()
        with (
            pytest.raises(ValueError, match=rf"A study in runs is held .* \(pid {os.getpid()} on .*, since 20\d\d-"),
            lock.hold(path, what, patience=0),
        ):
            pytest.fail("two studies hold the same folder")
        assert path.read_text() == before and lock.held(path.parent) == ["study"]
    assert lock.held(path.parent) == []
    with lock.hold(path, what, patience=0):
        pass


def test_the_lock_of_a_killed_study_does_not_block(tmp_path):
    holder = (
        "import sys, time; from pathlib import Path; from mmalib.records import lock\n"
        "with lock.hold(Path(sys.argv[1]), 'A study'): print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "study.lock"
    with subprocess.Popen([sys.executable, "-c", holder, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"pid {process.pid}"), lock.hold(path, "A study", patience=0):
            pytest.fail("two studies hold the same folder")
        process.kill()
    with lock.hold(path, "A study", patience=0):
        pass


def test_the_points_of_a_curve_become_rows_of_their_own(tmp_path):
    curve = [{"step": step, "share": step / 4, "scores": scores(0.5 - step / 10)} for step in range(2)]
    store.save(tmp_path, "a", {"method": "heads", "seed": 1}, scores={}, curve=curve)
    records = store.read(tmp_path)
    assert store.frame(records).empty
    rows = store.curves(records)
    assert len(rows) == 8 and set(rows["method"]) == {"heads"}
    chosen = rows[(rows["step"] == 1) & (rows["language"] == "es") & (rows["split"] == "dev")]
    assert chosen["f1"].tolist() == [pytest.approx(0.4)] and chosen["share"].tolist() == [0.25]


def test_points_of_an_unfinished_run_wait_in_their_order(tmp_path):
    assert store.points(tmp_path / "run") == []
    for step in range(3):
        store.add_point(tmp_path / "run", {"step": step})
    assert [point["step"] for point in store.points(tmp_path / "run")] == [0, 1, 2]
    with pytest.raises(ValueError, match="not finite"):
        store.add_point(tmp_path / "run", {"f1": float("nan")})


def test_records_come_in_the_order_of_their_names(tmp_path):
    for run in ("a", "a-b", "a+c"):
        store.save(tmp_path, run, {}, scores={})
    assert [record["run"] for record in store.read(tmp_path)] == ["a", "a+c", "a-b"]


def test_two_processes_write_to_files_of_their_own(tmp_path, monkeypatch):
    with store.replacing(tmp_path / "a.json") as one:
        monkeypatch.setattr(store.os, "getpid", lambda: 1)
        with store.replacing(tmp_path / "a.json") as other:
            assert one != other
            other.touch()
        one.touch()
