"""Compound compression (Kurtic et al. 2022, The Optimal BERT Surgeon): layers dropped, blocks pruned, int8 on top.

    layers          a tuned baseline that has lost layers (`prune.layers`), tuned again with its whole self as teacher
    compound        such a model, or the whole one, pruned by second order with that teacher, singly or in blocks of
                    four (`unstructured.prune`), also by their recipes as they are printed
    compound int8   the same trained on under fake quantization, zeros held, the teacher still there; embeddings are
                    int8 as well. It leaves the graph in both forms, since no runtime runs both fast
    compound speed  what such a model weighs, and its speed beside the dense baseline in every runtime
    held            half of every four weights gone at once, and an epoch with masks held after it

F1 is that of the model in PyTorch, of int8 that of the graph in ONNX Runtime, and in the record of its speed that of
every other runtime.
"""

from pathlib import Path

from mmalib import runtimes
from mmalib.data.corpus import fewer_to_score
from mmalib.data.subwords import encode_split, training_rows
from mmalib.graph import quantize as int8
from mmalib.model import disk
from mmalib.model.evaluate import score
from mmalib.plan import Run
from mmalib.prune import layers, sparsity
from mmalib.records import store
from mmalib.studies import combined, speed, structured, unstructured
from mmalib.studies.study import Study
from mmalib.studies.training import recipe_after, tuned


def drop(study: Study, run: Run, unfinished: Path) -> dict:
    """Drop layers of a baseline, score what is left as it is, tune it with the teacher, keep and score it."""
    settings = run.settings
    model, tokenizer = study.model(run.needs["base"])
    depth, losses = len(layers.layers(model)), []
    if settings["choice"] == "loss":
        losses = layers.losses_without(model, structured.measured_on(study, settings, model, tokenizer))
    stay = layers.choose(depth, settings["layers"], settings["choice"], losses)
    model = layers.without(model, stay)
    to_score = fewer_to_score(study.corpora, settings["curve_sentences"])
    at_once = score(model, tokenizer, to_score, max_length=settings["max_length"])
    recipe = recipe_after(settings, settings["distil_epochs"])
    parts = {"stay": stay, "losses_without": losses, "at_once": at_once}
    return tuned(study, run, model, tokenizer, recipe, unfinished) | parts


def quantize(study: Study, run: Run, unfinished: Path) -> dict:
    """The int8 graph that `combined.combine` leaves, and the same in the form of the open runtimes."""
    parts = combined.combine(study, run, unfinished)
    how = {"ranges": parts["ranges"], "format": "qdq", "embeddings": True, "provenance": study.about(run)}
    int8.quantize(unfinished / "float", study.folder(run.leaves[1]), kind="qat", **how)
    return parts


def measure(study: Study, run: Run, unfinished: Path) -> dict:
    """Size and speeds of every form of a model, in turns with dense float32 XLM-R base; F1 of int8 in each runtime."""
    settings, model = run.settings, study.plan[run.needs["model"]]
    base, rows, sizes, f1_in = speed.dense_graph(study), [], {}, {}
    for leaf, names in zip(model.leaves, settings["runtimes"], strict=True):
        graph = speed.exported(study.folder(leaf), unfinished)
        timed = speed.measured(settings, {settings["model"]: graph}, names, base) if names else []
        rows += [row | {"folder": leaf} for row in timed]
        about = store.read_json(graph / disk.PROVENANCE)
        sizes[leaf] = speed.sizes(graph) | {"weights_left": round(about["encoder_weights"] * (1 - about["sparsity"]))}
        if "int8" in settings["form"]:
            others = [name for name in names if runtimes.numbers(name) not in f1_in]  # the sparse form's F1 stays
            f1_in |= speed.scored(study, others, settings["scored_sentences"], graph)
    return {"throughput": rows, "sizes": sizes, "f1_in": f1_in}


def hold(study: Study, run: Run, unfinished: Path) -> dict:
    """Prune a baseline at once, then train it with masks held and its dense self as teacher."""
    settings = run.settings
    model, tokenizer = study.model(run.needs["base"])
    train = encode_split(study.corpora["en"]["train"], tokenizer, settings["max_length"])
    worth = unstructured.criterion(settings, model, tokenizer, training_rows(train, model.config.label2id))
    sparsity.one_shot_(model, worth, settings["share"], settings["pattern"])
    at_once = score(model, tokenizer, study.corpora, max_length=settings["max_length"])
    recipe = recipe_after(settings, settings["held_epochs"])
    return tuned(study, run, model, tokenizer, recipe, unfinished) | {"at_once": at_once}
