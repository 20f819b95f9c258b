"""Students of a tuned baseline: smaller models tuned on English with and without its answers.

Four settings, every one with the same number of epochs and the same optimizer:

    plain       English text, gold labels
    teacher     the same text, gold labels and the teacher's answers: the paper's setting
    unlabelled  English as before, and beside it Spanish and Dutch text with the teacher's answers alone. This is
                another setting than zero-shot: text of the target languages is seen, their labels are not
    longer      as `teacher`, with English repeated until an epoch has as many steps as one of `unlabelled`: what is
                better there only because training is longer is better here as well

Hardness and temperature are fixed and the same for all (`plan.TEACHER`). Nothing is tried out, on English or elsewhere.
"""

import random
from pathlib import Path

from transformers import PreTrainedModel

from mmalib.data.corpus import Corpora, fewer
from mmalib.data.subwords import Encoded, encode, joined, training_rows
from mmalib.model import distill
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.plan import TEACHER, Run
from mmalib.studies.finish import DENSE, english, kept, recipe
from mmalib.studies.study import Study


def teach(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a student in one setting, keep and score it; the teacher is the tuned baseline of the same seed."""
    settings, setting = run.settings, run.settings["setting"]
    tokenizer, model = load_tokenizer(settings["backbone"]), load_model(settings["backbone"], seed=settings["seed"])
    train, dev = english(study, tokenizer)
    if setting == "plain":
        rows, loss = training_rows(train, model.config.label2id), None
    else:
        rows, loss = _epoch(study, run, model, train), distill.loss(**TEACHER)
    how = {"folder": unfinished, "seed": settings["seed"], "loss": loss}
    model, history = finetune(model, rows, dev, recipe(settings), **how)
    return kept(study, run, model, tokenizer, history, sparsity=DENSE, parameters=model.num_parameters())


def unlabelled(corpora: Corpora, number: int | None) -> list[list[str]]:
    """The sentences of the languages other than English that a teacher labels; their own labels are left behind."""
    return [
        sentence
        for language, splits in corpora.items()
        if language != "en"
        for sentence in fewer(splits["train"], number)["words"]
    ]


def taught(study: Study, run: Run, model: PreTrainedModel, text: Encoded) -> list[dict]:
    """Training rows with the answers of a run's dense baseline, beside the labels where there are any."""
    teacher, tokenizer = study.model(run.needs["base"])
    alike = tokenizer.backend_tokenizer.to_str() == text.tokenizer.backend_tokenizer.to_str()
    heard = text if alike else encode(text.words, tokenizer, run.settings["max_length"])
    return training_rows(text, model.config.label2id, distill.answers(teacher, heard, study.home / "answers"))


def with_unlabelled(study: Study, labelled: Encoded) -> Encoded:
    """The same text with what is `unlabelled` behind it."""
    further = unlabelled(study.corpora, study.profile.unlabelled_sentences)
    return joined(labelled, encode(further, labelled.tokenizer, study.profile.max_length))


def _epoch(study: Study, run: Run, student: PreTrainedModel, train: Encoded) -> list[dict]:
    """The rows of one epoch of a student that is taught."""
    setting = run.settings["setting"]
    # all students and settings ask about the same text, or there would be as many files as settings
    rows = taught(study, run, student, with_unlabelled(study, train))
    if setting == "unlabelled":
        return rows
    labelled = rows[: len(train.windows)]
    if setting == "longer":
        times, rest = divmod(len(rows), len(labelled))
        return [*labelled * times, *random.Random(run.settings["seed"]).sample(labelled, rest)]
    return labelled
