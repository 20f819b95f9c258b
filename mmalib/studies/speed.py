"""Notebook 07's runs of `speed_cases`, each from start to record; real text and trained models are in `speed_real`.

A case's record holds the rows of `throughput.measure`, every one in turns with dense float32 `base` in ONNX Runtime at
the same batch. A runtime that is missing, or a crash in one, is a row that says so, and the study goes on. A record
that lacks a runtime which has become available since is measured again.

The folders of random models are made when they are measured and deleted after; that of `base` stays until `clear`.
"""

import gzip
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mmalib import runtimes
from mmalib.graph import export
from mmalib.model.backbones import load_tokenizer
from mmalib.profiles import Profile
from mmalib.records import machine, store
from mmalib.speed import throughput
from mmalib.speed.cases import Case, build, cases, form, is_whole_base

LENGTH = 128  # subwords, as in the paper
TOKENIZER = "e5-half"  # any would do: a random model reads random subwords
MISSING = "is not available"  # in what `runtimes.load` says


def planned(profile: Profile) -> list[Case]:
    """The cases of this profile, in the order in which they are measured."""
    return [case for case in cases() if profile.speed_cases is None or case.name in profile.speed_cases]


def run_name(what: str, corpus: str) -> str:
    """The name of a record: of a case, a text or a trained model."""
    return "07-" + re.sub(r"[^A-Za-z0-9.]+", "-", what.replace("%", "")) + f"-{corpus}"


def config(profile: Profile, case: Case, corpus: str) -> dict:
    """Everything that decides a case's speeds, but for the machine."""
    return {
        **common(profile, corpus),
        "method": "speed",
        "case": case.name,
        "shape": case.shape,
        "depth": case.depth,
        "deepest": profile.speed_layers,
        "zeros": case.sparsity,
        "pattern": case.pattern,
        "heads": case.heads,
        "uniform": case.uniform,
        "int8": case.int8,
        "runtimes": asked(profile, case.runtimes),
        "batches": list(_batches(profile, case)),
    }


def measure(profile: Profile, case: Case, *, corpus: str, runs: Path) -> dict:
    """Build a case, measure it, delete it; its record, read where it was measured before."""
    records, run = store.records_folder(runs, profile.name), run_name(case.name, corpus)
    settings = config(profile, case, corpus)
    if (record := store.finished(records, run, settings)) and not better_now(record):
        return record
    start = time.monotonic()
    base, tokenizer = base_folder(profile, runs), load_tokenizer(TOKENIZER)
    by_form: dict[str, list[str]] = {}
    for runtime in settings["runtimes"]:
        by_form.setdefault(form(case, runtime), []).append(runtime)
    target, source = base.parents[1] / run, base if is_whole_base(case) else None
    folders = build(case, list(by_form), tokenizer, target, deepest=profile.speed_layers, source=source)
    rows = []
    for which, some in by_form.items():
        rows += measured(profile, {case.name: folders[which]}, some, settings["batches"], base)
    parts = {"sizes": {which: sizes(folder) for which, folder in folders.items()}} if case.sized else {}
    timings = {"seconds": time.monotonic() - start}
    store.save(records, run, settings, scores={}, throughput=rows, timings=timings, **parts)
    shutil.rmtree(target, ignore_errors=True)
    return store.finished(records, run, settings)


def sizes(folder: Path) -> dict:
    """Megabytes of the graph with its weights, as it is and by gzip (level 6, the tool's own)."""
    counter = _Counter()
    with open(runtimes.locate(folder), "rb") as file, gzip.GzipFile("", "wb", 6, counter) as zipped:
        shutil.copyfileobj(file, zipped, 1 << 20)
    return {"megabytes": export.size_mb(folder), "gzip_megabytes": counter.bytes / 1e6}


def base_folder(profile: Profile, runs: Path) -> Path:
    """The folder of the dense float32 `base`, made where it is not there."""
    target = Path(runs) / profile.name / "shapes" / "base"
    return build(cases()[0], ["float"], load_tokenizer(TOKENIZER), target, deepest=profile.speed_layers)["float"]


def clear(profile: Profile, runs: Path) -> None:
    """Delete every folder that only the measurements needed."""
    shutil.rmtree(Path(runs) / profile.name / "shapes", ignore_errors=True)


class _Counter:
    """A file that only counts what is written to it."""

    bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush; GzipFile asks for it."""


def common(profile: Profile, corpus: str) -> dict:
    """What every configuration of this notebook says."""
    return {
        "notebook": "07",
        "corpus": corpus,
        "length": LENGTH,
        "threads": machine.describe()["cores"],
        "measured_seconds": profile.speed_seconds,
        "turns": profile.speed_turns,
    }


def asked(profile: Profile, wanted: Sequence[str]) -> list[str]:
    """Those of the runtimes wanted that the profile measures."""
    return [name for name in wanted if runtimes.parse(name)[0] in profile.speed_runtimes]


def _batches(profile: Profile, case: Case) -> Sequence[int]:
    if case.batches is not None and profile.speed_cases is None:
        return case.batches
    return profile.speed_batches


def better_now(record: dict) -> bool:
    """Whether a runtime that was missing then is here now."""
    rows = [*record.get("throughput", ()), *record.get("text", ())]
    missed = {row["runtime"] for row in rows if MISSING in row.get("failed", "")}
    return any(runtimes.available(runtime) is None for runtime in missed)


def measured(
    profile: Profile, folders: dict[str, Path], names: Sequence[str], batches: Sequence[int], base: Path
) -> list[dict]:
    """The rows of `throughput.measure` at the profile's settings, a line printed for each."""
    found = throughput.measure(
        folders,
        names,
        batches,
        LENGTH,
        threads=machine.describe()["cores"],
        seconds=profile.speed_seconds,
        baseline=base,
        turns=profile.speed_turns,
    )
    return [throughput.told(row) for row in found]
