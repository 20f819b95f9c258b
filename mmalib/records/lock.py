"""Locks that the operating system takes back however their holder ends: of a study, of a run while it is made."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def hold(path: Path, what: str, patience: float | None = 5.0) -> Iterator[int]:
    """Hold the lock file `path` for `what`; yields the descriptor that a child inherits to hold it as well.

    The operating system lets go when the last holder ends, however it ends. The kernel of a killed study may
    outlive it by a moment: that is what `patience` (seconds) is for. None waits for as long as it takes, and says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        deadline, told = time.monotonic() + (5.0 if patience is None else patience), False
        while not _try_lock(file):
            if time.monotonic() > deadline and not told:
                file.seek(0)
                holder = f"{what} is held elsewhere ({file.read().strip() or 'its process is not known'})"
                if patience is not None:
                    raise ValueError(f"{holder}. Wait for it, or use another --runs.")
                print(f"{holder}; waiting", flush=True)
                told = True
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}, since {datetime.now().astimezone():%F %T %Z}\n")
        file.flush()
        try:
            yield file.fileno()
        finally:
            file.truncate(0)


def held(folder: Path) -> list[str]:
    """The names of the locks in a folder that somebody holds at this moment."""
    names = []
    for path in sorted(Path(folder).glob("*.lock")):
        with open(path, "a", encoding="utf-8") as file:
            if not _try_lock(file):
                names.append(path.stem)
    return names


def _try_lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
