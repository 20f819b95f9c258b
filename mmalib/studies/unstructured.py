"""Unstructured pruning of a tuned baseline: gradually while it trains on English, or at once.

The three stages of the paper: the baseline is the tuned dense model; it is pruned while it trains on; then the sparse
model trains on. All criteria get the same data and the same epochs; their settings (`plan.CHOSEN`) come from trials,
of which all get the same number on the same sentences.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer_to_score
from mmalib.data.subwords import Encoded, encode_split, training_rows
from mmalib.model.backbones import load_model
from mmalib.model.evaluate import score
from mmalib.model.finetune import finetune
from mmalib.plan import Run
from mmalib.prune import gradual, mfac, movement, obs, sparsity
from mmalib.records import store
from mmalib.studies.study import Study
from mmalib.studies.training import english, kept, lesson, recipe_after

APART = 0.1  # sparsity between two mask updates that are measured on the way


def prune(study: Study, run: Run, unfinished: Path) -> dict:
    """Prune a baseline gradually, score it on the way and in the end.

    A taught model also learns from the dense one's label distribution while it is pruned and after. Notebooks 06 and 08
    go on from its end alone, so it is not scored on the way.
    """
    settings = run.settings
    model, tokenizer = study.model(run.needs.get("start", run.needs["base"]))
    train, dev = english(study, tokenizer)
    rows, loss = lesson(study, run, model, train)
    measure = None
    if not loss:
        to_score = fewer_to_score(study.corpora, settings["curve_sentences"])
        measure = partial(score, tokenizer=tokenizer, corpora=to_score, max_length=settings["max_length"])
    model, history, curve = gradually(settings, model, rows, dev, loss=loss, folder=unfinished, measure=measure)
    zeros = {"requested": settings["share"], "measured": sparsity.measured(model)}
    return kept(study, run, model, tokenizer, history, sparsity=zeros, curve=curve)


def one_shot(study: Study, run: Run, unfinished: Path) -> dict:
    """Prune a baseline at once, without training after it, at every point of its settings; a point of a curve each.

    A point of an ablation has a value of its own for the setting that `varies`.
    """
    settings = run.settings
    to_score = fewer_to_score(study.corpora, settings["curve_sentences"])
    dense, tokenizer = study.model(run.needs["base"])
    train = encode_split(study.corpora["en"]["train"], tokenizer, settings["max_length"])
    rows, weighed = training_rows(train, dense.config.label2id), None
    for share, pattern, *value in settings["points"][len(store.points(unfinished)) :]:
        model, own = copy.deepcopy(dense), settings | ({settings["varies"]: value[0]} if value else {})
        steps = own.get("steps", 1)
        if own != weighed:  # points that differ in what goes alone share one inverse Fisher
            weighed, worth = own, criterion(own, dense, tokenizer, rows, anew=steps > 1)
        sparsity.one_shot_(model, worth, share, pattern, steps=steps)
        point = {"share": share, "pattern": pattern, "sparsity": sparsity.measured(model)}
        point |= {"value": value[0]} if value else {}
        scores = score(model, tokenizer, to_score, max_length=settings["max_length"])
        store.add_point(unfinished, {**point, "scores": scores})
    return {"curve": store.points(unfinished)}


def attempt(study: Study, run: Run, unfinished: Path) -> dict:
    """One trial of one criterion: a short pruning whose English dev F1 is all that is looked at."""
    settings = run.settings
    model, tokenizer = study.model(run.needs["base"])
    if settings.get("start") == "pretrained":
        model = load_model(settings["backbone"], seed=settings["seed"])
    train, dev = english(study, tokenizer, settings["trial_sentences"], settings["trial_dev_sentences"])
    _, history, _ = gradually(settings, model, training_rows(train, model.config.label2id), dev, folder=unfinished)
    best = {"f1": max(history["dev_f1"][math.floor(settings["pruning_epochs"]) :])}  # of the epochs at full sparsity
    return {"scores": {"en": {"dev": best}}, "history": history}


def gradually(
    settings: dict,
    model: PreTrainedModel,
    rows: list[dict],
    dev: Encoded,
    *,
    folder: Path,
    loss: Callable | None = None,
    measure: Callable[[PreTrainedModel], dict] | None = None,
) -> tuple[PreTrainedModel, dict, list[dict]]:
    """The pruned model, its history, and the points on the way."""
    pruned_by = settings["pruning_epochs"]
    steps = int(math.ceil(len(rows) / settings["batch_size"]) * pruned_by)
    if not steps:
        raise ValueError(f"{len(rows)} training rows are no step in {pruned_by} epochs: give more, or longer pruning.")
    begin = settings.get("begin", 0.0) * pruned_by
    number = settings["updates"] or steps // settings["every"]
    if settings["method"] == "movement":  # before the first update, something must have moved
        begin = max(begin, pruned_by / steps)
    number = max(2, min(number, int(steps * (1 - begin / pruned_by))))  # one update a step at most
    updates = gradual.schedule(settings["schedule"], begin, pruned_by, settings["initial"], settings["share"], number)
    worth = criterion(settings, model, dev.tokenizer, rows)
    callback = gradual.Pruning(worth, updates, pattern=settings["pattern"], score=measure, apart=APART)
    rate, stretches = settings["rate"] * settings["rate_after"], settings["stretches"]
    rewinds = [pruned_by * stretch / stretches for stretch in range(1, stretches + 1)]
    rates = {"rewinds": rewinds, "end_rate": settings["end_rate"] * rate}
    if settings["cycles"] > 1:  # the first paper's cyclic rate
        rates = {"cycles": settings["cycles"]}
    if "warm_up" in settings:
        rates["warm_up"] = settings["warm_up"]
    if settings.get("start") == "pretrained":
        rates["head_rate"] = settings["head_rate"]
    epochs = pruned_by + settings["sparse_epochs"]
    recipe = recipe_after(settings, epochs, rate=settings["rate"], choose_after=pruned_by, **rates)
    how = {"folder": folder, "seed": settings["seed"], "loss": loss, "callbacks": [callback]}
    model, history = finetune(model, rows, dev, recipe, **how)
    return model, history, callback.points


def criterion(
    settings: dict, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[dict], anew: bool = True
) -> sparsity.Criterion:
    """What a weight is worth by a run's settings; `anew` as in `obs.by_loss`."""
    if settings["method"] == "random":
        return sparsity.at_random(settings["seed"])
    if settings["method"] == "magnitude":
        return sparsity.by_magnitude()
    if settings["method"] == "movement":
        start = settings.get("score_start", 0.0)
        return movement.criterion(settings["score_rate"], start=start, per_matrix=settings["per_matrix"])
    names = {"damp": "damp", "num_grads": "fisher_gradients", "batch_size": "fisher_batch"}
    how = {name: settings[key] for name, key in names.items()}
    if settings["method"] == "matrix-free":
        return mfac.criterion(rows, tokenizer, **how)
    size = settings["fisher_block"]
    obs.check(model, settings.get("pattern", "1"), block_size=size)  # before anything is trained
    return obs.criterion(rows, tokenizer, block_size=size, anew=anew, **how)
