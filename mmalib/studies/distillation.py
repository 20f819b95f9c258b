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

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import Corpora, fewer
from mmalib.model import distill
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.plan import TEACHER, TRAINING, Run
from mmalib.studies.finish import kept
from mmalib.studies.study import Study


def teach(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a student in one setting, keep and score it; the teacher is the tuned baseline of the same seed."""
    settings, english = run.settings, study.corpora["en"]
    tokenizer, model = load_tokenizer(settings["backbone"]), load_model(settings["backbone"], seed=settings["seed"])
    train, loss = english["train"], None
    if settings["setting"] != "plain":
        train, loss = _lesson(study, run, model, tokenizer)
    model, history = finetune(
        model,
        tokenizer,
        train,
        english["dev"],
        folder=unfinished,
        seed=settings["seed"],
        **{name: settings[name] for name in TRAINING},
        loss=loss,
    )
    parameters = sum(p.numel() for p in model.parameters())
    zeros = {"requested": 0.0, "measured": 0.0}
    return kept(study, run, model, tokenizer, history, sparsity=zeros, parameters=parameters)


def unlabelled(corpora: Corpora, number: int | None) -> list[list[str]]:
    """The sentences of the languages other than English that a teacher labels; their own labels are left behind."""
    return [
        sentence
        for language, splits in corpora.items()
        if language != "en"
        for sentence in fewer(splits["train"], number)["words"]
    ]


def taught(
    study: Study,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    words: list[list[str]],
    tags: list[list[str] | None],
) -> distill.Lesson:
    """Sentences with the answers of a run's dense baseline, beside their labels where they have any."""
    size = run.settings["max_length"]
    ask = distill.cached(*study.model(run.needs["base"]), words, max_length=size, folder=study.home / "answers")
    return distill.lesson(model, tokenizer, words, tags, ask, max_length=size, **TEACHER)


def _lesson(study: Study, run: Run, student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> distill.Lesson:
    """The rows of one epoch, and the loss."""
    english, size, setting = study.corpora["en"]["train"], run.settings["max_length"], run.settings["setting"]
    words, tags = list(english["words"]), list(english["tags"])
    text = unlabelled(study.corpora, study.profile.unlabelled_sentences)
    everything, any_tags = [*words, *text], [*tags, *[None] * len(text)]
    # all students and settings ask about the same text, or there would be as many files as settings
    teacher = study.model(run.needs["base"])
    ask = distill.cached(*teacher, everything, max_length=size, folder=study.home / "answers")
    with_text = distill.lesson(student, tokenizer, everything, any_tags, ask, max_length=size, **TEACHER)
    if setting == "unlabelled":
        return with_text
    lesson = distill.lesson(student, tokenizer, words, tags, ask, max_length=size, **TEACHER)
    if setting == "longer":
        times, rest = divmod(len(with_text.rows), len(lesson.rows))
        again = [*lesson.rows * times, *random.Random(run.settings["seed"]).sample(lesson.rows, rest)]
        return distill.Lesson(again, lesson.loss)
    return lesson
