"""Where a run's time goes: phases inside one another, several sittings, and one that was killed."""

import json
import subprocess
import sys
import time

import pytest

from mmalib.records import clock


def test_an_inner_phase_stops_the_outer_one(tmp_path, monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(clock, "EVERY", 1000)

    @clock.phase("scoring")
    def score():
        pass

    with clock.sitting(tmp_path / "seconds") as seconds, clock.phase("training"):
        score()
        with clock.phase("scoring"):
            pass
    # every turn takes 10: other, training, scoring, training, scoring, training, other
    assert seconds == {"other": 20, "training": 30, "scoring": 20}
    assert json.loads((tmp_path / "seconds").read_text()) == seconds


def test_sittings_add_up_and_one_that_fails_counts(tmp_path):
    path = tmp_path / "seconds"
    with pytest.raises(KeyboardInterrupt), clock.sitting(path), clock.phase("training"):
        time.sleep(0.05)
        raise KeyboardInterrupt
    first = json.loads(path.read_text())["training"]
    with clock.sitting(path) as seconds, clock.phase("training"):
        time.sleep(0.05)
    assert first >= 0.05 and seconds["training"] >= first + 0.05


def test_a_killed_sitting_has_left_its_notes(tmp_path):
    program = (
        "import os, time, pathlib\nfrom mmalib.records import clock\nclock.EVERY = 0.05\n"
        f"path = pathlib.Path({str(tmp_path / 'seconds')!r})\n"
        "with clock.sitting(path), clock.phase('training'):\n"
        "    while not path.exists() or clock.json.loads(path.read_text())['training'] < 0.2: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == -9
    assert json.loads((tmp_path / "seconds").read_text())["training"] >= 0.2
    with clock.sitting(tmp_path / "seconds") as seconds:
        pass
    assert seconds["training"] >= 0.2


def test_phases_outside_a_sitting_disturb_nobody(tmp_path):
    with clock.phase("scoring"):
        pass
    with clock.sitting(tmp_path / "seconds") as seconds:
        pass
    assert set(seconds) == {"other"}
