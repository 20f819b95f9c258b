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
from mmalib.profiles import Profile

QAT_RATE = 0.25  # of the profile's rate after tuning: the baseline is tuned already


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
    model, history = tune(profile, model, tokenizer, train, dev, seed, checkpoints, loss=loss, callbacks=every)
    predicted = predict_tags(model, tokenizer, dev["words"], max_length=profile.max_length)
    learnt = qat.ranges(model)
    qat.remove_(model)
    source = checkpoints / "float"
    export.export(model, tokenizer, source)
    given = quantize.tensor_ranges(source, learnt)
    how = {"ranges": given, "format": format, "embeddings": embeddings, "provenance": about}
    size = size_of(quantize.quantize(source, folder, kind="qat", **how))
    in_graph = export.predict_tags(export.session(folder), tokenizer, dev["words"], profile.max_length)
    agreement = np.mean(np.concatenate(predicted) == np.concatenate(in_graph))
    return size, {"history": history, "ranges": given, "agreement": float(agreement)}


def tune(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Dataset | list[dict],
    dev: Dataset,
    seed: int,
    checkpoints: Path,
    **how,
) -> tuple[PreTrainedModel, dict]:
    """The short fine-tune itself, with or without fake quantization."""
    return finetune(
        model,
        tokenizer,
        train,
        dev,
        folder=checkpoints,
        seed=seed,
        epochs=profile.qat_epochs,
        batch_size=profile.batch_size,
        learning_rate=QAT_RATE * profile.rate_after,
        max_length=profile.max_length,
        frozen=profile.frozen_after,
        choose_after=profile.qat_epochs / 2,  # before that, the ranges still move
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
