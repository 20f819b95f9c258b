"""The baseline of every comparison: a backbone tuned on English, scored on every language."""

from pathlib import Path

from mmalib.data.subwords import training_rows
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.plan import Run
from mmalib.studies.finish import DENSE, english, kept, recipe
from mmalib.studies.study import Study


def tune(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone on English, keep and score it."""
    settings = run.settings
    tokenizer, model = load_tokenizer(settings["backbone"]), load_model(settings["backbone"], seed=settings["seed"])
    train, dev = english(study, tokenizer)
    rows = training_rows(train, model.config.label2id)
    model, history = finetune(model, rows, dev, recipe(settings), folder=unfinished, seed=settings["seed"])
    return kept(study, run, model, tokenizer, history, sparsity=DENSE, parameters=model.num_parameters())
