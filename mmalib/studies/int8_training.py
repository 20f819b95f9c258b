"""How int8 is learnt: a tuned model, trained on under fake quantization, becomes a graph with the ranges it learnt.

Notebook 05 trains the baseline so, notebook 06 what is pruned or taught before. The training is not tuned at all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from mmalib.data import LABELS
from mmalib.data.subwords import Encoded, run_of, tags, word_logits
from mmalib.graph import export, qat, quantize
from mmalib.model.finetune import finetune
from mmalib.studies.finish import recipe_after


def learn(
    settings: dict,
    model: PreTrainedModel,
    rows: list[dict],
    dev: Encoded,
    folder: Path,
    *,
    unfinished: Path,
    about: dict,
    embeddings: bool = False,
    loss: Callable | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[dict, dict]:
    """Train a tuned model on under fake quantization and write its int8 graph; size, and what the record tells.

    `rows`, `loss` and `callbacks` are those of `finetune`.
    """
    qat.prepare_(model, format=settings["format"])
    every = [*callbacks, qat.FreezeRanges()]
    model, history = tune(settings, model, rows, dev, unfinished, loss=loss, callbacks=every)
    predicted = tags(word_logits(run_of(model), dev), LABELS)
    learnt = qat.ranges(model)
    qat.remove_(model)
    source = unfinished / "float"
    export.export(model, dev.tokenizer, source)
    given = quantize.tensor_ranges(source, learnt)
    how = {"ranges": given, "format": settings["format"], "embeddings": embeddings, "provenance": about}
    size = size_of(quantize.quantize(source, folder, kind="qat", **how))
    in_graph = tags(word_logits(export.session(folder), dev), LABELS)
    agreement = np.mean(np.concatenate(predicted) == np.concatenate(in_graph))
    return size, {"history": history, "ranges": given, "agreement": float(agreement)}


def tune(
    settings: dict, model: PreTrainedModel, rows: list[dict], dev: Encoded, unfinished: Path, **how
) -> tuple[PreTrainedModel, dict]:
    """The short fine-tune itself, with or without fake quantization."""
    epochs = settings["qat_epochs"]
    recipe = recipe_after(settings, epochs, rate=settings["qat_rate"], choose_after=epochs / 2)  # then ranges are fixed
    return finetune(model, rows, dev, recipe, folder=unfinished, seed=settings["seed"], **how)


def size_of(about: dict) -> dict:
    """What a folder's mmalib.json says of size and zeros, float or int8."""
    size = {"megabytes": about["megabytes"], "megabytes_float": about["megabytes"], "quantized": 0}
    size |= {"sparsity": about["sparsity"], "sparsity_int8": None}
    return size | {key: value for key, value in about.get("quantization", {}).items() if key in size}
