"""Int8 graphs of a tuned baseline, every one scored itself in ONNX Runtime, from start to record.

A run makes one graph (`FORMS`), keeps its folder and scores it on all languages:

    float             the baseline as it is: what all others are compared with, in the same runtime
    dynamic, static, without-data    the three kinds that train nothing
    qat               the baseline trained on for a moment under fake quantization; ranges are frozen half-way
    longer            the same training without fake quantization: what `qat` owes to the training alone
    ...-qoperator     the form of the graph that DeepSparse runs fast; qat learns anew for it, it rounds more
    static-embeddings the table of word embeddings in a byte each as well: it only weighs on the disk
    floor, floor-all  static, with the maps left in float that hold a floor under every language; `floor` looks at
                      English dev alone, the zero-shot setting, `floor-all` at the dev sets of all languages

All that is chosen is chosen on English dev (but in `floor-all`): the calibration method among the profile's, by F1 and
then by the drift of the labels' distributions from the float graph's. The training of `qat` is not tuned at all.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from mmalib import export, floor, qat, quantize, ranges, results
from mmalib.backbones import layers, load_tokenizer, parts, predict_tags
from mmalib.corpus import fewer, fewer_to_score
from mmalib.finetune import finetune
from mmalib.profiles import Profile
from mmalib.studies import baselines

FORMS = {  # graph → (kind of quantization, format)
    "float": ("float", "float"),
    "longer": ("float", "float"),
    "dynamic": ("dynamic", "dynamic"),
    "static": ("static", "qdq"),
    "qat": ("qat", "qdq"),
    "without-data": ("without data", "qdq"),
    "static-qoperator": ("static", "qoperator"),
    "qat-qoperator": ("qat", "qoperator"),
    "static-embeddings": ("static", "qdq"),
    "floor": ("static", "qdq"),
    "floor-all": ("static", "qdq"),
}
KINDS = ("dynamic", "static", "qat", "without-data")  # the paper's four
TRAINED = ("longer", "qat", "qat-qoperator")
FLOORS = {"floor": ("en",), "floor-all": ("en", "es", "nl")}  # the languages whose dev set the search looks at
RANDOM_LENGTH = 64  # subwords of a row of random ones
QAT_RATE = 0.25  # of the profile's learning rate: the baseline is tuned already
POINTS = 1.0  # of dev F1 that no language may lose
MOST = 6  # maps in float at most


def run_name(graph: str, backbone: str, corpus: str, seed: int) -> str:
    """The name of a graph's run: of its record and of its folder."""
    return f"05-{graph}-{Path(backbone).name}-{corpus}-seed{seed}"


def planned(profile: Profile) -> list[str]:
    """The graphs of a study for every backbone and each of its `pruning_seeds`; see `breaks` for `floor-all`."""
    wanted = profile.int8_graphs
    if unknown := sorted(set(wanted or ()) - set(FORMS)):
        raise ValueError(f"int8_graphs of profile {profile.name} has '{unknown[0]}'. Known are {', '.join(FORMS)}.")
    return [graph for graph in FORMS if graph == "float" or (graph != "floor-all" and graph in (wanted or FORMS))]


def config(profile: Profile, graph: str, backbone: str, corpus: str, seed: int) -> dict:
    """Everything that decides a graph's scores."""
    kind, form = FORMS[graph]
    names: tuple[str, ...] = ("int8_sentences",)
    more: dict = {}
    if kind == "static":
        names += ("calibration_sentences", "calibration_methods")
    if kind == "without data":
        names, more = (*names, "calibration_sentences"), {"random_length": RANDOM_LENGTH}
    if graph in TRAINED:
        names, more = (*names, "qat_sentences", "qat_epochs"), {"qat_rate": QAT_RATE}
    if graph in FLOORS:
        names = (*names, "floor_sentences", "floor_layers")
        more = {"floor_points": POINTS, "floor_most": MOST, "floor_languages": FLOORS[graph]}
    return {
        **baselines.config(profile, backbone, corpus, seed),
        "notebook": "05",
        "method": "quantization",
        "graph": graph,
        "kind": kind,
        "format": form,
        "runtime": "onnxruntime",
        **{name: getattr(profile, name) for name in names},
        **more,
    }


def make(
    profile: Profile, graph: str, backbone: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> dict:
    """Make one graph and those it is made from, score it, keep folder and record; done before → read."""
    home = Path(runs) / profile.name
    records, run = results.records_folder(runs, profile.name), run_name(graph, backbone, corpus, seed)
    settings = config(profile, graph, backbone, corpus, seed)
    folder, checkpoints = home / "models" / run, home / "checkpoints" / run
    record = results.finished(records, run, settings)
    if record and (record.get("same_as") or (folder / export.GRAPH).is_file()):  # records travel with git, models not
        return record
    ask = partial(make, profile, backbone=backbone, seed=seed, corpora=corpora, corpus=corpus, runs=runs)
    whole, static = None if graph == "float" else ask("float"), None
    if graph in FLOORS or graph in ("static-qoperator", "static-embeddings"):
        static = ask("static")
    start = time.monotonic()
    source = home / "models" / run_name("float", backbone, corpus, seed)
    about = {"run": run, "corpus": corpus, "seed": seed}
    if graph == "float" or graph in TRAINED:
        model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
        if graph == "float":
            size, found = _size(export.export(model, tokenizer, folder, provenance=about)), {"places": places(model)}
        else:
            size, found = _trained(profile, graph, model, tokenizer, corpora["en"], seed, checkpoints, folder, about)
    else:
        tokenizer = load_tokenizer(str(source.resolve()))
        size, found = _quantized(profile, graph, tokenizer, corpora, whole, static, source, folder, about)
    made = time.monotonic()
    if "same_as" in found:
        scores = static["scores"]
    else:
        to_score = fewer_to_score(corpora, profile.int8_sentences)
        scores = export.score(export.session(folder), tokenizer, to_score, max_length=profile.max_length)
    if graph in FLOORS:
        lost = losses(scores, whole["scores"])
        found["floor"] |= {"lost_on_dev": lost, "met_everywhere": max(lost.values()) <= POINTS}
    results.save(
        records,
        run,
        settings,
        scores=scores,
        size=size,
        sparsity={"requested": 0.0, "measured": size["sparsity"]},
        timings={"make_s": made - start, "score_s": time.monotonic() - made},
        **found,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    print(f"{run}: {size['megabytes']:.1f} MB", flush=True)
    return results.finished(records, run, settings)


def losses(scores: dict, base: dict, split: str = "dev") -> dict[str, float]:
    """Points of F1 that every language loses against the base's scores."""
    return {language: 100 * (base[language][split]["f1"] - scores[language][split]["f1"]) for language in base}


def breaks(static: dict, whole: dict) -> bool:
    """Whether the static graph's record breaks the floor in any language: then `floor-all` is part of the study."""
    return max(losses(static["scores"], whole["scores"]).values()) > POINTS


def places(model: PreTrainedModel) -> dict[str, list]:
    """Where every linear map of the encoder is: {module: [layer from 0, name of the part]}."""
    names = {module: name for name, module in model.named_modules()}
    return {
        names[linear]: [number, part]
        for number, layer in enumerate(layers(model))
        for part, linear in parts(layer)._asdict().items()
    }


def scanned(where: dict[str, list], number: int | None) -> list[str]:
    """The maps of `number` layers, evenly from the first to the last; of all layers, if it is None."""
    there = sorted({layer for layer, _ in where.values()})
    if number is not None and number < len(there):
        there = [there[round(place)] for place in np.linspace(0, len(there) - 1, number)]
    return [name for name, (layer, _) in where.items() if layer in there]


def _quantized(
    profile: Profile,
    graph: str,
    tokenizer: PreTrainedTokenizerFast,
    corpora: dict[str, DatasetDict],
    whole: dict,
    static: dict | None,
    source: Path,
    folder: Path,
    about: dict,
) -> tuple[dict, dict]:
    """Write an int8 graph of the float one in `source` without training; its size, and what the record tells."""
    kind, form = FORMS[graph]
    known, skip, found = static["ranges"] if static else None, [], {}
    if graph == "static":
        found = _calibrated(profile, source, tokenizer, corpora["en"])
        known = found["ranges"]
    elif graph == "without-data":
        rows = ranges.random_rows(tokenizer, number=profile.calibration_sentences, length=RANDOM_LENGTH)
        known = ranges.calibrate(source, rows)
    elif graph in FLOORS:
        found = _searched(profile, FLOORS[graph], source, known, tokenizer, corpora, whole["places"])
        skip = found["floor"]["skip"]
        if not skip:  # then it is the static graph
            return static["size"], {**found, "same_as": static["run"]}
    how = {"ranges": known, "skip": skip, "embeddings": graph == "static-embeddings", "provenance": about}
    if known is not None:  # the dynamic graph has one form
        how["format"] = form
    return _size(quantize.quantize(source, folder, kind=kind, **how)), found


def _trained(
    profile: Profile,
    graph: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    english: DatasetDict,
    seed: int,
    checkpoints: Path,
    folder: Path,
    about: dict,
) -> tuple[dict, dict]:
    """Train the baseline on, under fake quantization or not, and write its graph; size, and what the record tells."""
    kind, form = FORMS[graph]
    train = fewer(english["train"], profile.qat_sentences)
    dev = fewer(english["dev"], profile.int8_sentences)
    if kind == "qat":
        how = {"format": form, "seed": seed, "checkpoints": checkpoints, "about": about}
        return learn(profile, model, tokenizer, train, dev, folder, **how)
    model, history = _tune(profile, model, tokenizer, train, dev, seed, checkpoints)
    return _size(export.export(model, tokenizer, folder, provenance=about)), {"history": history}


def learn(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset | list[dict],
    dev: Dataset,
    folder: Path,
    *,
    format: str,
    seed: int,
    checkpoints: Path,
    about: dict,
    embeddings: bool = False,
    loss: Callable | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[dict, dict]:
    """Train a tuned model on under fake quantization and write its int8 graph; size, and what the record tells.

    `train`, `loss` and `callbacks` are those of `finetune`.
    """
    qat.prepare_(model, format=format)
    every = [*callbacks, qat.FreezeRanges()]
    model, history = _tune(profile, model, tokenizer, train, dev, seed, checkpoints, loss=loss, callbacks=every)
    predicted = predict_tags(model, tokenizer, dev["words"], max_length=profile.max_length)
    learnt = qat.ranges(model)
    qat.remove_(model)
    source = checkpoints / "float"
    export.export(model, tokenizer, source)
    given = quantize.tensor_ranges(source, learnt)
    how = {"ranges": given, "format": format, "embeddings": embeddings, "provenance": about}
    size = _size(quantize.quantize(source, folder, kind="qat", **how))
    in_graph = export.predict_tags(export.session(folder), tokenizer, dev["words"], profile.max_length)
    agreement = np.mean(np.concatenate(predicted) == np.concatenate(in_graph))
    return size, {"history": history, "ranges": given, "agreement": float(agreement)}


def _tune(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset | list[dict],
    dev: Dataset,
    seed: int,
    checkpoints: Path,
    **how,
) -> tuple[PreTrainedModel, dict]:
    return finetune(
        model,
        tokenizer,
        train,
        dev,
        folder=checkpoints,
        seed=seed,
        epochs=profile.qat_epochs,
        batch_size=profile.batch_size,
        learning_rate=QAT_RATE * profile.learning_rate,
        max_length=profile.max_length,
        frozen_layers=profile.frozen_layers,
        choose_after=profile.qat_epochs / 2,  # before that, the ranges still move
        **how,
    )


def _calibrated(
    profile: Profile, source: Path, tokenizer: PreTrainedTokenizerFast, english: DatasetDict
) -> dict[str, dict]:
    """The ranges of the method that is best on English dev, and what every method came to."""
    train = fewer(english["train"], profile.calibration_sentences)
    rows = ranges.sentence_rows(train["words"], tokenizer, profile.max_length)
    dev = {"en": _texts(fewer(english["dev"], profile.int8_sentences))}
    found, tried = {}, {}
    for method in profile.calibration_methods:
        found[method] = ranges.calibrate(source, rows, method=method)
        measure, _ = floor.measure_with(
            _builder(source, found[method]), source, tokenizer, dev, languages=("en",), max_length=profile.max_length
        )
        f1, drift = measure(frozenset())
        tried[method] = {"f1": f1["en"], "drift": drift}
    chosen = max(tried, key=lambda method: (tried[method]["f1"], -tried[method]["drift"]))
    return {"ranges": found[chosen], "calibration": {"chosen": chosen, "tried": tried}}


def _searched(
    profile: Profile,
    languages: tuple[str, ...],
    source: Path,
    known: quantize.Ranges,
    tokenizer: PreTrainedTokenizerFast,
    corpora: dict[str, DatasetDict],
    where: dict[str, list],
) -> dict:
    """The maps to leave in float; and, on English, how far from the float graph each of them in int8 alone leads."""
    # Only the languages that the search looks at are run: the others are measured in the end, on the graph found.
    dev = {language: _texts(fewer(corpora[language]["dev"], profile.floor_sentences)) for language in languages}
    measure, base = floor.measure_with(
        _builder(source, known), source, tokenizer, dev, languages=languages, max_length=profile.max_length
    )
    names = scanned(where, profile.floor_layers)
    found = floor.hold_floor(measure, names, base, points=POINTS, languages=languages, most=MOST)
    del found["met_everywhere"]  # it would speak of the languages looked at alone
    if len(languages) > 1:
        return {"floor": found}
    # For the picture, one map alone is int8: the errors of several partly cancel, so leaving one out tells less.
    alone = {name: measure(frozenset(where) - {name})[1] for name in names}
    rows = [{"map": name, "layer": where[name][0], "part": where[name][1], "drift": alone[name]} for name in names]
    return {"floor": found, "sensitivity": rows}


def _builder(source: Path, known: quantize.Ranges):
    def build(folder: Path, skip: frozenset[str]) -> None:
        quantize.quantize(source, folder, kind="static", ranges=known, skip=skip)

    return build


def _texts(sentences: Dataset) -> tuple[list, list]:
    return list(sentences["words"]), list(sentences["tags"])


def _size(about: dict) -> dict:
    """What a folder's mmalib.json says of size and zeros, float or int8."""
    of_int8 = about.get("quantization", {})
    return {
        "megabytes": about["megabytes"],
        "megabytes_float": of_int8.get("megabytes_float", about["megabytes"]),
        "quantized": of_int8.get("quantized", 0),
        "sparsity": of_int8.get("sparsity", about["sparsity"]),
        "sparsity_int8": of_int8.get("sparsity_int8"),
    }
