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
from functools import partial
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer, fewer_to_score
from mmalib.graph import export, quantize, ranges
from mmalib.model.backbones import layers, load_tokenizer, parts
from mmalib.profiles import Profile
from mmalib.records import store
from mmalib.studies import baselines, int8_choices
from mmalib.studies.int8_training import QAT_RATE, learn, size_of, tune

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
        names, more = (*names, "qat_sentences", "qat_epochs", *baselines.AFTER), {"qat_rate": QAT_RATE}
    if graph in FLOORS:
        names = (*names, "floor_sentences", "floor_layers")
        more = {"floor_points": int8_choices.POINTS, "floor_most": int8_choices.MOST, "floor_languages": FLOORS[graph]}
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
    records, run = store.records_folder(runs, profile.name), run_name(graph, backbone, corpus, seed)
    settings = config(profile, graph, backbone, corpus, seed)
    folder, checkpoints = home / "models" / run, home / "checkpoints" / run
    record = store.finished(records, run, settings)
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
            size, found = size_of(export.export(model, tokenizer, folder, provenance=about)), {"places": places(model)}
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
        found["floor"] |= {"lost_on_dev": lost, "met_everywhere": max(lost.values()) <= int8_choices.POINTS}
    store.save(
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
    return store.finished(records, run, settings)


def losses(scores: dict, base: dict, split: str = "dev") -> dict[str, float]:
    """Points of F1 that every language loses against the base's scores."""
    return {language: 100 * (base[language][split]["f1"] - scores[language][split]["f1"]) for language in base}


def breaks(static: dict, whole: dict) -> bool:
    """Whether the static graph's record breaks the floor in any language: then `floor-all` is part of the study."""
    return max(losses(static["scores"], whole["scores"]).values()) > int8_choices.POINTS


def places(model: PreTrainedModel) -> dict[str, list]:
    """Where every linear map of the encoder is: {module: [layer from 0, name of the part]}."""
    names = {module: name for name, module in model.named_modules()}
    return {
        names[linear]: [number, part]
        for number, layer in enumerate(layers(model))
        for part, linear in parts(layer)._asdict().items()
    }


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
        found = int8_choices.calibrated(profile, source, tokenizer, corpora["en"])
        known = found["ranges"]
    elif graph == "without-data":
        rows = ranges.random_rows(tokenizer, number=profile.calibration_sentences, length=RANDOM_LENGTH)
        known = ranges.calibrate(source, rows)
    elif graph in FLOORS:
        found = int8_choices.searched(profile, FLOORS[graph], source, known, tokenizer, corpora, whole["places"])
        skip = found["floor"]["skip"]
        if not skip:  # then it is the static graph
            return static["size"], {**found, "same_as": static["run"]}
    how = {"ranges": known, "skip": skip, "embeddings": graph == "static-embeddings", "provenance": about}
    if known is not None:  # the dynamic graph has one form
        how["format"] = form
    return size_of(quantize.quantize(source, folder, kind=kind, **how)), found


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
    model, history = tune(profile, model, tokenizer, train, dev, seed, checkpoints)
    return size_of(export.export(model, tokenizer, folder, provenance=about)), {"history": history}
