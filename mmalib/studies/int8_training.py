"""How int8 is learnt: a tuned model, trained on under fake quantization, becomes a graph with the ranges it learnt.

Notebook 05 trains the baseline so, notebook 06 what is pruned or taught before. The training is not tuned at all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from mmalib.data.subwords import predict_tags
from mmalib.graph import export, qat, quantize
from mmalib.model.finetune import finetune


def learn(
    settings: dict,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset | list[dict],
    dev: Dataset,
    folder: Path,
    *,
    unfinished: Path,
    about: dict,
    embeddings: bool = False,
    loss: Callable | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[dict, dict]:
    """Train a tuned model on under fake quantization and write its int8 graph; size, and what the record tells.

    `train`, `loss` and `callbacks` are those of `finetune`.
    """
    qat.prepare_(model, format=settings["format"])
    every = [*callbacks, qat.FreezeRanges()]
    model, history = tune(settings, model, tokenizer, train, dev, unfinished, loss=loss, callbacks=every)
    predicted = predict_tags(model, tokenizer, dev["words"], max_length=settings["max_length"])
    learnt = qat.ranges(model)
    qat.remove_(model)
    source = unfinished / "float"
    export.export(model, tokenizer, source)
    given = quantize.tensor_ranges(source, learnt)
    how = {"ranges": given, "format": settings["format"], "embeddings": embeddings, "provenance": about}
    size = size_of(quantize.quantize(source, folder, kind="qat", **how))
    in_graph = export.predict_tags(export.session(folder), tokenizer, dev["words"], settings["max_length"])
    agreement = np.mean(np.concatenate(predicted) == np.concatenate(in_graph))
    return size, {"history": history, "ranges": given, "agreement": float(agreement)}


def tune(
    settings: dict,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset | list[dict],
    dev: Dataset,
    unfinished: Path,
    **how,
) -> tuple[PreTrainedModel, dict]:
    """The short fine-tune itself, with or without fake quantization."""
    return finetune(
        model,
        tokenizer,
        train,
        dev,
        folder=unfinished,
        seed=settings["seed"],
        epochs=settings["qat_epochs"],
        batch_size=settings["batch_size"],
        learning_rate=settings["qat_rate"] * settings["rate_after"],
        max_length=settings["max_length"],
        frozen=settings["frozen_after"],
        choose_after=settings["qat_epochs"] / 2,  # before that, the ranges still move
        **how,
    )


def size_of(about: dict) -> dict:
    """What a folder's mmalib.json says of size and zeros, float or int8."""
    of_int8 = about.get("quantization", {})
    return {
        "megabytes": about["megabytes"],
        "megabytes_float": of_int8.get("megabytes_float", about["megabytes"]),
        "quantized": of_int8.get("quantized", 0),
        "sparsity": of_int8.get("sparsity", about["sparsity"]),
        "sparsity_int8": of_int8.get("sparsity_int8"),
    }
