"""The three sizes of the study, as plain data.

A profile says which backbones, seeds and corpora a study uses and how long it trains; it holds no behaviour.
`quick` is what a newcomer runs, `small` is the real study on the shipped backbones, `paper` is the paper's own scale;
`smoke` runs every line of the notebooks in seconds for the tests, and its numbers mean nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of the study: what is tuned, on what, for how long. What is not given is as for the full study."""

    name: str
    backbones: tuple[str, ...]  # short names, see mmalib.model.backbones
    seeds: tuple[int, ...] = (1, 2, 3)
    data: str = "hub"  # or "sample" or a folder; MMALIB_DATA overrides it
    train_sentences: int | None = None  # cap on English training sentences, None for all of them
    eval_sentences: int | None = None  # cap on every dev and test set, None for all of them
    epochs: int
    batch_size: int = 16
    learning_rate: float
    max_length: int = 128  # window, in subwords
    frozen: float | None = None  # keep embeddings and this share of the layers as they came, None tunes everything
    rate_after: float  # the learning rate of all training after tuning: while pruned, recovering, learning int8
    frozen_after: float | None = None  # and the share of the layers that stays as it is then
    head_rate: float = 1.0  # the new head's learning rate, in learning rates of the model
    label_smoothing: float = 0.0
    masked_words: float = 0.0  # share of the words that a step hides
    average_from: float | None = None  # the result is the mean of the checkpoints after that epoch, None: the best
    curve_sentences: int | None = None  # cap on every dev and test set along a curve (F1 against what was removed)
    pruning_seeds: tuple[int, ...] = (1, 2, 3)  # the seeds of everything that is made from the baselines
    # structured pruning, notebook 02
    head_share: float = 1 / 12  # share of all heads that one step removes
    importance_sentences: int  # English training sentences that importance is measured on
    recovery_sentences: int  # English training sentences of the short fine-tune after pruning
    # unstructured pruning, notebook 03
    sparsities: tuple[float, ...] = (0.8, 0.9)  # shares of the encoder's weights that go
    pruning_epochs: float = 6  # while sparsity grows; as in the recipe of Kurtic et al., or a part of it
    sparse_epochs: float = 2  # after that
    pruning_updates: int = 13  # of the masks while sparsity grows, as in that recipe; movement has its own
    one_shot: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)  # sparsities without training, and 2:4 beside them
    pruning_batch: int | None = None  # sentences a step while pruned; movement wants many small steps; None: batch_size
    published: bool = False  # prune by published settings, not by those that trials on a small backbone chose
    fisher_gradients: int  # gradients behind one estimate of the inverse Fisher
    fisher_batch: int  # sentences behind one gradient
    fisher_block: int  # weights that one block of the inverse Fisher covers
    trials: bool = False  # whether the settings of every criterion are tried out, or only used
    # distillation, notebook 04
    teacher: str  # its tuned baseline teaches
    students: tuple[str, ...]  # tuned with and without the teacher
    unlabelled_students: tuple[str, ...]  # those that the teacher also teaches on unlabelled text
    unlabelled_sentences: int | None = None  # of Spanish and of Dutch training text each, None for all of them
    distil_epochs: int
    # combined models, notebook 06
    left_out: tuple[str, ...] = ()  # names of mmalib.plan.combinations
    # throughput, notebook 07
    speed_cases: tuple[str, ...] | None = None  # names of mmalib.speed.cases, None for all of them
    speed_layers: int | None = None  # cap on the depth of the paper's shapes, None leaves them as they are
    speed_runtimes: tuple[str, ...] = ("onnxruntime", "openvino", "deepsparse", "torch")
    speed_batches: tuple[int, ...] = (1, 4, 8)
    speed_seconds: float  # into each measurement, and as many into the baseline beside it
    speed_turns: int = 7  # of candidate and baseline
    speed_calls: int = 5  # of the baseline in a turn, at least
    speed_sentences: int | None  # of real text that each model reads, None for all of it
    speed_models: int | None = None  # cap on the trained models that are measured
    # quantization, notebook 05
    int8_graphs: tuple[str, ...] | None = None  # names of mmalib.plan.GRAPHS, None for all of them
    int8_sentences: int | None = None  # cap on every dev and test set that the graphs are scored on
    calibration_sentences: int  # English training sentences, or rows of random subwords
    # of mmalib.graph.ranges; English dev chooses among them
    calibration_methods: tuple[str, ...] = ("minmax", "percentile", "entropy")
    qat_sentences: int | None = None  # English training sentences under fake quantization
    qat_epochs: float = 1
    floor_sentences: int | None  # cap on a dev set while maps to leave in float are looked for
    floor_layers: int | None = None  # layers whose maps are looked at, None for all of them
    # compound compression, notebook 08
    depths: tuple[int, ...] = (12, 6, 3)  # layers of its models; the first number is the whole model's
    layer_choices: tuple[str, ...] = ("evenly", "top", "bottom", "loss")  # which layers stay; the first goes on
    compound: tuple[str, ...] | None = None  # names of mmalib.plan.compound_parts, None for all of them
    compound_updates: int | None = None  # of the masks while its models are pruned, None: pruning_updates
    compound_batches: tuple[int, ...] = (1, 32)
    recipe_epochs: float = 1.0  # share of the published recipes' epochs
    ablation_gradients: tuple[int, ...] = (16, 64, 256, 1024)
    ablation_shares: tuple[float, ...] = (0.5, 0.7)  # sparsities at once
    text_folder: str | None = None  # plain text to prune upstream on; None: the corpora's training sentences
    upstream_subwords: int = 5_000_000  # that an epoch draws
    upstream_epochs: float = 3
    upstream_batch: int = 2048  # subwords
    # pruning × distillation × adapters, notebook 09; each pruned model is trained on for `gate_epochs` + `gate_after`
    cross_backbone: str | None = None  # None: the first of the backbones
    cross_shares: tuple[float, ...] = (0.6, 0.8, 0.95)  # of the encoder that enters pruning; other seeds: the first
    cross_sentences: int | None = None  # cap on English training sentences, or pairs
    cross_scored: int | None = None  # cap on every dev and test set
    cross_epochs: float | None = None  # of the rows without pruning, None: epochs
    adapter_width: int = 64
    adapter_rate: float = 1e-3  # LoRA's as well
    gate_epochs: float = 4
    gate_after: float = 2  # epochs of tuning once the gates are final
    gate_rate: float = 0.01  # of gates and multipliers
    speedups: tuple[float, ...] = (1.5, 2.0, 3.0)  # asked for from the mask search that trains nothing
    pairs: bool = True  # whether similarity, the second task, is studied too
    pair_rows: tuple[str, ...] | None = None  # its rows of the truth table, None for all of them
    pair_criteria: tuple[str, ...] = ("magnitude", "obs")  # and how it is pruned weight by weight
    used_sentences: int = 1000  # read by each model while its emissions are estimated
    used_models: int | None = None  # cap on the models that are timed
    country: str = "NLD"  # whose grid the electricity comes from, by three letters


# What `smoke` and `quick` have in common: one seed of the halved backbone, on the sample.
SAMPLE = {
    "backbones": ("e5-half",),
    "seeds": (1,),
    "data": "sample",
    "head_share": 0.25,
    "pruning_seeds": (1,),
    "fisher_gradients": 8,
    "fisher_block": 16,
    "teacher": "e5-half",
    "students": ("e5-narrow",),
    "unlabelled_students": ("e5-narrow",),
    "distil_epochs": 1,
    "left_out": ("distil-halved-q",),
    "speed_batches": (1,),
    "calibration_methods": ("minmax", "percentile"),
    "compound_batches": (1,),
    "cross_shares": (0.6,),
    "gate_after": 1,
}
PROFILES = {
    "smoke": Profile(
        **SAMPLE,
        name="smoke",
        train_sentences=64,
        eval_sentences=32,
        epochs=1,
        learning_rate=1e-4,
        rate_after=1e-4,
        curve_sentences=16,
        importance_sentences=16,
        recovery_sentences=16,
        sparsities=(0.5,),
        pruning_epochs=1,
        sparse_epochs=1,
        pruning_updates=2,
        one_shot=(0.5,),
        fisher_batch=4,
        unlabelled_sentences=16,
        speed_cases=("base", "base int8", "heads 50%", "uniform 50%", "minilm 6 layers uniform 50% int8"),
        speed_layers=1,
        speed_runtimes=("onnxruntime", "openvino", "torch"),
        speed_seconds=0.02,
        speed_turns=2,
        speed_calls=1,
        speed_sentences=6,
        speed_models=2,
        int8_graphs=("dynamic", "static", "qat", "without-data", "static-qoperator", "floor"),
        int8_sentences=8,
        calibration_sentences=8,
        qat_sentences=16,
        floor_sentences=8,
        floor_layers=1,
        depths=(6, 3),
        layer_choices=("evenly", "loss"),
        compound=(
            "6 layers dense",
            "3 layers 50% 4-block int8",
            "10 epochs 90%",
            "2:4 obs",
            "upstream three-90",
            "ablation gradients",
            "ablation matrix-free",
        ),
        recipe_epochs=1 / 8,
        ablation_gradients=(4,),
        ablation_shares=(0.5,),
        upstream_subwords=1024,
        upstream_epochs=0.5,
        upstream_batch=128,
        cross_sentences=16,
        cross_scored=8,
        adapter_width=8,
        gate_epochs=1,
        gate_rate=0.1,
        speedups=(1.5,),
        pair_rows=("FT", "P+D+A"),
        used_sentences=6,
        used_models=1,
    ),
    "quick": Profile(
        **SAMPLE,
        name="quick",
        train_sentences=2000,
        eval_sentences=200,
        epochs=4,
        batch_size=8,
        learning_rate=4e-4,
        frozen=1 / 3,
        rate_after=2e-4,
        frozen_after=0.0,
        head_rate=10.0,
        curve_sentences=60,
        importance_sentences=128,
        recovery_sentences=256,
        sparsities=(0.6,),
        pruning_epochs=6 / 12,
        sparse_epochs=2 / 12,
        pruning_updates=4,
        pruning_batch=16,
        one_shot=(0.3, 0.5, 0.7),
        fisher_batch=8,
        unlabelled_sentences=150,
        speed_cases=(
            "base",
            "base int8",
            "base 90% 4-block int8",
            "uniform 50%",
            "minilm 6 layers uniform 50% int8",
            "obert 3 layers 80% 4-block int8",
        ),
        speed_seconds=0.3,
        speed_turns=3,
        speed_calls=2,
        speed_sentences=48,
        speed_models=1,
        int8_graphs=(
            "longer",
            "dynamic",
            "static",
            "qat",
            "without-data",
            "static-qoperator",
            "static-embeddings",
            "floor",
        ),
        int8_sentences=100,
        calibration_sentences=64,
        qat_sentences=200,
        floor_sentences=50,
        floor_layers=2,
        depths=(6,),
        layer_choices=(),
        compound=("6 layers 60% 4-block int8", "ablation matrix-free"),
        compound_updates=2,
        ablation_gradients=(2, 8),
        ablation_shares=(0.7,),
        cross_sentences=120,
        cross_scored=30,
        cross_epochs=2,
        adapter_rate=4e-3,
        gate_epochs=2,
        gate_rate=0.15,
        speedups=(2.0,),
        pair_rows=("FT", "P"),
        pair_criteria=("magnitude",),
        used_sentences=60,
        used_models=2,
    ),
    "small": Profile(
        name="small",
        backbones=("e5",),
        epochs=5,
        learning_rate=7e-5,
        rate_after=2e-4,
        frozen_after=0.0,
        head_rate=10.0,
        masked_words=0.1,
        average_from=2.0,
        curve_sentences=1000,
        importance_sentences=1000,
        recovery_sentences=2000,
        pruning_epochs=6 / 4,
        pruning_batch=4,
        sparse_epochs=2 / 4,
        fisher_gradients=64,
        fisher_batch=8,
        fisher_block=32,
        trials=True,
        teacher="e5",
        students=("e5-half", "e5-narrow"),
        unlabelled_students=("e5-half",),
        unlabelled_sentences=3500,
        distil_epochs=5,
        speed_seconds=1.0,
        speed_sentences=120,
        speed_models=18,
        calibration_sentences=256,
        qat_sentences=7000,
        floor_sentences=200,
        upstream_epochs=1,
        gate_epochs=2,
        gate_after=1,
        gate_rate=0.02,
    ),
    "paper": Profile(
        name="paper",
        backbones=("mlbert", "xlm"),
        epochs=4,
        batch_size=32,
        learning_rate=3e-5,
        max_length=256,
        rate_after=8e-5,  # as Kurtic et al. begin
        importance_sentences=2000,
        recovery_sentences=4000,
        published=True,
        fisher_gradients=1024,
        fisher_batch=16,
        fisher_block=50,
        teacher="xlm",
        students=("distilbert", "minilm"),
        unlabelled_students=("distilbert", "minilm"),
        distil_epochs=4,
        qat_epochs=4,  # as many as the backbones are tuned
        speed_seconds=5.0,
        speed_sentences=1000,
        calibration_sentences=512,
        floor_sentences=300,
    ),
}


def load_profile(name: str) -> Profile:
    """The profile called `name`."""
    if name not in PROFILES:
        raise ValueError(f"There is no profile '{name}'. Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]
