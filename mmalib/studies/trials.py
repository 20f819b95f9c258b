"""The settings of the pruning criteria: what was tried for each, by English dev F1 alone.

All criteria get the same number of trials on the same sentences; what came out best is `unstructured.CHOSEN`.
"""

import shutil
from pathlib import Path

from datasets import DatasetDict

from mmalib.data.corpus import fewer
from mmalib.profiles import Profile
from mmalib.records import store
from mmalib.studies import baselines, unstructured
from mmalib.studies.unstructured import START

# Six settings for every criterion, the first three the same for all.
FASTER, SLOWER = START | {"rate": 2.0}, START | {"rate": 0.5}
TRIALS = {
    "magnitude": [
        START, FASTER, SLOWER, START | {"rate": 4.0}, FASTER | {"initial": 0.0}, FASTER | {"updates_per_epoch": 12.0},
    ],
    # Between two updates nothing that went wrongly can come back: movement needs many of them, and they cost nothing.
    "movement": [
        START, FASTER, SLOWER,
        FASTER | {"initial": 0.0, "updates_per_epoch": 30.0},
        START | {"initial": 0.0, "updates_per_epoch": 30.0, "rate": 4.0},
        FASTER | {"initial": 0.0, "updates_per_epoch": 60.0},
    ],
    "obs": [
        START, FASTER, SLOWER, START | {"initial": 0.7}, FASTER | {"updates_per_epoch": 6.0}, FASTER | {"damp": 1e-5},
    ],
}  # fmt: skip
TRIAL = {"sparsity": 0.8, "sentences": 2000, "dev_sentences": 500, "pruning_epochs": 1.0, "sparse_epochs": 1.0}


def trial_name(criterion: str, number: int, backbone: str, corpus: str) -> str:
    """The name of one trial's run."""
    return f"03-trial-{criterion}-{number}-{Path(backbone).name}-{corpus}"


def attempt(
    profile: Profile,
    criterion: str,
    number: int,
    backbone: str,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> dict:
    """One trial of one criterion: a short pruning whose English dev F1 is all that is looked at."""
    home, seed = Path(runs) / profile.name, profile.seeds[0]
    records, run = store.records_folder(runs, profile.name), trial_name(criterion, number, backbone, corpus)
    settings = {
        **baselines.config(profile, backbone, corpus, seed),
        **unstructured.method_settings(profile, criterion, TRIALS[criterion][number]),
        **{name: TRIAL[name] for name in ("pruning_epochs", "sparse_epochs")},
        **{name: getattr(profile, name) for name in baselines.AFTER},
        "trial": number,
        "share": TRIAL["sparsity"],
        "schedule": "cubic",
        "pattern": "1",
        "trial_sentences": TRIAL["sentences"],
        "trial_dev_sentences": TRIAL["dev_sentences"],
    }
    if record := store.finished(records, run, settings):
        return record
    model, tokenizer = baselines.load(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    english = DatasetDict(
        train=fewer(corpora["en"]["train"], TRIAL["sentences"]), dev=fewer(corpora["en"]["dev"], TRIAL["dev_sentences"])
    )
    folder = home / "checkpoints" / run
    _, history, _ = unstructured.gradually(profile, model, tokenizer, english, settings, folder=folder, measure=None)
    best = {"f1": max(history["dev_f1"][round(TRIAL["pruning_epochs"]) :])}  # of the epochs at full sparsity
    store.save(records, run, settings, scores={"en": {"dev": best}}, history=history)
    shutil.rmtree(folder)
    return store.finished(records, run, settings)
