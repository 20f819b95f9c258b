"""How a backbone is tuned: `plan.RECIPES`, tried alone and together, and chosen by English dev F1 alone.

Spanish and Dutch dev stand in the records as well, for whoever asks whether English could have known. What came out is
in the profiles.
"""

from pathlib import Path

from mmalib.data.corpus import fewer
from mmalib.data.subwords import predict_tags, training_rows
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.evaluate import entity_scores
from mmalib.model.finetune import finetune
from mmalib.plan import Run
from mmalib.studies.finish import english, recipe
from mmalib.studies.study import Study


def attempt(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone with the settings of one trial on a part of English, and score dev."""
    settings = run.settings
    model, tokenizer = load_model(settings["backbone"], seed=settings["seed"]), load_tokenizer(settings["backbone"])
    train, dev = english(study, tokenizer, settings["trial_sentences"])
    rows = training_rows(train, model.config.label2id)
    model, history = finetune(model, rows, dev, recipe(settings), folder=unfinished, seed=settings["seed"])
    scores = {}
    for language, splits in study.corpora.items():
        dev = splits["dev"] if language == "en" else fewer(splits["dev"], settings["trial_dev_sentences"])
        predicted = predict_tags(model, tokenizer, dev["words"], max_length=settings["max_length"])
        scores[language] = {"dev": entity_scores(list(dev["tags"]), predicted)}
    return {"scores": scores, "history": history}
