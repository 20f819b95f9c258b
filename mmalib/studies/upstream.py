"""Pruned before the task is known (Kurtic et al. 2022, "upstream"), then tuned with masks held ("sparse transfer").

    upstream    a backbone, pruned while it learns on plain text to have the hidden states of its dense self; it is
                left as a backbone of its own, with a card, for anyone to tune
    transfer    that backbone tuned on English entities as any other, masks held, with the dense baseline as teacher

The text is English, Spanish and Dutch in equal parts, or as many subwords of English alone. It comes from a folder as
in notebook 00, without the lines that hold a sentence of an evaluation set, or else it is the sentences of the training
sets, without labels.

At the dense model the objective is 0, and so is its gradient: its empirical Fisher would say nothing. Here it is that
of a Gaussian around the hidden states, as wide as they vary: for its gradients, and for nothing else, such noise is
added to the teacher's states, and the loss is the likelihood of a subword's states.
"""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.model import disk
from mmalib.model.backbones import layers, load_model, load_tokenizer
from mmalib.model.finetune import rate_at
from mmalib.plan import THREE, Run
from mmalib.pretrain import batches, shrink, text
from mmalib.pretrain.train import train
from mmalib.prune import gradual, magnitude, obs, sparsity
from mmalib.records import clock, store
from mmalib.studies.compound import with_masks
from mmalib.studies.finish import recipe
from mmalib.studies.speed import gzip_mb
from mmalib.studies.study import Study

CARD = """# {run}

The backbone `{backbone}` with {share:.0%} of its encoder's weights at zero, by {method}, chosen while it read
{subwords:,} subwords of plain text ({languages}; from {source}) beside its dense self, whose hidden states it learnt.
It has seen no label. {megabytes:.1f} MB, {gzip_megabytes:.1f} MB by gzip; {left:.1f} million encoder weights are left.

Tune it with its zeros held: `mmalib.model.backbones.load_model(folder, sparse=True)`, and
`mmalib.prune.gradual.Hold(mmalib.prune.sparsity.masks_of(model))` as a callback of the training.
"""


def prune(study: Study, run: Run, unfinished: Path) -> dict:
    """Prune a backbone on plain text, and leave it as a backbone."""
    settings, folder = run.settings, study.folder(run.name)
    tokenizer = load_tokenizer(settings["backbone"])
    material, about = read(study, settings, tokenizer)
    teacher = load_model(settings["backbone"], seed=settings["seed"]).base_model
    student, size = copy.deepcopy(teacher), settings["upstream_batch"]
    shrink.ready_(student)
    drawn = partial(batches.draw, material, tokens=size)
    epoch = settings["upstream_subwords"] / size
    steps = round(settings["upstream_epochs"] * epoch)
    moments = when(settings, steps)
    criterion, masks = _criterion(settings, teacher, drawn), {}

    def hold(step: int) -> None:
        nonlocal masks
        masks = masks or sparsity.masks_of(student)
        if step in moments:
            masks = sparsity.prune_(student, criterion, moments[step], "1", masks, 1)
        sparsity.apply_(student, masks)

    rewound = settings["rewinds_an_epoch"]
    rewinds = [round(number * epoch / rewound) for number in range(1, int(settings["upstream_epochs"] * rewound))]
    rate = partial(rate_at, total=steps, warm_up=min(200, steps // 10), rewinds=rewinds, floor=0.0)
    how = {"learning_rate": settings["rate"], "seed": settings["seed"], "about": {"run": run.digest}}
    loss = shrink.hidden_loss(teacher, range(len(layers(teacher))))
    with clock.phase("training"):
        draw = partial(drawn, seed=settings["seed"])
        log = train(student, draw, unfinished, steps=steps, loss=loss, rate=rate, after_step=hold, **how)
    zeros = sparsity.measured(student)
    disk.save(student, tokenizer, folder, about=study.about(run))
    about |= {"total": steps * size}
    weights = folder / disk.WEIGHTS
    facts = {"megabytes": disk.size_mb(folder), "gzip_megabytes": gzip_mb(weights)}
    left = sum(int(mask.sum()) for mask in sparsity.masks_of(student).values())
    told = {**settings, **facts, "run": run.name, "subwords": about["total"], "source": about["source"]}
    told |= {"left": left / 1e6, "languages": ", ".join(settings["languages"])}
    store.write_atomic(folder / "README.md", CARD.format(**told))
    zeros = {"requested": settings["share"], "measured": zeros["total"], "layers": zeros["layers"]}
    return {"history": {"log": log}, "sparsity": zeros, "read": about, "size": facts | {"weights_left": left}}


def transfer(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone that was pruned upstream, masks held; keep and score it."""
    folder, settings = study.folder(run.needs["start"]).resolve(), run.settings
    tokenizer = load_tokenizer(str(folder))
    theirs = load_tokenizer(settings["backbone"]).get_vocab()
    if tokenizer.get_vocab() != theirs:
        raise ValueError(
            f"{folder} has a vocabulary of {len(tokenizer)} pieces that is not that of {settings['backbone']}, which "
            f"has {len(theirs)}. Prune {settings['backbone']} upstream again: delete that folder."
        )
    model = load_model(str(folder), seed=settings["seed"], sparse=True)
    share = settings["start"]["share"]
    return with_masks(study, run, model, tokenizer, recipe(settings), unfinished, share=share)


def read(study: Study, settings: dict, tokenizer: PreTrainedTokenizerFast) -> tuple[batches.Material, dict]:
    """The text of a run, no more of each language than an epoch draws of it, and what is told of it."""
    folder, languages = study.profile.text_folder, settings["languages"]
    lines = check(folder, languages)
    if not folder:
        lines = {name: [" ".join(words) for words in study.corpora[name]["train"]["words"]] for name in languages}
    else:
        secret = [words for test in study.corpora.further.values() for words in test["words"]]
        for splits in study.corpora.values():
            secret += [words for split in ("dev", "test") for words in splits[split]["words"]]
        for name, of_language in lines.items():
            leaks = set(text.leaked(of_language, secret))
            lines[name] = [line for line in of_language if line not in leaks]
    cap, tokens = -(-settings["upstream_subwords"] // len(languages)), {}
    for name, of_language in lines.items():
        order = np.random.default_rng(0).permutation(len(of_language))
        ordered = [of_language[place] for place in order]
        enough = int(np.searchsorted(np.cumsum([len(line) for line in ordered]), 8 * cap)) + 1  # by their letters
        found = text.tokenize(tokenizer.backend_tokenizer, ordered[:enough], longest=settings["max_length"] - 2)
        until = int(np.searchsorted(found.offsets, cap, side="right"))
        tokens[name] = text.Tokens(found.flat[: found.offsets[until - 1]], found.offsets[:until])
    source = "a folder of text" if folder else f"the training sentences of {settings['corpus']}"
    about = {"source": source, "subwords": {name: len(of.flat) for name, of in tokens.items()}}
    return batches.Material(tokens, dict.fromkeys(tokens, 1.0)), about


def check(folder: str | None, languages: Sequence[str] = THREE) -> dict[str, list[str]]:
    """The lines of these languages in a folder, if there is one; a folder that lacks text is refused."""
    if not folder:
        return {}
    lines = text.read_text(Path(folder))
    for name in languages:
        if not lines.get(name):
            raise ValueError(f"{folder} has no text in {name}: {name}.txt is absent or empty. Give a line a sentence.")
    return {name: lines[name] for name in languages}


def when(settings: dict, steps: int) -> dict[int, float]:
    """The steps before which masks change, evenly from the first one on, each with the sparsity from there on."""
    number = max(1, round(settings["upstream_epochs"] * settings["updates_an_epoch"]))
    last = steps * (number - 1) / number
    moments = gradual.schedule("cubic", 0, last, settings["initial"], settings["share"], number)
    return {round(step): share for step, share in moments}


def _criterion(settings: dict, teacher: PreTrainedModel, drawn) -> sparsity.Criterion:
    if settings["method"] == "magnitude":
        return magnitude.criterion()
    noisy = shrink.hidden_loss(teacher, range(len(layers(teacher))), noise=1.0)

    def loss(model: PreTrainedModel, number: int) -> torch.Tensor:
        torch.manual_seed(number)
        ids = drawn(number, seed=settings["seed"] + 1000).to(model.device)
        return model.config.hidden_size / 2 * noisy(model, ids)  # a subword's, in the mean over layers

    sizes = {"num_grads": settings["fisher_gradients"], "block_size": settings["fisher_block"]}
    return obs.by_loss(loss, damp=settings["damp"], **sizes)
