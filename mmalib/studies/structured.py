"""Structured pruning of a tuned baseline: a model is made smaller step by step, and scored at every step.

`shrink` is one trajectory, from the dense baseline to one head a layer: `heads` removes the least important heads
wherever they are (Michel et al. 2019), `uniform` the same number of heads and the same share of the feed-forward
neurons in every layer (TextPruner). Each step is scored as it is, and again after a short fine-tune on English
("recovered"), which never goes into the next step. `cut_vocabulary` removes the subwords that the corpora do not use.
"""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer, fewer_to_score
from mmalib.data.subwords import batches, encode_split, training_rows
from mmalib.model import disk
from mmalib.model.evaluate import score
from mmalib.model.finetune import finetune
from mmalib.plan import IMPORTANCE_BATCH, KEPT_SHARES, Run, kept_leaf
from mmalib.prune import heads, uniform, vocabulary
from mmalib.records import store
from mmalib.studies.study import Study
from mmalib.studies.training import english, recipe_after


def shrink(study: Study, run: Run, unfinished: Path) -> dict:
    """One trajectory: a curve with two points a step, pruned and recovered; three of the models are kept."""
    settings = run.settings
    model, tokenizer = study.model(run.needs["base"])
    to_score = fewer_to_score(study.corpora, settings["curve_sentences"])
    weighed_on = measured_on(study, settings, model, tokenizer)
    train, dev = english(study, tokenizer, settings["recovery_sentences"], settings["curve_sentences"])
    recovery, points = training_rows(train, model.config.label2id), store.points(unfinished)
    for step, share in enumerate(_shrinking_(model, settings["method"], weighed_on, settings["head_share"])):
        for recovered in (False, True):
            if len(points) > 2 * step + recovered:  # put away before a kill
                continue
            scored = model
            if recovered:
                copied, how = copy.deepcopy(model), {"folder": unfinished / "recovery", "seed": settings["seed"]}
                scored, _ = finetune(copied, recovery, dev, recipe_after(settings, 1), **how)
                shutil.rmtree(unfinished / "recovery")
                if round(share, 9) in KEPT_SHARES:
                    disk.save(scored, tokenizer, study.folder(kept_leaf(run.name, share)), about=study.about(run))
            scores = score(scored, tokenizer, to_score, max_length=settings["max_length"])
            point = {"step": step, "share": share, "heads_left": disk.heads_left(model), **_size(model)}
            store.add_point(unfinished, {**point, "recovered": recovered, "scores": scores})
        print(f"{run.name}: {share:.0%} of the heads removed", flush=True)
    curve = store.points(unfinished)
    reached = {kept_leaf(run.name, point["share"]) for point in curve if round(point["share"], 9) in KEPT_SHARES}
    return {"curve": curve, "leaves": sorted(reached)}


def cut_vocabulary(study: Study, run: Run, unfinished: Path) -> dict:
    """Keep the subwords that the training texts of all three languages use; score before and after on everything.

    The texts' labels are not looked at. Dev and test play no part in the choice.
    """
    model, tokenizer = study.model(run.needs["base"])
    before = {**_size(model), "megabytes": disk.size_mb(study.folder(run.needs["base"]))}
    tokenizer = without_unused_(study, model, tokenizer)
    scores = score(model, tokenizer, study.corpora, max_length=run.settings["max_length"])
    disk.save(model, tokenizer, study.folder(run.name), about=study.about(run))
    after = {**_size(model), "megabytes": disk.size_mb(study.folder(run.name))}
    return {"scores": scores, "before": before, "after": after}


def measured_on(study: Study, settings: dict, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    """The batches of English that importance is measured on."""
    weighed_on = fewer(study.corpora["en"]["train"], settings["importance_sentences"])
    rows = training_rows(encode_split(weighed_on, tokenizer, settings["max_length"]), model.config.label2id)
    return batches(rows, tokenizer, IMPORTANCE_BATCH)


def without_unused_(
    study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    """Take the subwords out of a model that no language's training text uses; the tokenizer that is left."""
    texts = [words for splits in study.corpora.values() for words in splits["train"]["words"]]
    return vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, texts))


def _shrinking_(model: PreTrainedModel, method: str, measured_on: list[dict], share: float) -> Iterator[float]:
    """Make the model smaller in place, step by step; yields the share of heads that is gone, first 0."""
    number = sum(map(len, disk.heads_left(model)))
    yield 0.0
    if method == "heads":
        for removed in heads.plan(model, measured_on, share):
            left = disk.heads_left(model)
            heads.remove_heads_(model, {layer: set(gone) & set(left[layer]) for layer, gone in removed.items()})
            yield 1 - sum(map(len, disk.heads_left(model))) / number
    else:
        for kept in uniform.plan(model.config.num_attention_heads, disk.neurons_left(model)[0], share):
            uniform.shrink_(model, measured_on, *kept)
            yield 1 - sum(map(len, disk.heads_left(model))) / number


def _size(model: PreTrainedModel) -> dict:
    """Parameters in all and in the embeddings, and what they take on disk as float32."""
    parameters = model.num_parameters()
    embedding = sum(p.numel() for p in model.base_model.embeddings.parameters())
    return {"parameters": parameters, "embedding_parameters": embedding, "megabytes": 4 * parameters / 1e6}
