"""One study at a time in a folder: a lock that the operating system takes back however its holder ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def hold(folder: Path, patience: float = 5.0) -> Iterator[int]:
    """Hold `folder` for one study at a time; yields the descriptor that a child inherits to hold it as well.

    The operating system lets go when the last holder ends, however it ends. The kernel of a killed study may
    outlive it by a moment: that is what `patience` (seconds) is for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "study.lock", "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + patience
        while not _try_lock(file):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "its process is not known"
                raise ValueError(
                    f"Another study is running in {folder} ({holder}). Wait for it, or use another --runs."
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"pid {os.getpid()}, since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}\n")
        file.flush()
        try:
            yield file.fileno()
        finally:
            file.truncate(0)


def _try_lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
