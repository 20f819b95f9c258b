"""Where the time of a run goes: seconds by phase, summed over its sittings, a killed one included.

What has the clock runs inside `sitting`; wherever it goes, `phase` says what is being done, and an inner phase stops
the outer one meanwhile (scoring on dev is no training). The sums are on the disk every few seconds.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmalib.records import store

EVERY = 5.0  # seconds between two notes: what a kill can cost the sums
OTHER = "other"

_phases: list[str] = []  # of the run that this process makes, the innermost last
_sums: dict[str, float] = {}
_since = 0.0


@contextmanager
def sitting(path: Path) -> Iterator[dict[str, float]]:
    """The seconds by phase of what runs meanwhile, on top of those that earlier sittings have left in a file."""
    global _sums
    _sums = json.loads(path.read_text()) if path.exists() else {}
    ended = threading.Event()

    def note() -> None:
        while not ended.wait(EVERY):
            sums = dict(_sums)
            for name in _phases[-1:]:  # none where the last phase has just ended
                sums[name] = sums.get(name, 0.0) + time.monotonic() - _since
            store.write_atomic(path, json.dumps(sums))

    noting = threading.Thread(target=note, daemon=True)
    try:
        with phase(OTHER):
            noting.start()
            yield _sums
    finally:
        ended.set()
        noting.join()
        store.write_atomic(path, json.dumps(_sums))


@contextmanager
def phase(name: str) -> Iterator[None]:
    """What runs meanwhile is this phase; also a decorator."""
    _turn()
    _phases.append(name)
    try:
        yield
    finally:
        _turn()
        _phases.pop()


def _turn() -> None:
    global _since
    now = time.monotonic()
    if _phases:
        _sums[_phases[-1]] = _sums.get(_phases[-1], 0.0) + now - _since
    _since = now
