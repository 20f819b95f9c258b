"""The sizes of the study, as plain data.

A profile says which backbones, seeds and corpora a study uses and how long it trains; it holds no behaviour.
`quick` is what a newcomer runs, `small` is the real study on the shipped backbones, `paper` is the paper's own scale.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from inspect import formatannotation
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

RUNTIMES = ("onnxruntime", "openvino", "deepsparse", "torch")
RANGES = ("minmax", "percentile", "entropy")  # see mmalib.graph.ranges
CHOICES = ("evenly", "top", "bottom", "loss")  # see mmalib.prune.layers
QUICK_CASES = ("base", "base 90% 4-block int8", "uniform 50%", "minilm 6 layers uniform 50% int8")
QUICK_CASES += ("obert 3 layers 80% 4-block int8",)
QUICK_GRAPHS = ("longer", "dynamic", "static", "qat", "without-data", "static-qoperator", "static-embeddings", "floor")
QUICK_COMPOUND = ("6 layers 50% 4-block int8", "ablation matrix-free")


def sizes(quick, small, *paper):
    """A setting that differs by profile; what is said of `small` holds for `paper` too, if nothing else is."""
    return field(metadata={"quick": quick, "small": small, "paper": paper[0] if paper else small})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of the study: what is tuned, on what, for how long. A cap of None takes all."""

    name: str
    backbones: tuple[str, ...] = sizes(("e5-half",), ("e5",), ("mlbert", "xlm"))  # see model.backbones
    seeds: tuple[int, ...] = sizes((1,), (1, 2, 3))
    data: str = sizes("sample", "hub")  # or a folder; MMALIB_DATA overrides it
    train_sentences: int | None = sizes(2000, None)  # cap on English training sentences
    eval_sentences: int | None = sizes(100, None)  # cap on every dev and test set
    epochs: int = sizes(3, 5, 4)
    batch_size: int = sizes(8, 16, 32)
    learning_rate: float = sizes(4e-4, 7e-5, 3e-5)
    max_length: int = sizes(128, 128, 256)  # window, in subwords
    frozen: float | None = sizes(1 / 3, None)  # embeddings and this share of the layers stay; None tunes all
    rate_after: float = sizes(2e-4, 2e-4, 8e-5)  # the rate after tuning: while pruned, recovering, learning int8
    frozen_after: float | None = sizes(0.0, 0.0, None)  # and the share of the layers that stays as it is then
    head_rate: float = sizes(10.0, 10.0, 1.0)  # the new head's learning rate, in learning rates of the model
    label_smoothing: float = 0.0
    masked_words: float = sizes(0.0, 0.1, 0.0)  # share of the words that a step hides
    average_from: float | None = sizes(None, 2.0, None)  # the mean of checkpoints after that epoch, or the best
    curve_sentences: int | None = sizes(48, 1000, None)  # cap on every dev and test set along a curve
    pruning_seeds: tuple[int, ...] | None = None  # of everything that is made from the baselines, None: seeds
    # structured pruning, notebook 02
    head_share: float = sizes(0.25, 1 / 12)  # share of all heads that one step removes
    importance_sentences: int = sizes(128, 1000, 2000)  # English training sentences that importance is measured on
    recovery_sentences: int = sizes(160, 2000, 4000)  # those of the short fine-tune after pruning
    # unstructured pruning, notebook 03
    sparsities: tuple[float, ...] = sizes((0.5,), (0.8, 0.9))  # shares of the encoder's weights that go
    pruning_epochs: float = sizes(6 / 40, 6 / 4, 6)  # while sparsity grows; as Kurtic et al., or a part of it
    sparse_epochs: float = sizes(2 / 40, 2 / 4, 2)  # after that
    pruning_updates: int = sizes(4, 13)  # of the masks while sparsity grows, as in that recipe; movement has its own
    one_shot: tuple[float, ...] = sizes((0.3, 0.5, 0.7), (0.1, 0.2, 0.3, 0.4, 0.5, 0.7))  # and 2:4 beside them
    # sentences a step while pruned: in few epochs, many small steps keep more; None: batch_size
    pruning_batch: int | None = sizes(8, 4, None)
    published: bool = sizes(False, False, True)  # by published settings, not by those that trials chose
    fisher_gradients: int = sizes(8, 64, 1024)  # gradients behind one estimate of the inverse Fisher
    fisher_batch: int = sizes(8, 8, 16)  # sentences behind one gradient
    fisher_block: int = sizes(16, 32, 50)  # weights that one block of the inverse Fisher covers
    trials: bool = sizes(False, True, False)  # whether settings are tried out, or only used
    # distillation, notebook 04
    teacher: str = sizes("e5-half", "e5", "xlm")  # its tuned baseline teaches, and students learn without it as well
    students: tuple[str, ...] = sizes(("e5-narrow",), ("e5-half", "e5-narrow"), ("distilbert", "minilm"))
    # those students that the teacher also teaches on unlabelled text
    unlabelled_students: tuple[str, ...] = sizes(("e5-narrow",), ("e5-half",), ("distilbert", "minilm"))
    unlabelled_sentences: int | None = sizes(100, 3500, None)  # of Spanish and of Dutch training text each
    self_taught: int = sizes(0, 2, 0)  # rounds in which the teacher learns from its own answers on that text
    distil_epochs: int = sizes(2, 5, 4)
    # combined models, notebook 06: names of mmalib.plan.combinations
    left_out: tuple[str, ...] = sizes(("distil-halved-q",), ())
    # throughput, notebook 07
    speed_cases: tuple[str, ...] | None = sizes(QUICK_CASES, None)  # names of mmalib.speed.cases
    speed_layers: int | None = None  # cap on the depth of the paper's shapes
    speed_runtimes: tuple[str, ...] = RUNTIMES
    speed_batches: tuple[int, ...] = sizes((1,), (1, 4, 8))
    speed_seconds: float = sizes(0.3, 1.0, 5.0)  # into each measurement, and as many into the baseline beside it
    speed_turns: int = sizes(3, 7)  # of candidate and baseline
    speed_calls: int = sizes(1, 5)  # of the baseline in a turn, at least
    speed_sentences: int | None = sizes(16, 120, 1000)  # of real text that each model reads, None for all of it
    speed_models: int | None = sizes(1, 18, None)  # cap on the models timed, after as many combined ones
    # quantization, notebook 05: names of mmalib.plan.GRAPHS
    int8_graphs: tuple[str, ...] | None = sizes(QUICK_GRAPHS, None)
    int8_sentences: int | None = sizes(80, None)  # cap on every dev and test set that the graphs are scored on
    calibration_sentences: int = sizes(32, 256, 512)  # English training sentences, or rows of random subwords
    calibration_methods: tuple[str, ...] = sizes(RANGES[:2], RANGES)  # English dev chooses among them
    qat_sentences: int | None = sizes(160, 7000, None)  # English training sentences under fake quantization
    qat_epochs: float = sizes(1, 1, 4)
    floor_sentences: int | None = sizes(30, 200, 300)  # cap on a dev set while maps to leave in float are looked for
    floor_layers: int | None = sizes(1, None)  # layers whose maps are looked at
    # compound compression, notebook 08
    depths: tuple[int, ...] = sizes((6,), (12, 6, 3))  # layers; the first number is the whole model's
    layer_choices: tuple[str, ...] = sizes((), CHOICES)  # which layers stay; the first goes on
    compound: tuple[str, ...] | None = sizes(QUICK_COMPOUND, None)  # its parts, see mmalib.plan
    compound_updates: int | None = sizes(2, None)  # of its masks, None: pruning_updates
    compound_batches: tuple[int, ...] = sizes((1,), (1, 32))
    recipe_epochs: float = sizes(1.0, 1 / 4, 1.0)  # share of the published recipes' epochs, as `pruning_epochs`
    ablation_gradients: tuple[int, ...] = sizes((2, 8), (16, 64, 256, 1024))
    ablation_shares: tuple[float, ...] = sizes((0.5,), (0.5, 0.7))  # sparsities at once
    # plain text to prune upstream on, or None: the corpora's training sentences; a student reads it as well
    text_folder: str | None = None
    upstream_subwords: int = 5_000_000  # that an epoch draws
    upstream_epochs: float = sizes(3, 1, 3)
    upstream_batch: int = 2048  # subwords
    # pruning × distillation × adapters, notebook 09; each pruned model is trained on for `gate_epochs` + `gate_after`
    cross_backbone: str | None = sizes(None, "e5-half", None)  # None: the first of the backbones
    cross_shares: tuple[float, ...] = sizes((0.3,), (0.6, 0.8, 0.95))  # that go; other seeds: the first
    cross_rows: tuple[str, ...] | None = sizes(("FT", "A", "D", "P", "P+D"), None)  # of the truth table
    cross_sentences: int | None = sizes(320, 4000, None)  # cap on English training sentences, or pairs
    cross_scored: int | None = sizes(30, None)  # cap on every dev and test set
    cross_epochs: float | None = sizes(2, None)  # of the rows without pruning, None: epochs
    adapter_epochs: float | None = sizes(8, None)  # of those that train adapters or LoRA alone, None: as the others
    adapter_width: int = 64
    adapter_rate: float = sizes(0.0015, 0.001)  # LoRA's as well
    gate_epochs: float = sizes(1, 2, 4)
    gate_after: float = sizes(0.5, 1, 2)  # epochs of tuning once the gates are final
    gate_rate: float = sizes(0.15, 0.1, 0.01)  # of gates: in few steps they must get from open to closed
    speedups: tuple[float, ...] = sizes((2.0,), (1.5, 2.0, 3.0))  # asked for from the search without training
    pairs: bool = True  # whether similarity, the second task, is studied too
    pair_rows: tuple[str, ...] | None = sizes(("FT", "P"), None)  # its rows of the truth table
    pair_criteria: tuple[str, ...] = sizes(("magnitude",), ("magnitude", "obs"))  # of its pruning weight by weight
    used_sentences: int = sizes(60, 1000)  # read by each model while its emissions are estimated
    used_models: int | None = sizes(2, None)  # cap on the models that are timed
    country: str = "NLD"  # whose grid the electricity comes from, by three letters


PROFILES = {
    name: Profile(name=name, **{one.name: one.metadata[name] for one in fields(Profile) if one.metadata})
    for name in ("quick", "small", "paper")
}


def load_profile(name: str) -> Profile:
    """The profile called `name`, or that of a file (mine.json): what differs there from the profile `like`."""
    if name in PROFILES:
        return PROFILES[name]
    if not name.endswith(".json"):
        raise ValueError(f"There is no profile '{name}'. Choose one of: {', '.join(PROFILES)}, or give a .json file.")
    try:
        own = json.loads(Path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(own, dict) or own.get("like") not in PROFILES:
        raise ValueError(f'{name} names no profile to begin from: {{"like": "quick", …}}, or {", ".join(PROFILES)}.')
    if (stem := Path(name).stem) in PROFILES:
        raise ValueError(f"{name} would write into the folder of the profile '{stem}'. Give the file another name.")
    return replace(changed(PROFILES[own.pop("like")], own), name=stem)


def changed(profile: Profile, changes: Mapping[str, object]) -> Profile:
    """The profile with other settings."""
    kinds = {name: kind for name, kind in get_type_hints(Profile).items() if name != "name"}
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    for name, value in changes.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, 1)
            raise ValueError(f"A profile has no setting '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        if not _fits(value, kinds[name]):
            raise ValueError(f"The setting '{name}' is {value!r}, where {formatannotation(kinds[name])} is wanted.")
    return replace(profile, **changes)


def _fits(value: object, kind) -> bool:
    if get_origin(kind) is UnionType:
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(kind)[0]) for one in value)
    return type(value) is kind or kind is float and type(value) is int
