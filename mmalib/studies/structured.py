"""Structured pruning of a tuned baseline: a model is made smaller step by step, and scored at every step.

`prune` is one trajectory, from the whole baseline to one head a layer: `heads` removes the least important heads
wherever they are (Michel et al. 2019), `uniform` the same number of heads and the same share of the feed-forward
neurons in every layer (TextPruner). Each step is scored as it is, and again after a short fine-tune on English
("recovered"), which never goes into the next step. `cut_vocabulary` removes the subwords that the corpora do not use.
"""

import copy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer, fewer_to_score
from mmalib.data.subwords import batches, training_rows
from mmalib.model import disk
from mmalib.model.evaluate import score
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.prune import heads, uniform, vocabulary
from mmalib.records import store
from mmalib.studies import baselines

METHODS = ("heads", "uniform")
KEPT_SHARES = (0.25, 0.5, 0.75)  # of the heads removed: these models are kept, recovered
BATCH = 16  # sentences at once while importance is measured


def run_name(method: str, backbone: str, corpus: str, seed: int) -> str:
    """The name of a trajectory's record, or of the run that cuts the vocabulary."""
    return f"02-{method}-{Path(backbone).name}-{corpus}-seed{seed}"


def config(profile: Profile, method: str, backbone: str, corpus: str, seed: int) -> dict:
    """Everything that decides a trajectory's scores."""
    names = ("curve_sentences", "head_share", "importance_sentences", "recovery_sentences")
    return {
        **baselines.config(profile, backbone, corpus, seed),
        "notebook": "02",
        "method": method,
        "importance_batch": BATCH,
        **{name: getattr(profile, name) for name in baselines.AFTER},
        **{name: getattr(profile, name) for name in names},
    }


def prune(
    profile: Profile,
    method: str,
    backbone: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> dict:
    """One trajectory: its record holds a curve with two points a step, pruned and recovered; done before → read."""
    home = Path(runs) / profile.name
    records, run = store.records_folder(runs, profile.name), run_name(method, backbone, corpus, seed)
    settings = config(profile, method, backbone, corpus, seed)
    if record := store.finished(records, run, settings):
        return record
    start = time.monotonic()
    model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    fewer_corpora = fewer_to_score(corpora, profile.curve_sentences)
    measured_on = _measured_on(profile, model, tokenizer, corpora["en"])
    unfinished = home / "checkpoints" / run
    there = store.points(unfinished)
    for step, share in enumerate(_shrinking_(model, method, measured_on, profile.head_share)):
        for recovered in (False, True):
            if len(there) > 2 * step + recovered:  # put away before a kill
                continue
            scored = model
            if recovered:
                scored = _recover(profile, model, tokenizer, corpora, seed=seed, folder=unfinished / "recovery")
                if round(share, 9) in KEPT_SHARES:
                    disk.save(scored, tokenizer, home / "models" / f"{run}-{100 * share:.0f}")
            scores = score(scored, tokenizer, fewer_corpora, max_length=profile.max_length)
            store.add_point(unfinished, {**_point(model, step, share), "recovered": recovered, "scores": scores})
        print(f"{run}: {share:.0%} of the heads removed", flush=True)
    store.save(
        records,
        run,
        settings,
        scores={},
        curve=store.points(unfinished),
        timings={"seconds_since_last_start": time.monotonic() - start},
    )
    shutil.rmtree(unfinished)
    return store.finished(records, run, settings)


def kept(
    profile: Profile,
    method: str,
    share: float,
    backbone: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> Path:
    """The folder of the recovered model at one of `KEPT_SHARES`; pruned again where `prune` has not left it here."""
    run = run_name(method, backbone, corpus, seed)
    folder = Path(runs) / profile.name / "models" / f"{run}-{100 * share:.0f}"
    if folder.is_dir():
        return folder
    model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    for gone in _shrinking_(model, method, _measured_on(profile, model, tokenizer, corpora["en"]), profile.head_share):
        if round(gone, 9) == share:
            recovery = folder.parents[1] / "checkpoints" / f"{folder.name}-again"
            disk.save(_recover(profile, model, tokenizer, corpora, seed=seed, folder=recovery), tokenizer, folder)
            return folder
    raise ValueError(f"No step of {run} leaves {1 - share:.0%} of the heads. Choose a head_share that does.")


def cut_vocabulary(
    profile: Profile, backbone: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> dict:
    """Keep the subwords that the training texts of all three languages use; score before and after on everything.

    The texts' labels are not looked at. Dev and test play no part in the choice.
    """
    home = Path(runs) / profile.name
    records, run = store.records_folder(runs, profile.name), run_name("vocabulary", backbone, corpus, seed)
    settings = {**baselines.config(profile, backbone, corpus, seed), "notebook": "02", "method": "vocabulary"}
    if record := store.finished(records, run, settings):
        return record
    model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    whole, cut = (home / "models" / name for name in (baselines.run_name(backbone, corpus, seed), run))
    before = {**_size(model), "megabytes": disk.size_mb(whole)}
    tokenizer = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, training_texts(corpora)))
    scores = score(model, tokenizer, corpora, max_length=profile.max_length)
    disk.save(model, tokenizer, cut)
    after = {**_size(model), "megabytes": disk.size_mb(cut)}
    store.save(records, run, settings, scores=scores, before=before, after=after)
    return store.finished(records, run, settings)


def training_texts(corpora: dict[str, DatasetDict]) -> list[list[str]]:
    """The sentences of all languages' training sets, without their labels."""
    return [words for splits in corpora.values() for words in splits["train"]["words"]]


def _measured_on(
    profile: Profile, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, english: DatasetDict
) -> list[dict]:
    """The batches of English training sentences that importance is measured on."""
    sentences = fewer(english["train"], profile.importance_sentences)
    rows = training_rows(sentences["words"], sentences["tags"], tokenizer, model.config.label2id, profile.max_length)
    return batches(rows, tokenizer, BATCH)


def _shrinking_(model: PreTrainedModel, method: str, measured_on: list[dict], share: float) -> Iterator[float]:
    """Make the model smaller in place, step by step; yields the share of heads that is gone, first 0."""
    whole = sum(map(len, disk.heads_left(model)))
    steps = {"heads": _fewer_heads_, "uniform": _uniformly_smaller_}[method]
    yield 0.0
    for _ in steps(model, measured_on, share):
        yield 1 - sum(map(len, disk.heads_left(model))) / whole


def _fewer_heads_(model: PreTrainedModel, measured_on: list[dict], share: float) -> Iterator[None]:
    for removed in heads.plan(model, measured_on, share):
        left = disk.heads_left(model)
        new = {layer: [head for head in gone if head in left[layer]] for layer, gone in removed.items()}
        heads.remove_heads_(model, {layer: gone for layer, gone in new.items() if gone})
        yield


def _uniformly_smaller_(model: PreTrainedModel, measured_on: list[dict], share: float) -> Iterator[None]:
    number, width = model.config.num_attention_heads, disk.neurons_left(model)[0]
    for heads_kept, neurons_kept in uniform.plan(number, width, share):
        uniform.shrink_(model, measured_on, heads_kept, neurons_kept)
        yield


def _recover(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpora: dict[str, DatasetDict],
    *,
    seed: int,
    folder: Path,
) -> PreTrainedModel:
    """A copy of the model after one pass over a few English sentences; the model itself stays as it is."""
    english = corpora["en"]
    tuned, _ = finetune(
        copy.deepcopy(model),
        tokenizer,
        fewer(english["train"], profile.recovery_sentences),
        fewer(english["dev"], profile.curve_sentences),
        folder=folder,
        seed=seed,
        epochs=1,
        batch_size=profile.batch_size,
        learning_rate=profile.rate_after,
        max_length=profile.max_length,
        frozen=profile.frozen_after,
    )
    shutil.rmtree(folder)
    return tuned


def _point(model: PreTrainedModel, step: int, share: float) -> dict:
    left = disk.heads_left(model)
    return {"step": step, "share": share, "heads_left": left, **_size(model)}


def _size(model: PreTrainedModel) -> dict:
    """Parameters in all and in the embeddings, and what they take on disk as float32."""
    parameters = sum(p.numel() for p in model.parameters())
    embedding = sum(p.numel() for p in model.base_model.embeddings.parameters())
    return {"parameters": parameters, "embedding_parameters": embedding, "megabytes": 4 * parameters / 1e6}
