"""Combined models: a model that is small or sparse, a teacher, and int8 on top of both.

    80-q, 90-q   the paper's `xlm_80_q`: the baseline pruned by second order while its dense self teaches it, then
                 trained on under fake quantization, its zeros held, the teacher still there
    distil-q     the paper's `distilbert_q`: a student tuned with the teacher, then the same
    distil-text-q  another setting, beyond the paper: the student that has also read Spanish and Dutch text with the
                 teacher's answers (notebook 04), then the same with such text as well
    distil-open-q  the same with open text in place of the shared tasks', for users
    halved-q     beyond the paper, for the open runtimes, which gain nothing from single zeros: half of the heads and
                 neurons of every layer gone, the subwords gone that no training text needs, tuned with the teacher
                 (`halve`), then the same; of what is left, every weight is int8, the embedding as well
    distil-halved-q  the student of `distil-q`, halved like that

Every one is scored as the int8 graph that it is shipped as. The teacher is the dense baseline of the same seed.
"""

from pathlib import Path

from mmalib.data.corpus import fewer_to_score
from mmalib.graph import export
from mmalib.model import disk
from mmalib.model.evaluate import scored
from mmalib.plan import Run
from mmalib.prune import uniform
from mmalib.studies import quantization, speed, structured
from mmalib.studies.study import Study
from mmalib.studies.training import english, recipe_after, tuned, with_unlabelled


def halve(study: Study, run: Run, unfinished: Path) -> dict:
    """The float model of a halved one: made smaller step by step, cut to its subwords, tuned and taught."""
    settings = run.settings
    model, tokenizer = study.model(run.needs["start"])
    heads, neurons = model.config.num_attention_heads, disk.neurons_left(model)[0]
    weighed_on = structured.measured_on(study, settings, model, tokenizer)
    for step in uniform.plan(heads, neurons, settings["head_share"]):
        if step[0] >= settings["removed"] * heads:
            uniform.shrink_(model, weighed_on, *step)
    tokenizer = structured.without_unused_(study, model, tokenizer)
    return tuned(study, run, model, tokenizer, recipe_after(settings, settings["distil_epochs"]), unfinished)


def combine(study: Study, run: Run, unfinished: Path) -> dict:
    """Train what the combination starts from on under fake quantization, taught; score the int8 graph."""
    settings, folder, corpora = run.settings, study.folder(run.name), study.corpora
    model, tokenizer = study.model(run.needs["start"])
    requested = settings["start"].get("share", 0.0)
    train, dev = english(study, tokenizer, settings["qat_sentences"], settings["int8_sentences"])
    if settings["start"].get("sees_target_text"):
        train = with_unlabelled(study, train, settings["start"])
    size, facts = quantization.learn(study, run, model, train, dev, unfinished)
    predict = export.tagger(folder, settings["max_length"])
    print(f"{run.name}: {size['megabytes']:.1f} MB", flush=True)
    facts["scores"] = scored(predict, fewer_to_score(corpora, settings["int8_sentences"]))
    facts["further"] = scored(predict, corpora.further)
    facts |= {"sparsity": {"requested": requested, "measured": size["sparsity"]}}
    return facts | {"size": {**size, **speed.sizes(folder)}, "parameters": model.num_parameters()}
