"""Unstructured pruning of a tuned baseline: gradually while it trains on English, or at once; from start to record.

The three stages of the paper: the baseline is the tuned dense model; it is pruned while it trains on; then the sparse
model trains on. All criteria get the same data and the same epochs; their settings (`CHOSEN`) come from `trials`.
"""

import copy
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer_to_score
from mmalib.data.subwords import training_rows
from mmalib.model import distill
from mmalib.model.evaluate import score
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.prune import gradual, magnitude, movement, obs, sparsity
from mmalib.records import store
from mmalib.studies import baselines
from mmalib.studies.distillation import TEACHER
from mmalib.studies.finish import done, finish, folders

CRITERIA = ("magnitude", "movement", "obs")
MEASURED = 5  # at most as many of the mask updates are measured on the way, however many there are
AT_ONCE = ("random", "magnitude", "obs")  # movement has nothing to go by without training
ONE_SHOT = ((0.3, "1"), (0.5, "1"), (0.7, "1"), (0.5, "2:4"))  # (sparsity, pattern)

# `rate` is a multiple of the profile's rate after tuning, `initial` the first jump of sparsity; the damping is the
# second-order criterion's alone. Chosen by English dev F1 in `studies.trials`, on the last study's backbone.
START = {"rate": 1.0, "initial": 0.5, "updates_per_epoch": 3.0, "damp": 1e-7}
CHOSEN = {
    "magnitude": START | {"rate": 4.0},
    "movement": START | {"rate": 2.0, "initial": 0.0, "updates_per_epoch": 30.0},  # no trial of it found an entity
    "obs": START | {"rate": 2.0, "updates_per_epoch": 6.0},
}


def run_name(
    criterion: str, share: float, schedule: str, backbone: str, corpus: str, seed: int, *, taught: bool = False
) -> str:
    """The name of a gradually pruned model's run: of its record and of its model's folder."""
    how = f"{schedule}-taught" if taught else schedule
    return f"03-{criterion}-{100 * share:.0f}-{how}-{Path(backbone).name}-{corpus}-seed{seed}"


def one_shot_name(criterion: str, backbone: str, corpus: str, seed: int) -> str:
    """The name of the run that prunes one baseline at once, at several sparsities."""
    return f"03-oneshot-{criterion}-{Path(backbone).name}-{corpus}-seed{seed}"


def planned(profile: Profile) -> list[tuple[str, float, str]]:
    """(criterion, sparsity, schedule) of every gradually pruned model of a study; the linear one is for figure 4."""
    cubic = [(criterion, share, "cubic") for share in profile.sparsities for criterion in CRITERIA]
    return [*cubic, ("obs", max(profile.sparsities), "linear")]


def config(
    profile: Profile,
    criterion: str,
    share: float,
    schedule: str,
    backbone: str,
    corpus: str,
    seed: int,
    *,
    taught: bool = False,
) -> dict:
    """Everything that decides a pruned model's scores."""
    return {
        **baselines.config(profile, backbone, corpus, seed),
        **method_settings(profile, criterion),
        "share": share,
        "schedule": schedule,
        "pattern": "1",
        "pruning_epochs": profile.pruning_epochs,
        "sparse_epochs": profile.sparse_epochs,
        **{name: getattr(profile, name) for name in baselines.AFTER},
        "curve_sentences": _quarter(profile.curve_sentences),
        **(TEACHER if taught else {}),
    }


def prune(
    profile: Profile,
    criterion: str,
    share: float,
    schedule: str,
    backbone: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
    taught: bool = False,
) -> dict:
    """Prune a baseline gradually, score it on the way and in the end, keep model and record; done before → read.

    A `taught` model also learns from the dense one's label distribution while it is pruned and after. Notebook 06 goes
    on from its end alone, so it is not scored on the way.
    """
    run = run_name(criterion, share, schedule, backbone, corpus, seed, taught=taught)
    settings = config(profile, criterion, share, schedule, backbone, corpus, seed, taught=taught)
    if record := done(profile, run, settings, runs):
        return record
    model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    on_the_way = fewer_to_score(corpora, settings["curve_sentences"])
    measure = partial(score, tokenizer=tokenizer, corpora=on_the_way, max_length=profile.max_length)
    english, (*_, checkpoints) = corpora["en"], folders(profile, run, runs)
    model, history, curve = gradually(
        profile,
        model,
        tokenizer,
        english,
        settings,
        folder=checkpoints,
        measure=None if taught else measure,
    )
    found = sparsity.measured(model)
    return finish(
        profile,
        run,
        settings,
        model,
        tokenizer,
        corpora,
        runs=runs,
        history=history,
        sparsity={"requested": share, "measured": found["total"], "layers": found["layers"]},
        curve=curve,
    )


def one_shot(
    profile: Profile,
    criterion: str,
    backbone: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> dict:
    """Prune a baseline at once, without training after it, at every sparsity of `ONE_SHOT`; a point of a curve each."""
    home = Path(runs) / profile.name
    records, run = store.records_folder(runs, profile.name), one_shot_name(criterion, backbone, corpus, seed)
    settings = {
        **baselines.config(profile, backbone, corpus, seed),
        **method_settings(
            profile, criterion, {"damp": CHOSEN.get(criterion, {}).get("damp")}
        ),  # nothing else plays a part
        "one_shot": True,
        "curve_sentences": profile.curve_sentences,
    }
    if record := store.finished(records, run, settings):
        return record
    to_score, unfinished = fewer_to_score(corpora, profile.curve_sentences), home / "checkpoints" / run
    whole, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    weighed = _criterion(profile, whole, tokenizer, corpora["en"], settings)
    for share, pattern in ONE_SHOT[len(store.points(unfinished)) :]:
        model = copy.deepcopy(whole)
        sparsity.one_shot_(model, weighed, share, pattern)
        point = {"share": share, "pattern": pattern, "sparsity": sparsity.measured(model)["total"]}
        scores = score(model, tokenizer, to_score, max_length=profile.max_length)
        store.add_point(unfinished, {**point, "scores": scores})
    store.save(records, run, settings, scores={}, curve=store.points(unfinished))
    shutil.rmtree(unfinished)
    return store.finished(records, run, settings)


def gradually(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    english: DatasetDict,
    settings: dict,
    *,
    folder: Path,
    measure: Callable[[PreTrainedModel], dict] | None,
) -> tuple[PreTrainedModel, dict, list[dict]]:
    """The pruned model, its history, and the points on the way."""
    pruned_by = settings["pruning_epochs"]
    steps = math.ceil(len(english["train"]) / profile.batch_size) * pruned_by
    number = max(2, min(round(settings["updates_per_epoch"] * pruned_by), int(steps)))  # one update a step at most
    begin = pruned_by / number if settings["method"] == "movement" else 0.0  # before that, nothing has moved
    updates = gradual.schedule(settings["schedule"], begin, pruned_by, settings["initial"], settings["share"], number)
    weighed = _criterion(profile, model, tokenizer, english, settings)
    callback = gradual.Pruning(weighed, updates, score=measure, every=math.ceil(number / MEASURED))
    train, loss = english["train"], None
    if "hardness" in settings:
        sentences = list(train["words"])
        told = distill.cached(model, tokenizer, sentences, max_length=profile.max_length, folder=folder.parent)
        how = {"max_length": profile.max_length, **{name: settings[name] for name in TEACHER}}
        train, loss = distill.lesson(model, tokenizer, sentences, list(train["tags"]), told, **how)
    model, history = finetune(
        model,
        tokenizer,
        train,
        english["dev"],
        folder=folder,
        seed=settings["seed"],
        epochs=pruned_by + settings["sparse_epochs"],
        batch_size=profile.batch_size,
        learning_rate=settings["rate"] * profile.rate_after,
        max_length=profile.max_length,
        rewinds=[pruned_by],  # as in the recipes of Kurtic et al.: the sparse stage starts with a high rate again
        choose_after=pruned_by,
        frozen=profile.frozen_after,
        loss=loss,
        callbacks=[callback],
    )
    return model, history, callback.points


def _criterion(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    english: DatasetDict,
    settings: dict,
) -> sparsity.Criterion:
    if settings["method"] == "random":
        return sparsity.at_random(settings["seed"])
    if settings["method"] == "magnitude":
        return magnitude.criterion()
    if settings["method"] == "movement":
        return movement.criterion()
    train, size = english["train"], settings["fisher_block"]
    obs.check(model, settings.get("pattern", "1"), block_size=size)  # before anything is trained
    return obs.criterion(
        training_rows(train["words"], train["tags"], tokenizer, model.config.label2id, profile.max_length),
        tokenizer,
        damp=settings["damp"],
        num_grads=settings["fisher_gradients"],
        batch_size=settings["fisher_batch"],
        block_size=size,
    )


def method_settings(profile: Profile, criterion: str, chosen: dict | None = None) -> dict:
    """What a configuration says of a criterion: what was chosen for it, and for `obs` what its Fisher is made from."""
    names = ("fisher_gradients", "fisher_batch", "fisher_block")
    settings = {"notebook": "03", "method": criterion, **(CHOSEN[criterion] if chosen is None else chosen)}
    if criterion == "obs":
        return settings | {name: getattr(profile, name) for name in names}
    return {name: value for name, value in settings.items() if name != "damp"}


def _quarter(number: int | None) -> int | None:
    """A trajectory is scored before and after most mask updates, which would take longer than the training."""
    return None if number is None else max(1, number // 4)
