"""How the run of every trained model ends: the model in its folder, and its scores."""

import time
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.subwords import predict_tags
from mmalib.model import disk
from mmalib.model.evaluate import further_scores, scored
from mmalib.plan import Run
from mmalib.studies.study import Study


def kept(
    study: Study, run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, history: dict, **parts
) -> dict:
    """Score a trained model on everything and keep it; the parts of its record."""
    start = time.monotonic()
    predict = partial(predict_tags, model, tokenizer, max_length=run.settings["max_length"])
    scores, further = scored(predict, study.corpora), further_scores(predict, study.corpora.further)
    disk.save(model, tokenizer, study.folder(run.name), about=study.about(run))
    timings = {"train_s": history.pop("seconds"), "score_s": time.monotonic() - start}
    return {"scores": scores, "further": further, "history": history, "timings": timings, **parts}
