"""Models that have the paper's shapes and nothing learned: what a speed depends on, without training anything.

Throughput depends on layers, widths, the pattern of zeros and the number format, not on what the weights are. So the
speed tables build their models here, from configuration, with random weights and zeros at random places. The
vocabulary is a matter of size on disk alone (one row of the embedding is read for each token whatever its height): it
is `FEW` unless it is asked for as it was, which only sizes need, or text is read, as by base. Which zeros, heads and
neurons go is drawn at random; ranges of activations come from random subwords for the same reason.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import LABELS, named
from mmalib.graph import export, quantize, ranges
from mmalib.model.backbones import layers
from mmalib.model.disk import neurons_left
from mmalib.prune import heads, sparsity, uniform
from mmalib.speed.cases import Case, is_whole_base

# name → (architecture, layers, width, width of the feed-forward part, the vocabulary it has in the paper)
SHAPES = {
    "base": ("xlm-roberta", 12, 768, 3072, 250_002),  # xlm-roberta-base
    "distilbert": ("distilbert", 6, 768, 3072, 119_547),  # distilbert-base-multilingual-cased
    "minilm": ("bert", 12, 384, 1536, 250_037),  # Multilingual-MiniLM-L12-H384
    "bert": ("bert", 12, 768, 3072, 30_522),  # bert-base-uncased, of the Optimal BERT Surgeon
    "bert-6": ("bert", 6, 768, 3072, 30_522),
    "bert-3": ("bert", 3, 768, 3072, 30_522),
}
HEADS = 12  # all of them have as many
CALIBRATION = {"number": 4, "length": 32}  # random subwords
FEW = 1000  # subwords


def shape(name: str, *, vocabulary: int | None = None, layers: int | None = None) -> PreTrainedModel:
    """A random model of one of SHAPES, with another `vocabulary` than the paper's or of another depth where told."""
    architecture, depth, width, inner, subwords = SHAPES[name]
    depth, vocabulary = layers or depth, vocabulary or subwords
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if architecture == "distilbert":
        names = ("dim", "hidden_dim", "n_layers", "n_heads")
    sizes = dict(zip(names, (width, inner, depth, HEADS), strict=True))
    if architecture == "xlm-roberta":  # its positions count from 2, hence 514; one type of token
        sizes |= {"max_position_embeddings": 514, "type_vocab_size": 1}
        sizes |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=vocabulary, **sizes, **named(LABELS))
    return AutoModelForTokenClassification.from_config(config).eval()


def build(
    case: Case,
    forms: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    *,
    deepest: int | None,
    source: Path | None = None,
) -> dict[str, Path]:
    """Write the case's folders into the folder `target`, in these forms; at most `deepest` layers, where that is set.

    What is there is taken as it is: a folder is complete or absent. `source` is the float folder, if there is one.
    """
    folders = {form: Path(target) / form for form in forms} | {"float": source or Path(target) / "float"}
    if not all((folder / export.GRAPH).is_file() for folder in folders.values()):
        if source is None:
            model = random_model(case, len(tokenizer) if is_whole_base(case) else FEW, deepest)
            export.export(model, tokenizer, folders["float"], provenance={"case": case.name})
            del model
        known = None
        if {"qdq", "qoperator"} & set(forms):
            subwords = min(len(tokenizer), FEW, SHAPES[case.shape][4])
            rows = ranges.random_rows(tokenizer, vocabulary=subwords, **CALIBRATION)
            known = ranges.calibrate(folders["float"], rows)
        for form in set(forms) - {"float"}:
            how = {"kind": form} if form == "dynamic" else {"kind": "static", "ranges": known, "format": form}
            # of what is shipped, every weight is int8
            quantize.quantize(folders["float"], folders[form], embeddings=case.sized, **how)
    return {form: folders[form] for form in forms}


def random_model(case: Case, subwords: int, deepest: int | None = None) -> PreTrainedModel:
    """The case's model in float, with random weights, and without what the case takes out."""
    depth = min(filter(None, (case.depth or SHAPES[case.shape][1], deepest)))
    model = shape(case.shape, vocabulary=None if case.sized else subwords, layers=depth)
    if case.heads:
        heads.remove_heads_(model, scattered(len(layers(model)), HEADS, case.heads))
    if case.uniform:
        evenly_smaller_(model, case.uniform)
    if case.sparsity:
        sparsity.one_shot_(model, sparsity.at_random(), case.sparsity, case.pattern)
    return model


def scattered(depth: int, number: int, share: float) -> dict[int, list[int]]:
    """Heads to take out of a model of `depth` layers, anywhere, as head pruning does it; every layer keeps one."""
    draw = torch.Generator().manual_seed(0)
    stays = torch.randint(number, (depth,), generator=draw).tolist()
    free = [(layer, head) for layer in range(depth) for head in range(number) if head != stays[layer]]
    order = torch.randperm(len(free), generator=draw).tolist()[: round(share * depth * number)]
    gone: dict[int, list[int]] = {}
    for layer, head in sorted(free[place] for place in order):
        gone.setdefault(layer, []).append(head)
    return gone


def evenly_smaller_(model: PreTrainedModel, share: float) -> None:
    """Take the same share of heads and of feed-forward neurons out of every layer of a whole model, in place."""
    kept, widths = max(1, round((1 - share) * HEADS)), neurons_left(model)
    heads.remove_heads_(model, {layer: range(kept, HEADS) for layer in range(len(widths))})
    uniform.remove_neurons_(model, {n: range(max(1, round((1 - share) * w)), w) for n, w in enumerate(widths)})
