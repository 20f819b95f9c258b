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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import text
from mmalib.model import disk
from mmalib.model.backbones import layers, load_model, load_tokenizer, locate
from mmalib.plan import THREE, Run
from mmalib.pretrain import shrink
from mmalib.pretrain.train import train
from mmalib.prune import gradual, obs, sparsity
from mmalib.prune.layers import choose
from mmalib.records import clock, machine, store
from mmalib.studies.speed import gzip_mb
from mmalib.studies.study import Study
from mmalib.studies.training import held_out, recipe, tuned

CARD = """# {run}

The backbone `{backbone}` with {share:.0%} of its encoder's weights at zero, by {method}, chosen while it read {total:,}
subwords of {source} ({subwords}) beside its dense self, whose hidden states it learnt. It has seen no label.
{megabytes:.1f} MB, {gzip_megabytes:.1f} MB by gzip; {weights_left:,} encoder weights are left.

Tune it with its zeros held: `mmalib.model.backbones.load_model(folder, sparse=True)`, and
`mmalib.prune.gradual.Hold(mmalib.prune.sparsity.masks_of(model))` as a callback of the training.
"""


def prune(study: Study, run: Run, unfinished: Path) -> dict:
    """Prune a backbone on plain text, and leave it as a backbone."""
    settings, folder = run.settings, study.folder(run.name)
    tokenizer = load_tokenizer(settings["backbone"])
    material, about = read(study, settings, tokenizer)
    teacher = load_model(settings["backbone"], seed=settings["seed"]).base_model.to(machine.device())
    student, masks = copy.deepcopy(teacher), {}
    shrink.ready_(student)
    frame = tokenizer.cls_token_id, tokenizer.sep_token_id
    draw = partial(text.draw, material, tokens=settings["upstream_batch"], frame=frame)
    epoch, epochs = settings["upstream_subwords"] / settings["upstream_batch"], settings["upstream_epochs"]
    steps, moments, worth = round(epochs * epoch), when(settings), _criterion(settings, teacher, draw)

    def hold(step: int) -> None:
        masks.update(masks or sparsity.masks_of(student))
        if step in moments:
            masks.update(sparsity.prune_(student, worth, moments[step], "1", masks, 1))
        sparsity.apply_(student, masks)

    rewound = settings["rewinds_an_epoch"]
    rewinds = [round(number * epoch / rewound) for number in range(1, int(epochs * rewound))]
    how = {"loss": shrink.hidden_loss(teacher, range(len(layers(teacher)))), "after_step": hold}
    how |= {"rewinds": rewinds, "learning_rate": settings["rate"]}
    how |= {"seed": settings["seed"], "about": {"run": run.digest}}
    with clock.phase("training"):
        log = train(student, partial(draw, seed=settings["seed"]), unfinished, steps=steps, **how)
    disk.save(student, tokenizer, folder, about=study.about(run))
    size = {"megabytes": disk.size_mb(folder), "gzip_megabytes": gzip_mb(folder / disk.WEIGHTS)}
    size["weights_left"] = sum(int(mask.sum()) for mask in masks.values())
    about["total"] = steps * settings["upstream_batch"]
    store.write_atomic(folder / "README.md", CARD.format(run=run.name, **settings, **about, **size))
    zeros = {"requested": settings["share"], "measured": sparsity.measured(student)}
    return {"history": {"log": log}, "sparsity": zeros, "read": about, "size": size}


def transfer(study: Study, run: Run, unfinished: Path) -> dict:
    """Tune a backbone that was pruned upstream, masks held; keep and score it."""
    folder, backbone = study.folder(run.needs["start"]).resolve(), run.settings["backbone"]
    tokenizer, theirs = disk.tokenizer_in(folder), load_tokenizer(backbone)
    if tokenizer.get_vocab() != theirs.get_vocab():
        raise ValueError(
            f"{folder} has a vocabulary of {len(tokenizer)} pieces that is not that of {backbone}, which has "
            f"{len(theirs)}. Delete that folder: {backbone} is then pruned upstream again."
        )
    model = load_model(str(folder), seed=run.settings["seed"], sparse=True)
    return tuned(study, run, model, tokenizer, recipe(run.settings), unfinished)


def read(study: Study, settings: dict, tokenizer: PreTrainedTokenizerFast) -> tuple[text.Material, dict]:
    """The text of a run, no more of each language than an epoch draws of it, and what is told of it."""
    folder, languages, tokens = study.profile.text_folder, settings["languages"], {}
    lines = text.lines_of(folder, languages) if folder else {}
    cap = -(-settings["upstream_subwords"] // len(languages))
    secret = held_out(study)
    for name in languages:
        known = lines.get(name) or [" ".join(words) for words in study.corpora[name]["train"]["words"]]
        ordered = [known[place] for place in np.random.default_rng(0).permutation(len(known))]
        ordered = text.clean(ordered, secret) if folder else ordered
        enough = int(np.searchsorted(np.cumsum([len(line) for line in ordered]), 8 * cap)) + 1  # by their letters
        sequences = text.tokenize(tokenizer.backend_tokenizer, ordered[:enough], longest=settings["max_length"] - 2)
        tokens[name] = sequences[: np.searchsorted(np.cumsum([len(one) for one in sequences]), cap, side="right")]
    source = "a folder of text" if folder else f"the training sentences of {settings['corpus']}"
    about = {"source": source, "subwords": {name: sum(map(len, of)) for name, of in tokens.items()}}
    return text.Material(tokens, dict.fromkeys(tokens, 1.0)), about


def check(study: Study) -> None:
    """Refuse what would fail hours later: layers that the teacher does not have, a language without text."""
    depths, teacher = study.profile.depths, study.profile.teacher
    depth = AutoConfig.from_pretrained(locate(teacher)).num_hidden_layers
    for number in depths:
        choose(depth, number, "evenly")
    if depths[0] != depth:
        raise ValueError(f"depths begins with {depths[0]}, and {teacher} has {depth} layers. Let it begin with these.")
    if study.profile.text_folder:
        text.lines_of(study.profile.text_folder, THREE)


def when(settings: dict) -> dict[int, float]:
    """The steps before which masks change, evenly from the first one on, each with the sparsity from there on."""
    number = max(1, round(settings["upstream_epochs"] * settings["updates_an_epoch"]))
    between = settings["upstream_subwords"] / settings["upstream_batch"] / settings["updates_an_epoch"]
    moments = gradual.schedule("cubic", 0, (number - 1) * between, settings["initial"], settings["share"], number)
    return {round(step): share for step, share in moments}


def _criterion(settings: dict, teacher: PreTrainedModel, draw: Callable) -> sparsity.Criterion:
    if settings["method"] == "magnitude":
        return sparsity.by_magnitude()
    noisy = shrink.hidden_loss(teacher, range(len(layers(teacher))), noise=1.0)

    def loss(model: PreTrainedModel, number: int) -> torch.Tensor:
        torch.manual_seed(number)
        ids = draw(number, seed=settings["seed"] + 1000).to(model.device)
        return model.config.hidden_size / 2 * noisy(model, ids)  # a subword's, in the mean over layers

    sizes = {"num_grads": settings["fisher_gradients"], "block_size": settings["fisher_block"]}
    return obs.by_loss(loss, damp=settings["damp"], **sizes)
