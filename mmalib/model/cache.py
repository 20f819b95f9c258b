"""What the package carries compressed, unpacked once into a cache folder: under a lock, checked by its hashes.

`SHA256SUMS` in a folder of the package holds the hash of every file there, as `sha256sum -c` reads them. What is
unpacked carries them in its name, so that another version of the package has a folder of its own.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows has none: whoever uses a model there first, uses it alone
    fcntl = None

SUMS = "SHA256SUMS"


def unpacked(name: str, root: Path, fill: Callable[[Path, Iterable[str]], None], *shared: str) -> Path:
    """The folder that `fill` has filled from the files of one thing below `root` (`sums`); made at the first call."""
    hashes = sums(root, name, *shared)
    cache = os.environ.get("MMALIB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mmalib"
    folder = Path(cache).expanduser() / f"{name}-{fingerprint(hashes)}"
    if folder.is_dir():  # it appears complete or not at all
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it done
            if not folder.is_dir():
                for path, total in hashes.items():
                    if not (root / path).is_file() or hash_of(root / path) != total:
                        why = f"missing or damaged: its SHA-256 is not {total}"
                        raise ValueError(f"{root / path} is {why}. Reinstall the package.")
                with complete_folder(folder) as fresh:
                    fill(fresh, hashes)
    except OSError as error:
        raise ValueError(
            f"'{name}' could not be unpacked into {folder.parent} ({error}). "
            "Free some space there, or set MMALIB_CACHE to a folder that can be written to."
        ) from error
    return folder


def fingerprint(hashes: dict[str, str]) -> str:
    """Tells one set of files from another."""
    lines = [f"{total}  {path}\n" for path, total in sorted(hashes.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def sums(root: Path, name: str, *shared: str) -> dict[str, str]:
    """The stored hashes of the files of one thing below `root`: in the folder of its name and in shared ones."""
    try:
        pairs = [line.split("  ", 1) for line in (root / SUMS).read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"{root / SUMS} cannot be read ({error.strerror}). Reinstall the package.") from error
    mine = {path: total for total, path in pairs if path.split("/")[0] in (name, *shared)}
    if f"{name}/config.json" not in mine:
        raise ValueError(f"{root / SUMS} does not know '{name}'. Reinstall the package.")
    return mine


def write_sums(root: Path, paths: Iterable[Path]) -> None:
    """Write the hashes of these files below `root` anew."""
    text = "".join(f"{hash_of(path)}  {path.relative_to(root).as_posix()}\n" for path in sorted(paths))
    (root / SUMS).write_text(text)


def hash_of(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when all is written, and goes when something fails."""
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
