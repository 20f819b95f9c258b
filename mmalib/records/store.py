"""One finished run = one JSON record; one reader turns all records into one tidy DataFrame.

A record is written to a temporary file in its own folder and renamed, so that it is either complete or absent
whenever the study is killed. A run whose record is there with the same settings is skipped; a record with other
settings under the same name is refused, never overwritten.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from operator import methodcaller
from pathlib import Path

import pandas as pd

from mmalib.records import machine

REQUIRED = ("run", "settings", "scores", "machine", "versions", "commit", "finished")
SCALAR = methodcaller("item")  # of NumPy and torch, as a plain number
COLUMNS = ["run", "language", "split", "f1", "precision", "recall", "f1_low", "f1_high"]


def finished(folder: Path, run: str, settings: dict) -> dict | None:
    """The record of `run` if it is there with the same settings, None if it is not there at all."""
    path = _path(folder, run)
    if not path.exists():
        return None
    record = _load(path)
    there, here = dict(_flat(record["settings"])), dict(_flat(json.loads(_dumps(run, settings))))
    changes = [
        f"  {key}: {_show(there, key)} -> {_show(here, key)}"
        for key in {**there, **here}
        if key not in there or key not in here or there[key] != here[key]
    ]
    if changes:
        raise ValueError(
            f"{path} holds run '{run}' with other settings (there -> here):\n"
            + "\n".join(changes)
            + "\nTo have both, change settings by study.vary(...) in a notebook, or give another folder for runs "
            "(`runs` in a notebook, --runs). To have the new one alone, delete that one file, or start the profile "
            "over (study --fresh)."
        )
    return record


def save(folder: Path, run: str, settings: dict, *, scores: dict, **parts) -> Path:
    """Write the record of a finished run atomically, with the machine, versions and commit it came from."""
    finished(folder, run, settings)  # raises rather than overwrite a record with other settings
    record = {"run": run, "settings": settings, "scores": scores, **parts, "machine": machine.describe()}
    record |= {"versions": machine.versions(), "commit": machine.commit()}
    record["finished"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    path = _path(folder, run)
    write_atomic(path, _dumps(run, record) + "\n")
    return path


def write_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new, never a part of it."""
    try:
        with replacing(path) as fresh, open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error.strerror or error}); what was there before is untouched. "
            "Free some space or mend the folder's permissions and start again: the study goes on from there."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when all is written and goes when something fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot and the suffix keep it out of every glob for records and tables.
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """What a JSON file holds; nothing where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind; only for whoever holds the lock of the study."""
    for leftover in Path(folder).glob(".*.tmp"):
        if leftover.is_dir():  # a model that was being saved
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def read(folder: Path) -> list[dict]:
    """Every record of a folder, in the order of their names."""
    return [_load(path) for path in sorted(Path(folder).glob("*.json"), key=lambda path: path.stem)]


def frame(records: list[dict]) -> pd.DataFrame:
    """One row per run, language and split: scores, then the run's settings."""
    return _tidy((record, record["scores"], {}) for record in records)


def curves(records: list[dict]) -> pd.DataFrame:
    """One row per point of a run's `curve`, language and split: scores, settings, the point's own values."""
    return _tidy(
        (record, point["scores"], point | {"scores": {}}) for record in records for point in record.get("curve", [])
    )


def points(folder: Path) -> list[dict]:
    """The points that an unfinished run has put away in its own folder, in their order."""
    return read_json(Path(folder) / "points.json").get("curve", [])


def add_point(folder: Path, point: dict) -> None:
    """Put away one more point of an unfinished run; whoever writes its record removes the folder."""
    write_atomic(Path(folder) / "points.json", _dumps(Path(folder).name, {"curve": [*points(folder), point]}))


def _tidy(scored: Iterable[tuple[dict, dict, dict]]) -> pd.DataFrame:
    """Rows from records, scores by language and split, and what else is told of these scores."""
    rows = []
    for record, by_language, more in scored:
        about = _scalars(record["settings"]) | _scalars(more)
        for language, splits in by_language.items():
            for split, scores in splits.items():
                row = {"run": record["run"], "language": language, "split": split}
                row |= {key: value for key, value in scores.items() if key not in ("types", "counts", "values")}
                rows.append(row | {key: value for key, value in about.items() if key not in row})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=COLUMNS)


def _path(folder: Path, run: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+,=-]*", run):
        raise ValueError(
            f"'{run}' cannot name a run: it becomes a file name. "
            "Use letters, digits and . _ - + , = only, and begin with a letter or a digit."
        )
    return Path(folder) / f"{run}.json"


def _load(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        complete = isinstance(record, dict) and record.keys() >= set(REQUIRED)
        if not complete or not isinstance(record["settings"], dict) or not isinstance(record["scores"], dict):
            raise ValueError("it is no whole record")
        if record["run"] != path.stem:
            raise ValueError(f"it says that it is run '{record['run']}'")
    except ValueError as error:  # these, broken JSON or broken UTF-8
        raise ValueError(
            f"The record {path} cannot be used ({error}). "
            "Delete that file and run the study again: only this run is repeated."
        ) from error
    return record


def _dumps(run: str, value: dict) -> str:
    try:
        return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=SCALAR)
    except ValueError as error:
        hole = re.compile(r"\b(NaN|Infinity)\b")
        holes = [key for key, leaf in _flat(value) if hole.search(json.dumps(leaf, default=SCALAR))]
        raise ValueError(
            f"Run '{run}' is not saved, because these values are not finite numbers: {', '.join(holes)}. "
            "Training has probably diverged: try a lower learning rate."
        ) from error


def _flat(value: dict, prefix: str = "", joint: str = ".") -> Iterator[tuple[str, object]]:
    """The leaves of nested dicts with joined keys; lists and empty dicts are leaves."""
    for key, inner in value.items():
        name = f"{prefix}{joint}{key}" if prefix else str(key)
        yield from _flat(inner, name, joint) if isinstance(inner, dict) and inner else [(name, inner)]


def _scalars(value: dict) -> dict:
    """What fits into one cell of a frame each; lists (raw samples, loss curves) stay in the record."""
    return {key: leaf for key, leaf in _flat(value, joint="_") if not isinstance(leaf, (list, dict))}


def _show(settings: dict, key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "(absent)"
