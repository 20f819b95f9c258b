"""What notebook 07 measures: the paper's architectures at full size, with nothing learned, and how each is built.

A case is a shape, what was taken out of it, and its number format. A runtime wants its own form of an int8 graph (see
`quantize`), so a case is one folder or two. Which zeros, heads and neurons go is drawn at random: the speed depends on
how many, and on their pattern. Ranges of activations come from random subwords for the same reason.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.graph import export, quantize, ranges
from mmalib.model.backbones import layers
from mmalib.model.disk import heads_left, neurons_left
from mmalib.prune import heads, uniform
from mmalib.speed import shapes

ALL = ("onnxruntime", "openvino", "deepsparse")
SPARSE = ("deepsparse",)  # the one runtime that skips zeros of float weights
OPEN = ("onnxruntime", "openvino", "openvino:hint=throughput", "openvino:shapes=fixed")
SHARES = (0.25, 0.5, 0.75, 11 / 12)  # of the heads, or of heads and neurons: figures 6 to 9
CALIBRATION = {"number": 4, "length": 32}  # random subwords


@dataclass(frozen=True)
class Case:
    """One configuration: what is built, and where it is measured."""

    name: str
    shape: str = "base"
    depth: int | None = None  # layers, None: as many as the shape has
    sparsity: float = 0.0  # share of the encoder's weights that is zero
    pattern: str = "1"
    heads: float = 0.0  # share of all heads that is gone, wherever they were
    uniform: float = 0.0  # share of heads and of neurons that is gone in every layer
    int8: str | None = None  # "dynamic" or "static"
    runtimes: tuple[str, ...] = ALL
    batches: tuple[int, ...] | None = None  # None: the profile's
    sized: bool = False  # its gzip size is measured, with the paper's vocabulary


def cases() -> list[Case]:
    """Everything that a full study measures, table by table; dense float32 `base` is first."""
    sparse = [
        Case(f"base {share:.0%} {word}", sparsity=share, pattern=pattern, runtimes=SPARSE)
        for share in (0.8, 0.9)
        for pattern, word in (("1", "unstructured"), ("4", "4-block"))
    ]
    sparse_int8 = [
        Case(f"base {share:.0%} {word} int8", sparsity=share, pattern=pattern, int8="static")
        for share in (0.8, 0.9)
        for pattern, word in (("1", "unstructured"), ("4", "4-block"))
    ]
    smaller = [Case(f"{way} {share:.0%}", **{way: share}) for way in ("heads", "uniform") for share in SHARES]
    return [
        Case("base", runtimes=(*ALL, "openvino:precision=bf16")),
        Case("distilbert", "distilbert"),
        Case("minilm", "minilm"),
        Case("base dynamic", int8="dynamic"),
        Case("base int8", int8="static"),
        Case("distilbert int8", "distilbert", int8="static"),
        Case("minilm int8", "minilm", int8="static"),
        *sparse,
        *sparse_int8,
        *smaller,
        Case("base 6 layers int8", depth=6, int8="static", runtimes=OPEN),
        Case("base 6 layers uniform 50% int8", depth=6, uniform=0.5, int8="static", runtimes=OPEN),
        Case("base 3 layers int8", depth=3, int8="static", runtimes=OPEN),
        Case("minilm uniform 50% int8", "minilm", uniform=0.5, int8="static", runtimes=OPEN),
        Case("minilm 6 layers int8", "minilm", 6, int8="static", runtimes=OPEN),
        Case("minilm 6 layers uniform 50% int8", "minilm", 6, uniform=0.5, int8="static", runtimes=OPEN),
        Case("minilm 3 layers uniform 50% int8", "minilm", 3, uniform=0.5, int8="static", runtimes=OPEN),
        *obert(),
    ]


def obert() -> list[Case]:
    """Table 17 of the Optimal BERT Surgeon: bert-base-uncased at three depths, batch 32."""
    common = {"runtimes": SPARSE, "batches": (32,), "sized": True}
    found = []
    for depth, shape in ((12, "bert"), (6, "bert-6"), (3, "bert-3")):
        found += [Case(f"obert {depth} layers dense", shape, **common)] if depth == 12 else []
        for share in (0.8, 0.9):
            found.append(Case(f"obert {depth} layers {share:.0%} unstructured", shape, sparsity=share, **common))
        block = {"sparsity": 0.8, "pattern": "4", "int8": "static"}
        found.append(Case(f"obert {depth} layers 80% 4-block int8", shape, **block, **common))
    return found


def form(case: Case, runtime: str) -> str:
    """The form of a case's graph that a runtime runs fast."""
    if case.int8 != "static":
        return case.int8 or "float"
    return "qoperator" if runtimes.parse(runtime)[0] == "deepsparse" else "qdq"


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
    found = {form: Path(target) / form for form in ("float", *forms)}
    found["float"] = source or found["float"]
    if not all((folder / export.GRAPH).is_file() for folder in found.values()):
        if source is None:
            model = random_model(case, len(tokenizer), deepest)
            export.export(model, tokenizer, found["float"], provenance={"case": case.name})
            del model
        known = None
        if {"qdq", "qoperator"} & set(forms):
            known = ranges.calibrate(found["float"], ranges.random_rows(tokenizer, **CALIBRATION))
        for form in set(forms) - {"float"}:
            dynamic = form == "dynamic"
            quantize.quantize(
                found["float"],
                found[form],
                kind=form if dynamic else "static",
                ranges=None if dynamic else known,
                format="qdq" if dynamic else form,
                embeddings=case.sized,  # of what is shipped, every weight is int8
            )
    return {form: found[form] for form in forms}


def is_whole_base(case: Case) -> bool:
    """Whether nothing is taken out of XLM-R base: only the number format is another."""
    return dataclasses.replace(case, name="base", int8=None, runtimes=(), batches=None) == Case("base", runtimes=())


def random_model(case: Case, subwords: int, deepest: int | None = None) -> PreTrainedModel:
    """The case's model in float, with random weights, and without what the case takes out."""
    depth = min(filter(None, (case.depth or shapes.SHAPES[case.shape][1], deepest)))
    vocabulary = None if case.sized else subwords
    model = shapes.shape(case.shape, vocabulary=vocabulary, layers=depth)
    if case.heads:
        heads.remove_heads_(model, scattered(len(layers(model)), shapes.HEADS, case.heads))
    if case.uniform:
        evenly_smaller_(model, case.uniform)
    if case.sparsity:
        shapes.impose_(model, case.sparsity, case.pattern)
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
    """Take the same share of heads and of feed-forward neurons out of every layer, in place."""
    left, wide = heads_left(model), neurons_left(model)
    keep = [max(1, round((1 - share) * len(of_layer))) for of_layer in left]
    heads.remove_heads_(model, {n: of_layer[keep[n] :] for n, of_layer in enumerate(left) if keep[n] < len(of_layer)})
    uniform.remove_neurons_(model, {n: range(max(1, round((1 - share) * w)), w) for n, w in enumerate(wide)})
