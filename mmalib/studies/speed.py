"""Notebook 07's runs: random models of the paper's shapes, real text, and the models that other runs have left.

    shape     a case of `plan.planned_cases`
    text      test sentences of all languages at their own lengths, read in turns by one model in all runtimes
    trained   a model that another run has left, beside the F1 that its record tells

A record holds the rows of `throughput.measure`, every one in turns with dense float32 `base` in ONNX Runtime at
the same batch. A runtime that is missing, or a crash in one, is a row that says so, and the study goes on. A record
is measured again once a runtime that was missing has become available.

The folders of random models are made when they are measured and deleted after; the dense ones that others are measured
beside lie in `shapes` until the study has ended.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.data import subwords
from mmalib.data.corpus import fewer
from mmalib.graph import export, quantize, ranges
from mmalib.model import disk
from mmalib.model.backbones import load_tokenizer
from mmalib.model.evaluate import entity_scores
from mmalib.plan import LENGTH, TEXT_BATCH, Run, kept_leaf
from mmalib.records import clock, lock, machine, store
from mmalib.speed import realtext, throughput
from mmalib.speed.cases import SPARSE, cases, form, is_whole_base
from mmalib.speed.shapes import build
from mmalib.studies.study import Study

TOKENIZER = "e5-half"  # any would do: a random model reads random subwords
CALIBRATION_SENTENCES = 64
PART = 1 << 24  # bytes that are packed at once


def shape(study: Study, run: Run, unfinished: Path) -> dict:
    """Build a case, measure it, delete it."""
    settings = run.settings
    case = next(case for case in cases() if case.name == settings["case"])
    base, tokenizer = dense_graph(study), load_tokenizer(TOKENIZER)
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


def text(study: Study, run: Run, unfinished: Path) -> dict:
    """Read real sentences with one of `plan.READERS`; a row for every runtime and way of `realtext`."""
    settings = run.settings
    folder, tokenizer = _reader(study, run, unfinished)
    tests = [splits["test"]["words"] for splits in study.corpora.values()]
    sentences = [words for turn in zip_longest(*tests) for words in turn if words][: settings["text_sentences"]]
    rows, sessions = [], {}
    with ExitStack() as stack:
        base = stack.enter_context(runtimes.load(dense_graph(study), machine.threads()))
        for name in settings["runtimes"]:
            try:
                sessions[name] = stack.enter_context(runtimes.load(folder, machine.threads(), name))
            except ValueError as error:
                rows.append({"runtime": name, "way": "padded", "failed": runtimes.failure(error)})
        how = {"base": base, "length": LENGTH, "batch": TEXT_BATCH, "turns": settings["turns"]}
        rows += realtext.measure(sessions, tokenizer, sentences, **how)
    for row in rows:
        result = row.get("failed") or f"{row['sentences_per_second']:.1f} sentences/s"
        print(f"{settings['model']} in {row['runtime']}, {row['way']}: {result}", flush=True)
    lengths = [len(window.ids) for window in subwords.encode(sentences, tokenizer, LENGTH).windows]
    about = {"sentences": len(sentences), "mean_subwords": sum(lengths) / len(lengths), "longest": max(lengths)}
    return {"text": rows, "about": about}


def trained(study: Study, run: Run, unfinished: Path) -> dict:
    """Speeds of a model that another run left, in turns with the paper's own baseline, dense float32 XLM-R base.

    `dense` are those of the model's own dense version beside it. `f1` is what the other run's record says; an int8
    graph is scored again in every runtime that it is timed in, since each rounds in its own way.
    """
    settings, other = run.settings, study.make(run.settings["model"])
    folder = study.folder(other.get("same_as") or settings["folder"])  # a floor that static holds has no folder
    graph, base = exported(folder, unfinished), dense_graph(study)
    dense = dense_graph(study, run.needs["base"])
    rows = measured(settings, {settings["folder"]: graph}, settings["runtimes"], base)
    own = measured(settings, {"its own dense version": dense}, ["onnxruntime"], base)
    is_int8 = "quantization" in store.read_json(graph / disk.PROVENANCE)
    f1_in = scored(study, settings["runtimes"], settings["scored_sentences"], graph) if is_int8 else {}
    return {"throughput": rows, "dense": own, "f1": _f1(other, settings["folder"]), "f1_in": f1_in}


def exported(folder: Path, target: Path) -> Path:
    """A model as a graph: the folder itself if it is one, else an export of it below `target`, made once."""
    if (folder / export.GRAPH).is_file():
        return folder
    digest = store.read_json(folder / disk.PROVENANCE).get("settings", "")
    graph = target / f"{folder.name}-{digest}"
    if not (graph / export.GRAPH).is_file():
        export.export(*disk.load(folder), graph, provenance={"run": folder.name})
    return graph


@clock.phase("scoring")
def scored(study: Study, names: Sequence[str], cap: int | None, folder: Path) -> dict[str, dict[str, float]]:
    """Test F1 by language of a graph in each of these runtimes that is here."""
    tokenizer, size, scores = disk.tokenizer_in(folder), study.profile.max_length, {}
    tests = {language: fewer(splits["test"], cap) for language, splits in study.corpora.items()}
    for runtime in dict.fromkeys(map(runtimes.numbers, names)):
        try:
            with runtimes.load(folder, machine.threads(), runtime) as session:
                if runtime in SPARSE:
                    read = partial(realtext.tag, session, tokenizer, way="padded", length=size, batch=TEXT_BATCH)
                else:  # in the batches that the run itself was scored in: dynamic int8 has one scale for each
                    read = partial(subwords.tagged, session, tokenizer, max_length=size)
                scores[runtime] = {
                    language: entity_scores(list(test["tags"]), read(sentences=test["words"]))["f1"]
                    for language, test in tests.items()
                }
        except (ValueError, RuntimeError) as error:  # missing here, or crashed; its speeds say so as well
            print(f"{folder.name} is not scored in {runtime}: {runtimes.one_line(error)}", flush=True)
    return scores


def sizes(folder: Path) -> dict:
    """Megabytes of the graph with its weights, as it is and by gzip."""
    return {"megabytes": disk.size_mb(folder, export.GRAPH), "gzip_megabytes": gzip_mb(runtimes.locate(folder))}


def gzip_mb(path: Path) -> float:
    """Megabytes of a file by gzip (level 6, the tool's own), in parts that are packed side by side."""
    data = np.memmap(path, mode="r")
    parts = (data[start : start + PART] for start in range(0, len(data), PART))
    with ThreadPoolExecutor(machine.threads()) as pool:  # 16: with gzip's own header
        return sum(pool.map(lambda part: len(zlib.compress(part, 6, 16 + zlib.MAX_WBITS)), parts)) / 1e6


def dense_graph(study: Study, name: str | None = None) -> Path:
    """The folder of what others are measured beside, made once: of a run's model, or else of dense float32 `base`."""
    deepest, shapes = study.profile.speed_layers, study.home / "shapes"
    with lock.hold(study.home / "locks" / "shapes.lock", "A dense graph", patience=None):
        if name:
            return exported(study.folder(name), shapes)
        target = shapes / (f"base-{deepest}" if deepest else "base")
        return build(cases()[0], ["float"], load_tokenizer(TOKENIZER), target, deepest=deepest)["float"]


def measured(settings: dict, folders: dict[str, Path], names: Sequence[str], base: Path) -> list[dict]:
    """The rows of `throughput.measure`, a line printed for each."""
    how = {"seconds": settings["measured_seconds"], "turns": settings["turns"], "calls": settings["calls"]}
    threads = machine.threads()
    rows = throughput.measure(folders, names, settings["batches"], LENGTH, threads=threads, baseline=base, **how)
    return [throughput.told(row) for row in rows]


def _f1(record: dict, folder: str) -> dict[str, float]:
    """Test F1 by language: of the run, or of the recovered point of its curve that left this folder."""
    points = [point for point in record.get("curve", ()) if point.get("recovered")]
    own = [point for point in points if kept_leaf(record["run"], point["share"]) == folder]
    return {language: splits["test"]["f1"] for language, splits in (own or [record])[0]["scores"].items()}


def _reader(study: Study, run: Run, unfinished: Path) -> tuple[Path, PreTrainedTokenizerFast]:
    """The folder of a model that reads text, and its tokenizer."""
    folder = dense_graph(study, run.needs.get("model", run.needs["base"]))
    tokenizer = disk.tokenizer_in(folder)
    if run.settings["model"] != "trained int8":
        return folder, tokenizer
    target = unfinished / "int8"
    if not (target / export.GRAPH).is_file():
        sentences = fewer(study.corpora["en"]["train"], CALIBRATION_SENTENCES)["words"]
        known = ranges.calibrate(folder, ranges.sentence_rows(sentences, tokenizer, LENGTH))
        quantize.quantize(folder, target, kind="static", ranges=known)
    return target, tokenizer
