"""Notebook 07's runs on real things: sentences of a corpus at their own lengths, and the models that were trained.

`text` reads test sentences of all languages, in turns, with one model in all runtimes. `trained` measures whatever
folders the other notebooks' runs have left, beside the F1 that their records tell.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.app import bench
from mmalib.data import subwords
from mmalib.data.corpus import fewer
from mmalib.graph import export, quantize, ranges
from mmalib.model import backbones, disk
from mmalib.model.evaluate import entity_scores
from mmalib.profiles import Profile
from mmalib.records import machine, store
from mmalib.speed import realtext
from mmalib.speed.cases import ALL, SPARSE
from mmalib.studies import baselines, speed

READERS = ("base", "trained", "trained int8")  # the paper's shape, random; the tuned baseline; the same in int8
BATCH = 8
CALIBRATION_SENTENCES = 64
Left = tuple[dict, Path, dict[str, float]]  # a record, a folder that its run has left, test F1 by language


def readers(profile: Profile) -> tuple[str, ...]:
    """Who reads text in a study: the full-size shape, which takes minutes, only where no configuration is left out."""
    return READERS if profile.speed_cases is None else READERS[1:]


def text(profile: Profile, what: str, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path) -> dict:
    """Read real sentences with one of `READERS`; its record has a row for every runtime and way of `realtext`."""
    if what not in READERS:
        raise ValueError(f"There is no reader '{what}'. Choose one of: {', '.join(READERS)}.")
    records, run = store.records_folder(runs, profile.name), speed.run_name(f"text {what}", corpus)
    settings = {
        **speed.common(profile, corpus),
        "method": "text",
        "model": what,
        "text_batch": BATCH,
        "text_sentences": profile.speed_sentences,
        # DeepSparse wants another form of int8, and of each shape an engine: float, and padded text, are enough.
        "runtimes": speed.asked(profile, [name for name in ALL if what != "trained int8" or name not in SPARSE]),
    }
    if (record := store.finished(records, run, settings)) and not speed.better_now(record):
        return record
    folder, tokenizer = _reader(profile, what, corpora, corpus, runs)
    tests = [splits["test"]["words"] for splits in corpora.values()]
    mixed = [words for some in zip_longest(*tests) for words in some if words]
    sentences = mixed[: profile.speed_sentences]
    rows, sessions = [], {}
    with ExitStack() as stack:
        for name in settings["runtimes"]:
            try:
                sessions[name] = stack.enter_context(runtimes.load(folder, settings["threads"], name))
            except ValueError as error:
                rows.append({"runtime": name, "way": "padded", "failed": runtimes.one_line(error)})
        rows += realtext.measure(
            sessions, tokenizer, sentences, length=speed.LENGTH, batch=BATCH, turns=profile.speed_turns
        )
    for row in rows:
        said = row.get("failed") or f"{row['sentences_per_second']:.1f} sentences/s"
        print(f"{what} in {row['runtime']}, {row['way']}: {said}", flush=True)
    lengths = [len(window.ids) for window in subwords.windows(sentences, tokenizer, speed.LENGTH)]
    about = {"sentences": len(sentences), "mean_subwords": sum(lengths) / len(lengths), "longest": max(lengths)}
    store.save(records, run, settings, scores={}, text=rows, about=about)
    return store.finished(records, run, settings)


def trained(
    profile: Profile, others: Sequence[dict], corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> list[dict]:
    """Speeds of the models that these records' runs left, one record a folder; at most `speed_models` of them.

    The baseline beside each is the dense tuned baseline in ONNX Runtime, so a speed-up is over the same backbone. `f1`
    is what the run's own record says; an int8 graph is scored again in every runtime that it is timed in, since each
    rounds in its own way.
    """
    home = Path(runs) / profile.name
    records, found = store.records_folder(runs, profile.name), []
    for record, folder, f1 in left(home / "models", others)[: profile.speed_models]:
        name = str(folder.relative_to(home / "models"))
        run = speed.run_name(f"trained {name}", corpus)
        settings = {
            **speed.common(profile, corpus),
            "method": "trained",
            "model": record["run"],
            "folder": name,
            "weights": _weights(folder),
            "trained_in": record["config"]["notebook"],
            "runtimes": speed.asked(profile, _fast_in(folder)),
            "batches": list(profile.speed_batches),
            "scored_sentences": profile.int8_sentences,
        }
        old = store.finished(records, run, settings)
        if settings["runtimes"] and (old is None or speed.better_now(old)):
            ready, base = exported(profile, folder, runs), _baseline(profile, corpora, corpus, runs)
            rows = speed.measured(profile, {name: ready}, settings["runtimes"], settings["batches"], base)
            f1_in = _scored(profile, ready, settings["runtimes"], corpora) if _int8_format(ready) else {}
            store.save(records, run, settings, scores={}, throughput=rows, f1=f1, f1_in=f1_in)
            old = store.finished(records, run, settings)
        found += [old] if old else []
    return found


def _scored(
    profile: Profile, folder: Path, names: Sequence[str], corpora: dict[str, DatasetDict]
) -> dict[str, dict[str, float]]:
    """Test F1 by language of a graph in each of its runtimes that is here."""
    tokenizer, found = backbones.load_tokenizer(str(folder.resolve())), {}
    tests = {language: fewer(splits["test"], profile.int8_sentences) for language, splits in corpora.items()}
    for runtime in dict.fromkeys(name.split(":")[0] for name in names):
        try:
            with runtimes.load(folder, machine.describe()["cores"], runtime) as session:
                if runtime in SPARSE:
                    how = {"way": "padded", "length": profile.max_length, "batch": BATCH}
                    read = partial(realtext.tag, session, tokenizer, **how)
                else:  # in the batches that the run itself was scored in: dynamic int8 has one scale for each
                    read = partial(export.predict_tags, session, tokenizer, max_length=profile.max_length)
                found[runtime] = {
                    language: entity_scores(list(test["tags"]), read(sentences=test["words"]))
                    for language, test in tests.items()
                }
        except (ValueError, RuntimeError) as error:  # missing here, or crashed; its speeds say so as well
            print(f"{folder.name} is not scored in {runtime}: {runtimes.one_line(error)}", flush=True)
    return {runtime: {language: of["f1"] for language, of in scores.items()} for runtime, scores in found.items()}


def left(folder: Path, records: Sequence[dict]) -> list[Left]:
    """The models in `folder` that these records tell the F1 of: of every run's first seed, the notebooks in turns.

    Another seed's model is as fast. A run may leave a folder of its name, one of its name and a share of its curve, or
    graphs in folders of their own below it.
    """
    scored = [r for r in records if r["config"].get("notebook") != "07" and (r["scores"] or r.get("curve"))]
    first = min((r["config"].get("seed", 0) for r in scored), default=0)
    by_notebook: dict[str, list[Left]] = {}
    for record in scored:
        if record["config"].get("seed", first) == first:
            by_notebook.setdefault(record["config"]["notebook"], []).extend(_of_run(folder, record))
    return [one for some in zip_longest(*(by_notebook[name] for name in sorted(by_notebook))) for one in some if one]


def exported(profile: Profile, folder: Path, runs: Path) -> Path:
    """A trained model as a graph: the folder itself if it is one, else an export of it, made once."""
    if (folder / export.GRAPH).is_file():
        return folder
    target = Path(runs) / profile.name / "shapes" / "trained" / f"{folder.name}-{_weights(folder)}"
    if not (target / export.GRAPH).is_file():
        export.export(*disk.load(folder), target, provenance={"run": folder.name})
    return target


def _of_run(home: Path, record: dict) -> Iterator[Left]:
    run = record["run"]
    for top in [home / run, *sorted(home.glob(f"{run}-*"))]:
        f1 = _f1(record, top.name.removeprefix(run).removeprefix("-"))
        graphs = {path.parent for path in top.rglob(export.GRAPH)}
        found = graphs or ({top} if (top / disk.WEIGHTS).is_file() else set())
        if f1 and top.is_dir():
            yield from ((record, folder, f1) for folder in sorted(found))


def _f1(record: dict, share: str) -> dict[str, float]:
    """Test F1 by language: of the run, or of the recovered point of its curve that a folder's name ends in."""
    scores = record["scores"]
    if share.isdecimal() and record.get("curve"):
        points = [
            p for p in record["curve"] if p.get("recovered", True) and round(100 * p.get("share", -1)) == int(share)
        ]
        scores = points[0]["scores"] if points else {}
    return {language: splits["test"]["f1"] for language, splits in scores.items() if "test" in splits}


def _reader(
    profile: Profile, what: str, corpora: dict[str, DatasetDict], corpus: str, runs: Path
) -> tuple[Path, PreTrainedTokenizerFast]:
    """The folder of a model that reads text, and its tokenizer."""
    if what == "base":
        return speed.base_folder(profile, runs), backbones.load_tokenizer(speed.TOKENIZER)
    folder = _baseline(profile, corpora, corpus, runs)
    tokenizer = backbones.load_tokenizer(str(folder.resolve()))
    if what == "trained":
        return folder, tokenizer
    target = folder.with_name(f"{folder.name}-int8")
    if not (target / export.GRAPH).is_file():
        some = fewer(corpora["en"]["train"], CALIBRATION_SENTENCES)["words"]
        known = ranges.calibrate(folder, ranges.sentence_rows(some, tokenizer, speed.LENGTH))
        quantize.quantize(folder, target, kind="static", ranges=known)
    return target, tokenizer


def _baseline(profile: Profile, corpora: dict[str, DatasetDict], corpus: str, runs: Path) -> Path:
    """The graph of the tuned baseline, which is tuned first where it is not there yet."""
    backbone, seed = profile.backbones[0], profile.seeds[0]
    baselines.tune(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    return exported(profile, Path(runs) / profile.name / "models" / baselines.run_name(backbone, corpus, seed), runs)


def _int8_format(folder: Path) -> str | None:
    """The format of a folder's int8 graph, as its mmalib.json tells; None where it is float."""
    about = folder / export.PROVENANCE
    said = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    return said.get("quantization", {}).get("format")


def _fast_in(folder: Path) -> Sequence[str]:
    """The runtimes that run a trained model's form of graph fast."""
    if (of_int8 := _int8_format(folder)) is None:
        return ALL
    return SPARSE if of_int8 == "qoperator" else [name for name in ALL if name not in SPARSE]


def _weights(folder: Path) -> str:
    """Tells one set of weights from another in the same folder."""
    return bench.fingerprint(folder) if (folder / export.GRAPH).is_file() else backbones.fingerprint(str(folder))
