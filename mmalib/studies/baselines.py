"""The baseline of every comparison: a backbone tuned on English, scored on three languages, recorded.

`tune` is one run from start to record; a later notebook gets the same model back from disk with `load`.
"""

from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.model import disk
from mmalib.model.backbones import fingerprint, load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.records import machine
from mmalib.studies.finish import done, finish, folders

# The settings of a profile that say how a backbone is tuned, by the names that `finetune` has for them.
TRAINING = (
    *("epochs", "batch_size", "learning_rate", "max_length", "frozen"),
    *("head_rate", "label_smoothing", "masked_words", "average_from"),
)
AFTER = ("rate_after", "frozen_after")  # and those that say how its model is trained on


def run_name(backbone: str, corpus: str, seed: int) -> str:
    """The name of a baseline's run: of its record and of its model's folder."""
    return f"01-{Path(backbone).name}-{corpus}-seed{seed}"


def config(profile: Profile, backbone: str, corpus: str, seed: int) -> dict:
    """Everything that decides a baseline's scores."""
    return {
        "notebook": "01",
        "method": "baseline",
        "backbone": backbone,
        "weights": fingerprint(backbone),
        "corpus": corpus,
        "seed": seed,
        "train_sentences": profile.train_sentences,
        "eval_sentences": profile.eval_sentences,
        **_training(profile),
    }


def tune(
    profile: Profile, backbone: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> dict:
    """Tune a backbone on English, score every language, keep the model and the record; done before → read."""
    run, settings = run_name(backbone, corpus, seed), config(profile, backbone, corpus, seed)
    if record := done(profile, run, settings, runs):
        return record
    tokenizer, model = load_tokenizer(backbone), load_model(backbone, seed=seed)
    english, (*_, checkpoints) = corpora["en"], folders(profile, run, runs)
    model, history = finetune(
        model,
        tokenizer,
        english["train"],
        english["dev"],
        folder=checkpoints,
        seed=seed,
        **_training(profile),
    )
    return finish(
        profile,
        run,
        settings,
        model,
        tokenizer,
        corpora,
        runs=runs,
        history=history,
        sparsity={"requested": 0.0, "measured": 0.0},
        parameters=sum(p.numel() for p in model.parameters()),
    )


def load(
    profile: Profile, backbone: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The tuned model of a baseline, on the machine's device, and its tokenizer; tuned first if it is not there yet."""
    tune(profile, backbone, seed, corpora, corpus=corpus, runs=runs)
    model, tokenizer = disk.load(Path(runs) / profile.name / "models" / run_name(backbone, corpus, seed))
    return model.to(machine.device()), tokenizer


def _training(profile: Profile) -> dict:
    return {name: getattr(profile, name) for name in TRAINING}
