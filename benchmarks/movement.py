"""Why does a model not outlive the loss of weights chosen by movement, where it outlives as many random ones?

    python benchmarks/movement.py runs/small/models/01-e5-conll-seed1

Movement takes the weights that training moves towards 0. This trains a tuned model on for a little, with nothing
pruned, and then takes a share of its weights at once, with no training after it: random ones, the smallest, those that
have in fact shrunk most, and those of the lowest and of the highest score by movement. The last row takes its weights
from both ends of that score, half of them from each. Entity F1 on 400 sentences of English dev; the corpora are
MMALIB_DATA's, or the sample.

`--out benchmarks/records` also writes the record that is shown beside the table of movement.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback

from mmalib.data.subwords import predict_tags, training_rows
from mmalib.model import disk
from mmalib.model.evaluate import entity_scores
from mmalib.model.finetune import Recipe, finetune
from mmalib.prune import movement, sparsity
from mmalib.records import store
from mmalib.reports import tables
from mmalib.studies.study import Study
from mmalib.studies.training import english

SHARES = (0.01, 0.05, 0.1)
SEED, DEV = 1, 400  # sentences to score


class Watch(TrainerCallback):
    """Scores the weights by movement while the Trainer trains a model of which nothing is pruned."""

    def __init__(self) -> None:
        self.criterion = movement.criterion()

    def on_pre_optimizer_step(self, args, state, control, *, model, **_) -> None:
        """Score the step that is about to be taken."""
        self.criterion.observe(model, sparsity.masks_of(model), 1.0)


def main(arguments: list[str] | None = None) -> None:
    """Train on, take weights in each way, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a tuned model")
    parser.add_argument("--profile", default="small", help="for the rate and the length (default: small)")
    parser.add_argument("--sentences", type=int, default=2000, help="to train on, in batches of 4 (default: 2000)")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    study = Study.open(options.profile)
    settings = {"model": options.folder.name, "corpus": study.corpus, "sentences": options.sentences, "dev": DEV}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "movement", settings)
    model, tokenizer = disk.load(options.folder)
    before = {name: weight.detach().abs() for name, weight in sparsity.weights(model).items()}
    train, dev = english(study, tokenizer, options.sentences, DEV)
    watch, recipe = Watch(), Recipe(epochs=1, batch_size=4, learning_rate=study.profile.learning_rate)
    with tempfile.TemporaryDirectory() as folder:
        rows = training_rows(train, model.config.label2id)
        model, _ = finetune(model, rows, dev, recipe, folder=Path(folder), seed=SEED, callbacks=[watch])

    def f1(without: dict[str, torch.Tensor] | None = None, share: float = 0.0) -> str:
        left = copy.deepcopy(model)
        if without:
            sparsity.one_shot_(left, sparsity.Criterion("given", lambda *_: without), share)
        predicted = predict_tags(left, tokenizer, dev.words, max_length=study.profile.max_length)
        return f"{entity_scores(dev.tags, predicted, resamples=1)['f1']:.3f}"

    shown = [{"what goes": "nothing"} | dict.fromkeys((f"{share:.0%}" for share in SHARES), f1())]
    for name, scores in ways(model, before, watch.criterion).items():
        shown.append({"what goes": name} | {f"{share:.0%}": f1(scores, share) for share in SHARES})
    print(tables.markdown(pd.DataFrame(shown)))
    if options.out:
        store.save(options.out, "movement", settings, scores={}, rows=shown)


def ways(model, before: dict[str, torch.Tensor], criterion: sparsity.Criterion) -> dict[str, dict[str, torch.Tensor]]:
    """What each way of choosing thinks that weights are worth; the lowest go."""
    own = {name: weight.detach() for name, weight in sparsity.weights(model).items()}
    drawn = torch.Generator().manual_seed(SEED)
    moved = criterion.scores(model, "1", sparsity.masks_of(model))
    middle = torch.cat([score.flatten() for score in moved.values()]).median()
    return {
        "random weights": {name: torch.rand(weight.shape, generator=drawn) for name, weight in own.items()},
        "the smallest": {name: weight.abs() for name, weight in own.items()},
        "those that shrank most": {name: weight.abs() - before[name] for name, weight in own.items()},
        "lowest by movement": moved,
        "highest by movement": {name: -score for name, score in moved.items()},
        "half lowest, half highest": {name: -(score - middle).abs() for name, score in moved.items()},
    }


if __name__ == "__main__":
    main()
