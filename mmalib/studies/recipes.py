"""How a backbone is tuned: what was tried, alone and together, and chosen by English dev F1 alone.

Spanish and Dutch dev stand in the records as well, for whoever asks whether English could have known. What came out is
in the profiles.
"""

import shutil
from pathlib import Path

from mmalib.data.corpus import Corpora, fewer
from mmalib.data.subwords import predict_tags
from mmalib.model.backbones import fingerprint, load_model, load_tokenizer
from mmalib.model.evaluate import entity_scores
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.records import store
from mmalib.studies.finish import folders

START = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "frozen": 0.0,
    "head_rate": 1.0,
    "label_smoothing": 0.0,
    "masked_words": 0.0,
    "average_from": None,
}
TRIALS = {
    "start": {},
    "rate": {"learning_rate": 2e-4},
    "head": {"head_rate": 10.0},
    "rate-head": {"learning_rate": 2e-4, "head_rate": 10.0},
    "average": {"average_from": 2.0},
    "frozen": {"frozen": 1 / 3},
    "rate-head-frozen": {"learning_rate": 2e-4, "head_rate": 10.0, "frozen": 1 / 3},
    "free": {"frozen": None},
    "head-free": {"head_rate": 10.0, "frozen": None},
    "rate-head-frozen-average": {
        "learning_rate": 2e-4,
        "head_rate": 10.0,
        "frozen": 1 / 3,
        "average_from": 2.0,
    },
    "smoothed": {"label_smoothing": 0.1},
    "masked": {"masked_words": 0.1},
    "batch": {"batch_size": 8},
    "longer": {"epochs": 5},
}
TRIAL = {"trial_sentences": 4000, "trial_dev_sentences": 1000}


def trial_name(trial: str, backbone: str, corpus: str) -> str:
    """The name of one trial's run."""
    return f"01-trial-{trial}-{Path(backbone).name}-{corpus}"


def config(profile: Profile, trial: str, backbone: str, corpus: str) -> dict:
    """Everything that decides a trial's scores."""
    return {
        "notebook": "01",
        "method": "recipe",
        "backbone": backbone,
        "weights": fingerprint(backbone),
        "corpus": corpus,
        "seed": profile.seeds[0],
        "trial": trial,
        "max_length": profile.max_length,
        **TRIAL,
        **START,
        **TRIALS[trial],
    }


def attempt(profile: Profile, trial: str, backbone: str, corpora: Corpora, *, corpus: str, runs: Path) -> dict:
    """Tune a backbone with the settings of one trial on a part of English; done before → read."""
    run, settings = trial_name(trial, backbone, corpus), config(profile, trial, backbone, corpus)
    records, _, checkpoints = folders(profile, run, runs)
    if record := store.finished(records, run, settings):
        return record
    model, tokenizer = load_model(backbone, seed=settings["seed"]), load_tokenizer(backbone)
    model, history = finetune(
        model,
        tokenizer,
        fewer(corpora["en"]["train"], TRIAL["trial_sentences"]),
        corpora["en"]["dev"],
        folder=checkpoints,
        seed=settings["seed"],
        max_length=profile.max_length,
        **{name: settings[name] for name in START},
    )
    scores = {}
    for language, splits in corpora.items():
        dev = splits["dev"] if language == "en" else fewer(splits["dev"], TRIAL["trial_dev_sentences"])
        predicted = predict_tags(model, tokenizer, dev["words"], max_length=profile.max_length)
        scores[language] = {"dev": entity_scores(list(dev["tags"]), predicted)}
    timings = {"train_s": history.pop("seconds")}
    store.save(records, run, settings, scores=scores, history=history, timings=timings)
    shutil.rmtree(checkpoints)
    return store.finished(records, run, settings)
