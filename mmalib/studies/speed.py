"""Notebook 07's runs of `plan.planned_cases`; real text and trained models are in `speed_real`.

A case's record holds the rows of `throughput.measure`, every one in turns with dense float32 `base` in ONNX Runtime at
the same batch. A runtime that is missing, or a crash in one, is a row that says so, and the study goes on. A record
is measured again once a runtime that was missing has become available.

The folders of random models are made when they are measured and deleted after; that of `base` stays until `clear`.
"""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

from mmalib import runtimes
from mmalib.graph import export
from mmalib.model import disk
from mmalib.model.backbones import load_tokenizer
from mmalib.plan import LENGTH, Run
from mmalib.records import machine
from mmalib.speed import throughput
from mmalib.speed.cases import cases, form, is_whole_base
from mmalib.speed.shapes import build
from mmalib.studies.study import Study

TOKENIZER = "e5-half"  # any would do: a random model reads random subwords


def shape(study: Study, run: Run, unfinished: Path) -> dict:
    """Build a case, measure it, delete it."""
    settings = run.settings
    case = next(case for case in cases() if case.name == settings["case"])
    base, tokenizer = base_folder(study), load_tokenizer(TOKENIZER)
    by_form: dict[str, list[str]] = {}
    for runtime in settings["runtimes"]:
        by_form.setdefault(form(case, runtime), []).append(runtime)
    source = base if is_whole_base(case) else None
    folders = build(case, list(by_form), tokenizer, unfinished, deepest=settings["deepest"], source=source)
    rows = []
    for which, names in by_form.items():
        rows += measured(settings, {case.name: folders[which]}, names, base)
    parts = {"sizes": {which: sizes(folder) for which, folder in folders.items()}} if case.sized else {}
    return {"throughput": rows, **parts}


def sizes(folder: Path) -> dict:
    """Megabytes of the graph with its weights, as it is and by gzip."""
    return {"megabytes": disk.size_mb(folder, export.GRAPH), "gzip_megabytes": gzip_mb(runtimes.locate(folder))}


def gzip_mb(path: Path) -> float:
    """Megabytes of a file by gzip (level 6, the tool's own)."""
    packer, size = zlib.compressobj(6, wbits=31), 0  # 31: with the header and the checksum of gzip
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(packer.compress(block))
    return (size + len(packer.flush())) / 1e6


def base_folder(study: Study) -> Path:
    """The folder of the dense float32 `base`, made where it is not there."""
    deepest = study.profile.speed_layers
    target = study.home / "shapes" / (f"base-{deepest}" if deepest else "base")
    return build(cases()[0], ["float"], load_tokenizer(TOKENIZER), target, deepest=deepest)["float"]


def clear(study: Study) -> None:
    """Delete every folder that only the measurements needed."""
    shutil.rmtree(study.home / "shapes", ignore_errors=True)


def measured(settings: dict, folders: dict[str, Path], names: Sequence[str], base: Path) -> list[dict]:
    """The rows of `throughput.measure`, a line printed for each."""
    how = {"seconds": settings["measured_seconds"], "turns": settings["turns"], "calls": settings["calls"]}
    threads = machine.threads()
    rows = throughput.measure(folders, names, settings["batches"], LENGTH, threads=threads, baseline=base, **how)
    return [throughput.told(row) for row in rows]
