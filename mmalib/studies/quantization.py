"""Int8 graphs of a tuned baseline, every one scored itself in ONNX Runtime.

A run makes one graph (`plan.GRAPHS`), keeps its folder and scores it on all languages:

    float             the baseline as it is: what all others are compared with, in the same runtime
    dynamic, static, without-data    the three kinds that train nothing
    qat, qat-taught   the baseline trained on for a moment under fake quantization; ranges are frozen half-way
    longer            the same training without fake quantization: what `qat` owes to the training alone
    ...-qoperator     the form of the graph that DeepSparse runs fast; qat learns anew for it, it rounds more
    static-embeddings the table of word embeddings in a byte each as well: it only weighs on the disk
    floor, floor-all  static, with the maps left in float that hold a floor under every language; `floor` looks at
                      English dev alone, the zero-shot setting, `floor-all` at the dev sets of all languages, and only
                      where the static graph breaks the floor in one of them

All that is chosen is chosen on English dev (but in `floor-all`): the calibration method among the profile's, by F1 and
then by the drift of the labels' distributions from the float graph's. The training of `qat` is not tuned at all;
notebook 06 trains so (`learn`) what is pruned or taught before.
"""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import LABELS
from mmalib.data.corpus import fewer, fewer_to_score
from mmalib.data.subwords import Encoded, encode_split, run_of, tags, word_logits
from mmalib.graph import export, floor, qat, ranges
from mmalib.graph import quantize as int8
from mmalib.model import disk
from mmalib.model.backbones import Parts, layers, linears
from mmalib.model.evaluate import changed_words, scored
from mmalib.model.finetune import finetune
from mmalib.plan import FLOOR_MAPS, FLOOR_POINTS, FLOORS, HALVED, RANDOM_LENGTH, TRAINED_GRAPHS, Run
from mmalib.prune import gradual, sparsity
from mmalib.studies.study import Study
from mmalib.studies.training import english, lesson, recipe_after


def quantize(study: Study, run: Run, unfinished: Path) -> dict:
    """Make one graph and score it."""
    settings, name = run.settings, run.settings["graph"]
    folder = study.folder(run.name)
    if name == "float":
        model, tokenizer = study.model(run.needs["base"])
        size = size_of(export.export(model, tokenizer, folder, provenance=study.about(run)))
        facts = {"places": places(model)}
    elif name in TRAINED_GRAPHS:
        model, tokenizer = study.model(run.needs["base"])
        train, dev = english(study, tokenizer, settings["qat_sentences"], settings["int8_sentences"])
        size, facts = learn(study, run, model, train, dev, unfinished)
    else:
        size, facts = _from_graph(study, run, folder)
    if "same_as" in facts:
        scores = study.make(facts["same_as"])["scores"]
    else:
        to_score = fewer_to_score(study.corpora, settings["int8_sentences"])
        scores = scored(export.tagger(folder, settings["max_length"]), to_score)
    if name in FLOORS:
        lost = losses(scores, study.make(run.needs["float"])["scores"])
        facts["floor"] |= {"lost_on_dev": lost, "met_everywhere": max(lost.values()) <= FLOOR_POINTS}
    print(f"{run.name}: {size['megabytes']:.1f} MB", flush=True)
    return {"scores": scores, "size": size, "sparsity": {"requested": 0.0, "measured": size["sparsity"]}, **facts}


def learn(
    study: Study, run: Run, model: PreTrainedModel, train: Encoded, dev: Encoded, unfinished: Path
) -> tuple[dict, dict]:
    """Train a tuned model on, under fake quantization where it shall be int8, and write its graph; size, and facts.

    The zeros of a model that starts with a share of them are held.
    """
    settings, folder, about = run.settings, study.folder(run.name), study.about(run)
    rows, loss = lesson(study, run, model, train)
    callbacks = [gradual.Hold(sparsity.masks_of(model))] if settings.get("start", {}).get("share") else []
    fake = settings.get("int8") != "float"
    if fake:
        qat.prepare_(model, format=settings["format"])
        callbacks.append(qat.FreezeRanges())
    epochs = settings["qat_epochs"]
    recipe = recipe_after(settings, epochs, rate=settings["qat_rate"], choose_after=epochs / 2)  # then ranges are fixed
    how = {"folder": unfinished, "seed": settings["seed"], "loss": loss, "callbacks": callbacks}
    model, history = finetune(model, rows, dev, recipe, **how)
    if not fake:
        return size_of(export.export(model, dev.tokenizer, folder, provenance=about)), {"history": history}
    predicted, learnt, source = tags(word_logits(run_of(model), dev), LABELS), qat.ranges(model), unfinished / "float"
    qat.remove_(model)
    export.export(model, dev.tokenizer, source)
    given = int8.tensor_ranges(source, learnt)
    embeddings = settings.get("embeddings", settings.get("combination") in HALVED)
    how = {"ranges": given, "format": settings["format"], "embeddings": embeddings, "provenance": about}
    size = size_of(int8.quantize(source, folder, kind="qat", **how))
    in_graph = tags(word_logits(export.session(folder), dev), LABELS)
    agreement = np.mean(np.concatenate(predicted) == np.concatenate(in_graph))
    return size, {"history": history, "ranges": given, "agreement": float(agreement)}


def size_of(about: dict) -> dict:
    """What a folder's mmalib.json says of size and zeros, float or int8."""
    size = {"megabytes": about["megabytes"], "megabytes_float": about["megabytes"], "quantized": 0}
    size |= {"sparsity": about["sparsity"], "sparsity_int8": None}
    return size | {key: value for key, value in about.get("quantization", {}).items() if key in size}


def compare(study: Study, run: Run, unfinished: Path) -> dict:
    """Tag the test sets with every graph, and tell where each differs from the float one, word by word."""
    settings, predicted, changed = run.settings, {}, {}
    tests = {name: fewer(splits["test"], settings["int8_sentences"]) for name, splits in study.corpora.items()}
    for graph in settings["graphs"]:
        predict = export.tagger(study.graph(run.needs[graph]), settings["max_length"])
        predicted[graph] = {name: predict(test["words"]) for name, test in tests.items()}
    before = predicted.pop("float")
    for graph, after in predicted.items():
        changed[graph] = {
            name: changed_words(list(test["words"]), list(test["tags"]), before[name], after[name])
            for name, test in tests.items()
        }
    return {"changed": changed}


def losses(scores: dict, base: dict) -> dict[str, float]:
    """Points of dev F1 that every language loses against the base's scores."""
    return {language: 100 * (base[language]["dev"]["f1"] - scores[language]["dev"]["f1"]) for language in base}


def places(model: PreTrainedModel) -> dict[str, list]:
    """Where every linear map of the encoder is: {module: [layer from 0, name of the part]}."""
    where = product(range(len(layers(model))), Parts._fields)
    return {name: list(place) for name, place in zip(linears(model), where, strict=True)}


def _from_graph(study: Study, run: Run, folder: Path) -> tuple[dict, dict]:
    """An int8 graph made from the float one without training; its size, and further facts."""
    settings, name = run.settings, run.settings["graph"]
    source, dense = study.folder(run.needs["float"]), study.make(run.needs["float"])
    tokenizer = disk.tokenizer_in(source)
    static = study.make(run.needs["static"]) if "static" in run.needs else None
    known, skip, facts = static["ranges"] if static else None, [], {}
    if name == "static":
        english_text = english(study, tokenizer, settings["calibration_sentences"], settings["int8_sentences"])
        facts = calibrated(settings, source, *english_text)
        known = facts["ranges"]
    elif name == "without-data":
        rows = ranges.random_rows(tokenizer, number=settings["calibration_sentences"], length=RANDOM_LENGTH)
        known = ranges.calibrate(source, rows)
    elif name in FLOORS:
        needed = name == "floor" or max(losses(static["scores"], dense["scores"]).values()) > FLOOR_POINTS
        facts = {"floor": {"skip": [], "languages": FLOORS[name], "measured": 0, "met": True}}
        if needed:
            graph = study.graph(run.needs["static"])
            facts = searched(settings, source, graph, tokenizer, study.corpora, dense["places"])
        skip = facts["floor"]["skip"]
        if not skip:  # then it is the static graph
            return static["size"], {**facts, "same_as": static["run"]}
    how = {"ranges": known, "skip": skip, "embeddings": name == "static-embeddings", "provenance": study.about(run)}
    return size_of(int8.quantize(source, folder, kind=settings["int8"], format=settings["format"], **how)), facts


def calibrated(settings: dict, source: Path, train: Encoded, dev: Encoded) -> dict[str, dict]:
    """The ranges of the method that is best on English dev, and what every method came to."""
    rows, tried = [window.ids for window in train.windows], {}
    by_method = {name: ranges.calibrate(source, rows, method=name) for name in settings["calibration_methods"]}
    measure, _ = floor.measure_with(
        lambda folder, name: int8.quantize(source, folder, kind="static", ranges=by_method[name]), source, {"en": dev}
    )
    for method in by_method:
        f1, drift = measure(method)
        tried[method] = {"f1": f1["en"], "drift": drift}
    chosen = max(tried, key=lambda method: (tried[method]["f1"], -tried[method]["drift"]))
    return {"ranges": by_method[chosen], "calibration": {"chosen": chosen, "tried": tried}}


def searched(
    settings: dict, source: Path, whole: Path, tokenizer: PreTrainedTokenizerFast, corpora: dict, where: dict
) -> dict:
    """The maps to leave in float; and, on English, how far from the float graph each of them in int8 alone leads.

    `source` is the float graph, `whole` the one with every map in int8.
    """
    languages = settings["floor_languages"]
    # Only the languages that the search looks at are run: the others are measured in the end, on the graph found.
    splits = {language: fewer(corpora[language]["dev"], settings["floor_sentences"]) for language in languages}
    dev = {language: encode_split(split, tokenizer, settings["max_length"]) for language, split in splits.items()}
    measure, base = floor.measure_with(partial(int8.in_float_again, source, whole), source, dev)
    names = scanned(where, settings["floor_layers"])
    result = floor.hold_floor(measure, names, base, points=FLOOR_POINTS, most=FLOOR_MAPS)
    if len(languages) > 1:
        return {"floor": result}
    # For the picture, one map alone is int8: the errors of several partly cancel, so leaving one out tells less.
    alone = {name: measure(frozenset(where) - {name})[1] for name in names}
    rows = [{"map": name, "layer": where[name][0], "part": where[name][1], "drift": alone[name]} for name in names]
    return {"floor": result, "sensitivity": rows}


def scanned(where: dict[str, list], number: int | None) -> list[str]:
    """The maps of `number` layers, evenly from the first to the last; of all layers, if it is None."""
    there = sorted({layer for layer, _ in where.values()})
    if number is not None and number < len(there):
        there = [there[round(place)] for place in np.linspace(0, len(there) - 1, number)]
    return [name for name, (layer, _) in where.items() if layer in there]
