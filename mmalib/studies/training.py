"""What all training of a study shares, from English text to a record; and the runs that are tuned and nothing else.

`tune` makes the baselines, backbones tuned on English, and their students: smaller models tuned with and without the
baseline's answers. Students have these settings, every one with the same number of epochs and the same optimizer:

    plain       English text, gold labels
    teacher     the same text, gold labels and the teacher's answers: the paper's setting
    unlabelled  English as before, and beside it Spanish and Dutch text with the teacher's answers alone. This is
                another setting than zero-shot: text of the target languages is seen, their labels are not
    open-text   as `unlabelled`, with as many sentences of a folder of text, in all of its languages but English: a
                model for users, that has seen no text of the shared tasks but English
    longer      as `teacher`, with English repeated until an epoch has as many steps as one of `unlabelled`: what is
                better there only because training is longer is better here as well
    self-taught as `unlabelled`, of the teacher's own backbone, round by round: each round's answers teach the next one,
                and a word without a label counts as much as its teacher is sure of it

Hardness and temperature are fixed and the same for all (`plan.TEACHER`). `attempt` tries one of `plan.RECIPES`.
"""

import random
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import WORD
from mmalib.data import text as plain_text
from mmalib.data.corpus import fewer
from mmalib.data.subwords import Encoded, encode, encode_split, joined, predict_tags, training_rows
from mmalib.model import disk, distill
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.evaluate import entity_scores, scored
from mmalib.model.finetune import Recipe, finetune
from mmalib.plan import TRAINING, Run
from mmalib.prune import gradual, sparsity
from mmalib.studies.study import Study

DENSE = {"requested": 0.0, "measured": 0.0}  # what the record of a model without zeros says


def tune(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone on English, keep and score it."""
    backbone, seed = run.settings["backbone"], run.settings["seed"]
    model, tokenizer = load_model(backbone, seed=seed), load_tokenizer(backbone)
    return tuned(study, run, model, tokenizer, recipe(run.settings), unfinished) | {"sparsity": DENSE}


def attempt(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone in one way that is tried, on a part of English, and score dev; English alone decides.

    Spanish and Dutch dev stand in the records as well, for whoever asks whether English could have known.
    """
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


def tuned(
    study: Study, run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, how: Recipe, unfinished: Path
) -> dict:
    """Train a model on English, its zeros held where a share of it was pruned; keep and score it."""
    settings, callbacks = run.settings, []
    if "share" in settings:
        callbacks = [gradual.Hold(sparsity.masks_of(model))]
    train, dev = english(study, tokenizer)
    rows, loss = lesson(study, run, model, train)
    given = {"folder": unfinished, "seed": settings["seed"], "loss": loss, "callbacks": callbacks}
    model, history = finetune(model, rows, dev, how, **given)
    parts = kept(study, run, model, tokenizer, history, parameters=model.num_parameters())
    if "share" in settings:
        parts["sparsity"] = {"requested": settings["share"], "measured": sparsity.measured(model)}
    return parts


def english(
    study: Study, tokenizer: PreTrainedTokenizerFast, train: int | None = None, dev: int | None = None
) -> tuple[Encoded, Encoded]:
    """English train and dev, or so many sentences of each, encoded."""
    split_of = study.corpora["en"]
    chosen = [fewer(split_of["train"], train), fewer(split_of["dev"], dev)]
    return tuple(encode_split(split, tokenizer, study.profile.max_length) for split in chosen)


def lesson(study: Study, run: Run, model: PreTrainedModel, text: Encoded) -> tuple[list[dict], Callable | None]:
    """The rows that a run trains on, and its loss: with the answers of its dense baseline, where it is taught."""
    settings = run.settings
    if not settings.get("hardness"):
        return training_rows(text, model.config.label2id), None
    number = len(text.windows)
    if run.kind == "student":  # all settings ask about English and this together, once
        text = with_unlabelled(study, text, settings)
    teacher, its_tokenizer = study.model(run.needs.get("teacher", run.needs["base"]))
    alike = its_tokenizer.backend_tokenizer.to_str() == text.tokenizer.backend_tokenizer.to_str()
    heard = text if alike else encode(text.words, its_tokenizer, settings["max_length"])
    rows = training_rows(text, model.config.label2id, distill.answers(teacher, heard, study.home / "answers"))
    if run.kind == "student" and not settings["sees_target_text"]:
        labelled = rows[:number]
        times, rest = divmod(len(rows), number) if settings["setting"] == "longer" else (1, 0)
        rows = [*labelled * times, *random.Random(settings["seed"]).sample(labelled, rest)]
    how = {name: settings[name] for name in ("hardness", "temperature", "by_confidence") if name in settings}
    return rows, distill.loss(**how)


def with_unlabelled(study: Study, labelled: Encoded, settings: dict) -> Encoded:
    """The same text with sentences of the other languages behind it, of the corpora without their labels or open."""
    number, others = study.profile.unlabelled_sentences, [name for name in study.corpora if name != "en"]
    if settings.get("text") == "folder":
        further = open_sentences(study, number and number * len(others))
    else:
        further = [words for name in others for words in fewer(study.corpora[name]["train"], number)["words"]]
    return joined(labelled, encode(further, labelled.tokenizer, study.profile.max_length))


def open_sentences(study: Study, number: int | None) -> list[list[str]]:
    """Sentences of the study's folder of text in every language but English, in equal parts, at most `number` in all.

    Lines of a sentence's length, and with a capital letter that does not begin them: names are to be learnt. None of
    them holds a sentence of a dev or test set that has six words or more.
    """
    folder = study.profile.text_folder
    lines = {name: of for name, of in plain_text.read_text(Path(folder)).items() if name != "en"}
    if not lines:
        raise ValueError(f"{folder} has text in English alone. Put xx.txt of other languages beside it.")
    chosen, secret = [], held_out(study)
    for name, of_language in sorted(lines.items()):
        cut = map(WORD.findall, random.Random(name).sample(of_language, len(of_language)))
        good = (words for words in cut if 5 <= len(words) <= 40 and any(word[0].isupper() for word in words[1:]))
        found = islice(good, number and max(1, number // len(lines)))
        chosen += map(str.split, plain_text.clean(map(" ".join, found), secret))
    return chosen


def held_out(study: Study) -> list[list[str]]:
    """The sentences of every dev and test set, which no plain text may hold."""
    own = [words for of in study.corpora.values() for split in ("dev", "test") for words in of[split]["words"]]
    return own + [words for of in study.corpora.further.values() for words in of["test"]["words"]]


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
    scores, further = scored(predict, study.corpora), scored(predict, study.corpora.further)
    disk.save(model, tokenizer, study.folder(run.name), about=study.about(run))
    return {"scores": scores, "further": further, "history": history, **parts}
