"""What notebook 07 times: the paper's architectures at full size, with nothing learned; `shapes` builds them.

A case is a shape, what was taken out of it, and its number format. A runtime wants its own form of an int8 graph (see
`quantize`), so a case is one folder or two.
"""

from dataclasses import dataclass, replace

ALL = ("onnxruntime", "openvino", "deepsparse")
SPARSE = ("deepsparse",)  # the one runtime that skips zeros of float weights
MODES = ("openvino:hint=throughput", "openvino:shapes=fixed")  # the baseline is measured in them as well
TORCH = ("torch", "torch:attention=bf16")  # for static int8 alone
SKIPPING = "torch:kernel=sparse"  # and for zeros in blocks of four
OPEN = ("onnxruntime", "openvino", *MODES, *TORCH)
SHARES = (0.25, 0.5, 0.75, 11 / 12)  # of the heads, or of heads and neurons: figures 6 to 9


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
    static = (*ALL, *TORCH)
    sparse_int8 = [
        Case(f"base {share:.0%} {word} int8", sparsity=share, pattern=pattern, int8="static", runtimes=runtimes)
        for share in (0.8, 0.9, 0.95)
        for pattern, word, runtimes in (("1", "unstructured", static), ("4", "4-block", (*static, SKIPPING)))
    ]
    smaller = [Case(f"{way} {share:.0%}", **{way: share}) for way in ("heads", "uniform") for share in SHARES]
    return [
        Case("base", runtimes=(*ALL, *MODES, "openvino:precision=bf16")),
        Case("distilbert", "distilbert"),
        Case("minilm", "minilm"),
        Case("base dynamic", int8="dynamic"),
        Case("base int8", int8="static", runtimes=static),
        Case("distilbert int8", "distilbert", int8="static", runtimes=static),
        Case("minilm int8", "minilm", int8="static", runtimes=static),
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
    listed = [Case("obert 12 layers dense", "bert", **common)]
    for depth, shape in ((12, "bert"), (6, "bert-6"), (3, "bert-3")):
        for share in (0.8, 0.9):
            listed.append(Case(f"obert {depth} layers {share:.0%} unstructured", shape, sparsity=share, **common))
        block = {"sparsity": 0.8, "pattern": "4", "int8": "static"}
        listed.append(Case(f"obert {depth} layers 80% 4-block int8", shape, **block, **common))
    return listed


def form(case: Case, runtime: str) -> str:
    """The form of a case's graph that a runtime runs fast."""
    if case.int8 != "static":
        return case.int8 or "float"
    return "qoperator" if runtime.split(":")[0] in SPARSE or runtime == SKIPPING else "qdq"


def is_whole_base(case: Case) -> bool:
    """Whether nothing is taken out of XLM-R base: only the number format is another."""
    return replace(case, name="base", int8=None, runtimes=(), batches=None) == Case("base", runtimes=())
