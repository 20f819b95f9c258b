"""How the run of every trained model ends: scores, the model in its folder, the record, and no checkpoints left."""

import shutil
import time
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import Corpora
from mmalib.data.subwords import predict_tags
from mmalib.model import disk
from mmalib.model.evaluate import further_scores, scored
from mmalib.profiles import Profile
from mmalib.records import store


def folders(profile: Profile, run: str, runs: Path) -> tuple[Path, Path, Path]:
    """Where a run's record, its model and its checkpoints lie: the folder of records, and two of its own."""
    home = Path(runs) / profile.name
    return store.records_folder(runs, profile.name), home / "models" / run, home / "checkpoints" / run


def done(profile: Profile, run: str, settings: dict, runs: Path) -> dict | None:
    """The record of a run whose model is there as well; records travel with git, models do not."""
    records, model, _ = folders(profile, run, runs)
    record = store.finished(records, run, settings)
    return record if record and model.is_dir() else None


def finish(
    profile: Profile,
    run: str,
    settings: dict,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpora: Corpora,
    *,
    runs: Path,
    history: dict,
    **parts,
) -> dict:
    """Score a trained model on everything, keep it and its record (with `parts`), remove its checkpoints."""
    records, folder, checkpoints = folders(profile, run, runs)
    start = time.monotonic()
    predict = partial(predict_tags, model, tokenizer, max_length=profile.max_length)
    scores, further = scored(predict, corpora), further_scores(predict, corpora.further)
    trained = history.pop("seconds")
    disk.save(model, tokenizer, folder)
    timings = {"train_s": trained, "score_s": time.monotonic() - start}
    store.save(records, run, settings, scores=scores, further=further, history=history, timings=timings, **parts)
    shutil.rmtree(checkpoints)
    return store.finished(records, run, settings)
