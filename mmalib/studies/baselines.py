"""The baseline of every comparison: a backbone tuned on English, scored on every language."""

from pathlib import Path

from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.plan import TRAINING, Run
from mmalib.studies.finish import kept
from mmalib.studies.study import Study


def tune(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone on English, keep and score it."""
    settings, english = run.settings, study.corpora["en"]
    tokenizer, model = load_tokenizer(settings["backbone"]), load_model(settings["backbone"], seed=settings["seed"])
    model, history = finetune(
        model,
        tokenizer,
        english["train"],
        english["dev"],
        folder=unfinished,
        seed=settings["seed"],
        **{name: settings[name] for name in TRAINING},
    )
    parameters = sum(p.numel() for p in model.parameters())
    zeros = {"requested": 0.0, "measured": 0.0}
    return kept(study, run, model, tokenizer, history, sparsity=zeros, parameters=parameters)
