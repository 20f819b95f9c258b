"""How a backbone is tuned: `plan.RECIPES`, tried alone and together, and chosen by English dev F1 alone.

Spanish and Dutch dev stand in the records as well, for whoever asks whether English could have known. What came out is
in the profiles.
"""

from pathlib import Path

from mmalib.data.corpus import fewer
from mmalib.data.subwords import predict_tags
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.evaluate import entity_scores
from mmalib.model.finetune import finetune
from mmalib.plan import TRAINING, Run
from mmalib.studies.study import Study


def attempt(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone with the settings of one trial on a part of English, and score dev."""
    settings, corpora = run.settings, study.corpora
    model, tokenizer = load_model(settings["backbone"], seed=settings["seed"]), load_tokenizer(settings["backbone"])
    model, history = finetune(
        model,
        tokenizer,
        fewer(corpora["en"]["train"], settings["trial_sentences"]),
        corpora["en"]["dev"],
        folder=unfinished,
        seed=settings["seed"],
        **{name: settings[name] for name in TRAINING},
    )
    scores = {}
    for language, splits in corpora.items():
        dev = splits["dev"] if language == "en" else fewer(splits["dev"], settings["trial_dev_sentences"])
        predicted = predict_tags(model, tokenizer, dev["words"], max_length=settings["max_length"])
        scores[language] = {"dev": entity_scores(list(dev["tags"]), predicted)}
    return {"scores": scores, "history": history, "timings": {"train_s": history.pop("seconds")}}
