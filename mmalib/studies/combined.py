"""Combined models, from start to record: a model that is small or sparse, a teacher, and int8 on top of both.

    80-q, 90-q   the paper's `xlm_80_q`: the baseline pruned by second order while its dense self teaches it, then
                 trained on under fake quantization, its zeros held, the teacher still there
    distil-q     the paper's `distilbert_q`: a student tuned with the teacher, then the same
    distil-text-q  another setting, beyond the paper: the student that has also read Spanish and Dutch text with the
                 teacher's answers (notebook 04), then the same with such text as well
    small-q      beyond the paper, for the open runtimes, which gain nothing from single zeros: half of the heads and
                 neurons of every layer gone, the subwords gone that no training text needs, tuned with the teacher,
                 then the same; of what is left, every weight is int8, the embedding as well

Every one is scored as the int8 graph that it is shipped as. The teacher is the dense baseline of the same seed. Beside
`distil-text-q`, text of the target languages is looked at by `small-q` alone, and only for which subwords occur in it.
"""

import shutil
import time
from functools import partial
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data.corpus import Corpora, fewer, fewer_to_score
from mmalib.graph import export
from mmalib.model import disk, distill
from mmalib.model.evaluate import further_scores, scored
from mmalib.model.finetune import finetune
from mmalib.profiles import Profile
from mmalib.prune import gradual, sparsity, vocabulary
from mmalib.records import store
from mmalib.studies import baselines, distillation, int8_training, quantization, speed, structured, unstructured
from mmalib.studies.distillation import TEACHER
from mmalib.studies.finish import folders

SMALL = 0.5  # share of heads and neurons that is gone in `small-q`
STUDENTS = {"distil-q": "teacher", "distil-text-q": "unlabelled"}  # → the setting of notebook 04
FORMATS = {
    "distil-q": "qdq",
    "distil-text-q": "qdq",
    "small-q": "qdq",
}  # the sparse ones are for DeepSparse, which wants the other


def run_name(name: str, backbone: str, corpus: str, seed: int) -> str:
    """The name of a combined model's run: of its record and of its folder."""
    return f"06-{name}-{Path(backbone).name}-{corpus}-seed{seed}"


def planned(profile: Profile) -> list[str]:
    """The combinations of a study, for its teacher and each of its `pruning_seeds`."""
    text = profile.students[0] in profile.unlabelled_students
    return [*_sparse(profile), *(name for name in FORMATS if text or name != "distil-text-q")]


def start_run(name: str, profile: Profile, corpus: str, seed: int) -> str:
    """The run whose model a combination starts from."""
    if name in STUDENTS:
        return distillation.run_name(profile.students[0], STUDENTS[name], corpus, seed)
    if name == "small-q":
        return structured.run_name("uniform", profile.teacher, corpus, seed)
    return unstructured.run_name("obs", share(name), "cubic", profile.teacher, corpus, seed, taught=True)


def share(name: str) -> float:
    """The sparsity that a combination's name tells of."""
    return int(name.split("-")[0]) / 100


def config(profile: Profile, name: str, corpus: str, seed: int) -> dict:
    """Everything that decides a combined model's scores."""
    if name in STUDENTS:
        start = distillation.config(profile, profile.students[0], STUDENTS[name], corpus, seed)
    elif name == "small-q":
        start = {**structured.config(profile, "uniform", profile.teacher, corpus, seed), "removed": SMALL}
    else:
        start = unstructured.config(profile, "obs", share(name), "cubic", profile.teacher, corpus, seed, taught=True)
    return {
        **baselines.config(profile, profile.teacher, corpus, seed),
        "notebook": "06",
        "method": "combination",
        "combination": name,
        "format": FORMATS.get(name, "qoperator"),
        "runtime": "onnxruntime",
        "int8_sentences": profile.int8_sentences,
        "qat_sentences": profile.qat_sentences,
        "qat_epochs": profile.qat_epochs,
        "qat_rate": int8_training.QAT_RATE,
        **{name: getattr(profile, name) for name in baselines.AFTER},
        "distil_epochs": profile.distil_epochs,
        **TEACHER,
        "start": start,
    }


def make(profile: Profile, name: str, seed: int, corpora: Corpora, *, corpus: str, runs: Path) -> dict:
    """Make a combined model and all that it starts from, score its int8 graph, keep both; done before → read.

    The runs of its parts are made as well, for the question whether their losses add up.
    """
    where = {"corpus": corpus, "runs": runs}
    run, settings = run_name(name, profile.teacher, corpus, seed), config(profile, name, corpus, seed)
    records, folder, checkpoints = folders(profile, run, runs)
    record = store.finished(records, run, settings)
    if record and (folder / export.GRAPH).is_file():  # records travel with git, models do not
        return record
    _make_parts(profile, name, settings["format"], seed, corpora, **where)
    begin = time.monotonic()
    model, tokenizer = _start(profile, name, seed, corpora, **where)
    masks = sparsity.masks_of(model)
    some, dev = (
        fewer(corpora["en"][split], number)
        for split, number in (("train", profile.qat_sentences), ("dev", profile.int8_sentences))
    )
    words, tags = list(some["words"]), list(some["tags"])
    if name == "distil-text-q":
        text = distillation.unlabelled(profile, corpora)
        words, tags = [*words, *text], [*tags, *[None] * len(text)]
    lesson = _taught(profile, model, tokenizer, words, tags, seed, corpora, **where)
    size, found = int8_training.learn(
        profile,
        model,
        tokenizer,
        lesson.rows,
        dev,
        folder,
        format=settings["format"],
        seed=seed,
        checkpoints=checkpoints,
        about={"run": run, "corpus": corpus, "seed": seed},
        embeddings=name == "small-q",
        loss=lesson.loss,
        callbacks=[gradual.Hold(masks)] if name in _sparse(profile) else [],
    )
    made = time.monotonic()
    to_score, graph = fewer_to_score(corpora, profile.int8_sentences), export.session(folder)
    predict = partial(export.predict_tags, graph, tokenizer, max_length=profile.max_length)
    store.save(
        records,
        run,
        settings,
        scores=scored(predict, to_score),
        further=further_scores(predict, corpora.further),
        size={**size, **speed.sizes(folder)},
        sparsity={"requested": share(name) if name in _sparse(profile) else 0.0, "measured": size["sparsity"]},
        parameters=sum(p.numel() for p in model.parameters()),
        timings={"make_s": made - begin, "score_s": time.monotonic() - made},
        **found,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    print(f"{run}: {size['megabytes']:.1f} MB", flush=True)
    return store.finished(records, run, settings)


def _sparse(profile: Profile) -> list[str]:
    return [f"{100 * share:.0f}-q" for share in profile.sparsities]


def parts(settings: dict) -> list[dict[str, str]]:
    """The parts of the combination of this configuration: each one's run, and the run that it is compared with.

    None for `small-q`: its teacher, its tuning and its int8 embedding have no runs of their own that could be added up.
    """
    name, teacher, corpus, seed = (settings[key] for key in ("combination", "backbone", "corpus", "seed"))
    if name == "small-q":
        return []
    int8 = {
        "what": "int8 (QAT)",
        "run": quantization.run_name(_qat(settings["format"]), teacher, corpus, seed),
        "against": quantization.run_name("float", teacher, corpus, seed),
    }
    if name in STUDENTS:
        what, run = (
            "smaller, taught",
            distillation.run_name(settings["start"]["backbone"], STUDENTS[name], corpus, seed),
        )
    else:
        what = "sparse, taught"
        run = unstructured.run_name("obs", share(name), "cubic", teacher, corpus, seed, taught=True)
    return [{"what": what, "run": run, "against": baselines.run_name(teacher, corpus, seed)}, int8]


def _qat(form: str) -> str:
    """The graph of notebook 05 that learnt its int8 in this format."""
    return next(graph for graph, kind_and_form in quantization.FORMS.items() if kind_and_form == ("qat", form))


def _make_parts(
    profile: Profile, name: str, form: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> None:
    teacher, where = profile.teacher, {"corpus": corpus, "runs": runs}
    quantization.make(profile, "float", teacher, seed, corpora, **where)
    if name == "small-q":
        structured.kept(profile, "uniform", SMALL, teacher, seed, corpora, **where)
        return
    if name in STUDENTS:
        distillation.teach(profile, profile.students[0], STUDENTS[name], seed, corpora, **where)
    else:
        unstructured.prune(profile, "obs", share(name), "cubic", teacher, seed, corpora, taught=True, **where)
    quantization.make(profile, _qat(form), teacher, seed, corpora, **where)


def _start(
    profile: Profile, name: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The float model that int8 is learnt on."""
    if name != "small-q":
        return disk.load(Path(runs) / profile.name / "models" / start_run(name, profile, corpus, seed))
    where = {"corpus": corpus, "runs": runs}
    tuned = Path(runs) / profile.name / "models" / run_name("small-float", profile.teacher, corpus, seed)
    if not tuned.is_dir():
        model, tokenizer = disk.load(
            structured.kept(profile, "uniform", SMALL, profile.teacher, seed, corpora, **where)
        )
        tokenizer = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, structured.training_texts(corpora)))
        english = corpora["en"]
        words, tags = list(english["train"]["words"]), list(english["train"]["tags"])
        lesson = _taught(profile, model, tokenizer, words, tags, seed, corpora, **where)
        checkpoints = tuned.parents[1] / "checkpoints" / tuned.name
        model, _ = finetune(
            model,
            tokenizer,
            lesson.rows,
            english["dev"],
            folder=checkpoints,
            seed=seed,
            epochs=profile.distil_epochs,
            batch_size=profile.batch_size,
            learning_rate=profile.rate_after,
            max_length=profile.max_length,
            frozen=profile.frozen_after,
            loss=lesson.loss,
        )
        disk.save(model, tokenizer, tuned)
        shutil.rmtree(checkpoints)
    return disk.load(tuned)


def _taught(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    words: list[list[str]],
    tags: list[list[str] | None],
    seed: int,
    corpora: dict[str, DatasetDict],
    *,
    corpus: str,
    runs: Path,
) -> distill.Lesson:
    """Sentences with the dense baseline's answers, beside their labels where they have any."""
    teacher = baselines.load(profile, profile.teacher, seed, corpora, corpus=corpus, runs=runs)
    answers = Path(runs) / profile.name / "checkpoints"  # kept: pruning with a teacher asks the same
    ask = distill.cached(*teacher, words, max_length=profile.max_length, folder=answers)
    return distill.lesson(model, tokenizer, words, tags, ask, max_length=profile.max_length, **TEACHER)
