"""What does rounding its layers to 4 bits cost a tuned model, in every language?

    python benchmarks/rounding.py runs/small/models/01-e5-conll-seed1

The weights that `e5` was rounded from are not at hand, so its own loss cannot be measured. This rounds a model that was
tuned from it once more, in the same blocks of 32, and scores both. It tells what such a rounding costs where no tuning
follows that could mend it, as it does after the first one. The corpora are MMALIB_DATA's, or the sample.

`--out benchmarks/records` also writes the record that the backbones' card quotes.
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel

from mmalib import profiles
from mmalib.data import corpus
from mmalib.data.subwords import predict_tags
from mmalib.model import disk, packed
from mmalib.model.evaluate import entity_scores
from mmalib.records import store
from mmalib.reports import figures, tables


def main(arguments: list[str] | None = None) -> None:
    """Score the model before and after, and print a row a language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a tuned model")
    parser.add_argument("--profile", default="small", help="for the size of the test sets (default: small)")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    profile = profiles.load_profile(options.profile)
    data = corpus.corpus_name(profile)
    settings = {"model": options.folder.name, "bits": options.bits, "corpus": data, "sentences": profile.eval_sentences}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "rounding", settings)
    model, tokenizer = disk.load(options.folder)
    corpora = corpus.load(profile)
    tests = {name: splits["test"] for name, splits in corpora.items()} | corpora.further
    predict = partial(predict_tags, model, tokenizer, max_length=profile.max_length)
    before = {name: entity_scores(list(test["tags"]), predict(test["words"]))["f1"] for name, test in tests.items()}
    round_(model, options.bits)
    rows = []
    for name, test in tests.items():
        after = entity_scores(list(test["tags"]), predict(test["words"]))["f1"]
        row = {"language": figures.language_name(name), "F1": f"{before[name]:.3f}"}
        rows.append(row | {"rounded once more": f"{after:.3f}", "points": f"{100 * (after - before[name]):+.1f}"})
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        store.save(options.out, "rounding", settings, scores={}, rows=rows)


@torch.no_grad()
def round_(model: PreTrainedModel, bits: int) -> None:
    """Round every matrix of the layers in place, in blocks as the shipped weights have them."""
    for weight in model.base_model.encoder.parameters():
        if weight.dim() == 2:
            values, scales = packed.rounded(weight.numpy(force=True), bits)
            weight.copy_(torch.from_numpy(packed.scaled(values, scales)))


if __name__ == "__main__":
    main()
