"""Students of a tuned baseline: smaller models tuned on English with and without its answers, from start to record.

Four settings, every one with the same number of epochs and the same optimizer:

    plain       English text, gold labels
    teacher     the same text, gold labels and the teacher's answers: the paper's setting
    unlabelled  English as before, and beside it Spanish and Dutch text with the teacher's answers alone. This is
                another setting than zero-shot: text of the target languages is seen, their labels are not
    longer      as `teacher`, with English repeated until an epoch has as many steps as one of `unlabelled`: what is
                better there only because training is longer is better here as well

Hardness and temperature are fixed and the same for all (`TEACHER`). Nothing is tried out, on English or elsewhere.
"""

import random
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import fewer
from mmalib.model import distill
from mmalib.model.backbones import fingerprint, load_model, load_tokenizer
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.studies import baselines
from mmalib.studies.finish import done, finish, folders

SETTINGS = ("plain", "teacher", "longer", "unlabelled")
TEACHER = {"hardness": 0.5, "temperature": 2.0}  # gold labels and teacher in equal shares; also in notebook 06


def run_name(student: str, setting: str, corpus: str, seed: int) -> str:
    """The name of a student's run: of its record and of its model's folder."""
    return f"04-{Path(student).name}-{setting}-{corpus}-seed{seed}"


def planned(profile: Profile) -> list[tuple[str, str]]:
    """(student, setting) of every model of a study, for each of its `pruning_seeds`."""
    return [
        (student, setting)
        for student in profile.students
        for setting in SETTINGS
        if setting in ("plain", "teacher") or student in profile.unlabelled_students
    ]


def config(profile: Profile, student: str, setting: str, corpus: str, seed: int) -> dict:
    """Everything that decides a student's scores; the teacher is named for `plain` too, as what it is compared with."""
    longer = {"unlabelled_sentences": profile.unlabelled_sentences} if setting in ("longer", "unlabelled") else {}
    taught = {"hardness": 0.0} if setting == "plain" else {**TEACHER, "teacher_epochs": profile.epochs}
    return {
        **baselines.config(profile, student, corpus, seed),
        "notebook": "04",
        "method": "distillation",
        "setting": setting,
        "sees_target_text": setting == "unlabelled",
        "teacher": profile.teacher,
        "teacher_weights": fingerprint(profile.teacher),
        "epochs": profile.distil_epochs,
        **taught,
        **longer,
    }


def teach(
    profile: Profile,
    student: str,
    setting: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> dict:
    """Tune a student in one setting, score every language, keep the model and the record; done before → read.

    The teacher is the tuned baseline of the same seed. It is asked once about all text of a study, and its answers
    lie beside the checkpoints for all students and settings.
    """
    run, settings = run_name(student, setting, corpus, seed), config(profile, student, setting, corpus, seed)
    if record := done(profile, run, settings, runs):
        return record
    tokenizer, model = load_tokenizer(student), load_model(student, seed=seed)
    english, (*_, checkpoints) = corpora["en"], folders(profile, run, runs)
    train, loss = english["train"], None
    if setting != "plain":
        asked = baselines.load(profile, profile.teacher, seed, corpora, corpus=corpus, runs=runs)
        train, loss = _lesson(profile, model, tokenizer, asked, setting, seed, corpora, checkpoints.parent)
    model, history = finetune(
        model,
        tokenizer,
        train,
        english["dev"],
        folder=checkpoints,
        seed=seed,
        **{name: settings[name] for name in baselines.TRAINING},
        loss=loss,
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


def unlabelled(profile: Profile, corpora: dict[str, DatasetDict]) -> list[list[str]]:
    """The sentences of the languages other than English that a teacher labels; their own labels are left behind."""
    return [
        sentence
        for language, splits in corpora.items()
        if language != "en"
        for sentence in fewer(splits["train"], profile.unlabelled_sentences)["words"]
    ]


def _lesson(
    profile: Profile,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    teacher: tuple[PreTrainedModel, PreTrainedTokenizerFast],
    setting: str,
    seed: int,
    corpora: dict[str, DatasetDict],
    answers: Path,
) -> distill.Lesson:
    """The rows of one epoch, and the loss."""
    english, size = corpora["en"]["train"], profile.max_length
    words, tags = list(english["words"]), list(english["tags"])
    text = unlabelled(profile, corpora)
    everything, any_tags = [*words, *text], [*tags, *[None] * len(text)]
    # all students and settings ask about the same text, or there would be as many files as settings
    ask = distill.cached(*teacher, everything, max_length=size, folder=answers)
    with_text = distill.lesson(student, tokenizer, everything, any_tags, ask, max_length=size, **TEACHER)
    if setting == "unlabelled":
        return with_text
    lesson = distill.lesson(student, tokenizer, words, tags, ask, max_length=size, **TEACHER)
    if setting == "longer":
        times, rest = divmod(len(with_text.rows), len(lesson.rows))
        again = [*lesson.rows * times, *random.Random(seed).sample(lesson.rows, rest)]
        return distill.Lesson(again, lesson.loss)
    return lesson
