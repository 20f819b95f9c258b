"""What every training run shares: the English that it reads, how it is trained on after tuning, and how it ends."""

from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer
from mmalib.data.subwords import Encoded, encode_split, predict_tags
from mmalib.model import disk
from mmalib.model.evaluate import further_scores, scored
from mmalib.model.finetune import Recipe
from mmalib.plan import TRAINING, Run
from mmalib.studies.study import Study

DENSE = {"requested": 0.0, "measured": 0.0}  # what the record of a model without zeros says


def english(
    study: Study, tokenizer: PreTrainedTokenizerFast, train: int | None = None, dev: int | None = None
) -> tuple[Encoded, Encoded]:
    """English train and dev, or so many sentences of each, encoded."""
    split_of = study.corpora["en"]
    chosen = [fewer(split_of["train"], train), fewer(split_of["dev"], dev)]
    return tuple(encode_split(split, tokenizer, study.profile.max_length) for split in chosen)


def recipe(settings: dict) -> Recipe:
    """How a backbone is tuned."""
    return Recipe(**{name: settings[name] for name in TRAINING if name != "max_length"})


def recipe_after(settings: dict, epochs: float, *, rate: float = 1.0, **further) -> Recipe:
    """How a tuned model is trained on, at `rate` times the rate that this has in a profile."""
    further |= {"batch_size": settings["batch_size"], "frozen": settings["frozen_after"]}
    return Recipe(epochs=epochs, learning_rate=rate * settings["rate_after"], **further)


def kept(
    study: Study, run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, history: dict, **parts
) -> dict:
    """Score a trained model on everything and keep it; the parts of its record."""
    predict = partial(predict_tags, model, tokenizer, max_length=run.settings["max_length"])
    scores, further = scored(predict, study.corpora), further_scores(predict, study.corpora.further)
    disk.save(model, tokenizer, study.folder(run.name), about=study.about(run))
    return {"scores": scores, "further": further, "history": history, **parts}
