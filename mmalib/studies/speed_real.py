"""Notebook 07's runs on real things: sentences of a corpus at their own lengths, and the models that were trained.

`text` reads test sentences of all languages, in turns, with one model in all runtimes. `trained` times a model that
another run has left, beside the F1 that its record tells.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.data import subwords
from mmalib.data.corpus import fewer
from mmalib.graph import export, quantize, ranges
from mmalib.model import disk
from mmalib.model.backbones import load_tokenizer
from mmalib.model.evaluate import entity_scores
from mmalib.plan import LENGTH, TEXT_BATCH, Run
from mmalib.records import machine, store
from mmalib.speed import realtext
from mmalib.speed.cases import SPARSE
from mmalib.studies import speed
from mmalib.studies.study import Study

CALIBRATION_SENTENCES = 64


def text(study: Study, run: Run, unfinished: Path) -> dict:
    """Read real sentences with one of `plan.READERS`; a row for every runtime and way of `realtext`."""
    settings = run.settings
    folder, tokenizer = _reader(study, run, unfinished)
    tests = [splits["test"]["words"] for splits in study.corpora.values()]
    sentences = [words for turn in zip_longest(*tests) for words in turn if words][: settings["text_sentences"]]
    rows, sessions = [], {}
    with ExitStack() as stack:
        for name in settings["runtimes"]:
            try:
                sessions[name] = stack.enter_context(runtimes.load(folder, machine.threads(), name))
            except ValueError as error:
                rows.append({"runtime": name, "way": "padded", "failed": runtimes.failure(error)})
        how = {"length": LENGTH, "batch": TEXT_BATCH, "turns": settings["turns"]}
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
    graph, base = exported(folder, unfinished), speed.base_folder(study)
    dense = exported(study.folder(run.needs["base"]), study.home / "shapes")
    rows = speed.measured(settings, {settings["folder"]: graph}, settings["runtimes"], base)
    own = speed.measured(settings, {"its own dense version": dense}, ["onnxruntime"], base)
    is_int8 = "quantization" in store.read_json(graph / disk.PROVENANCE)
    f1_in = scored(study, settings["runtimes"], settings["scored_sentences"], graph) if is_int8 else {}
    f1 = _f1(other, settings["folder"].removeprefix(settings["model"]).removeprefix("-"))
    return {"throughput": rows, "dense": own, "f1": f1, "f1_in": f1_in}


def exported(folder: Path, target: Path) -> Path:
    """A model as a graph: the folder itself if it is one, else an export of it below `target`, made once."""
    if (folder / export.GRAPH).is_file():
        return folder
    digest = store.read_json(folder / disk.PROVENANCE).get("settings", "")
    graph = target / f"{folder.name}-{digest}"
    if not (graph / export.GRAPH).is_file():
        export.export(*disk.load(folder), graph, provenance={"run": folder.name})
    return graph


def scored(study: Study, names: Sequence[str], cap: int | None, folder: Path) -> dict[str, dict[str, float]]:
    """Test F1 by language of a graph in each of these runtimes that is here."""
    tokenizer, size, scores = load_tokenizer(str(folder.resolve())), study.profile.max_length, {}
    tests = {language: fewer(splits["test"], cap) for language, splits in study.corpora.items()}
    for runtime in dict.fromkeys(map(runtimes.numbers, names)):
        try:
            with runtimes.load(folder, machine.threads(), runtime) as session:
                if runtime in SPARSE:
                    read = partial(realtext.tag, session, tokenizer, way="padded", length=size, batch=TEXT_BATCH)
                else:  # in the batches that the run itself was scored in: dynamic int8 has one scale for each
                    read = partial(export.predict_tags, session, tokenizer, max_length=size)
                scores[runtime] = {
                    language: entity_scores(list(test["tags"]), read(sentences=test["words"]))["f1"]
                    for language, test in tests.items()
                }
        except (ValueError, RuntimeError) as error:  # missing here, or crashed; its speeds say so as well
            print(f"{folder.name} is not scored in {runtime}: {runtimes.one_line(error)}", flush=True)
    return scores


def _f1(record: dict, share: str) -> dict[str, float]:
    """Test F1 by language: of the run, or of the recovered point of its curve that a folder's name ends in."""
    scores = record["scores"]
    if share.isdecimal():
        points = [p for p in record["curve"] if p["recovered"] and round(100 * p["share"]) == int(share)]
        scores = points[0]["scores"]
    return {language: splits["test"]["f1"] for language, splits in scores.items()}


def _reader(study: Study, run: Run, unfinished: Path) -> tuple[Path, PreTrainedTokenizerFast]:
    """The folder of a model that reads text, and its tokenizer."""
    if run.settings["model"] == "base":
        return speed.base_folder(study), load_tokenizer(speed.TOKENIZER)
    folder = exported(study.folder(run.needs["base"]), study.home / "shapes")
    tokenizer = load_tokenizer(str(folder.resolve()))
    if run.settings["model"] == "trained":
        return folder, tokenizer
    target = unfinished / "int8"
    if not (target / export.GRAPH).is_file():
        sentences = fewer(study.corpora["en"]["train"], CALIBRATION_SENTENCES)["words"]
        known = ranges.calibrate(folder, ranges.sentence_rows(sentences, tokenizer, LENGTH))
        quantize.quantize(folder, target, kind="static", ranges=known)
    return target, tokenizer
