"""Four CPU runtimes behind one small protocol: a folder with a `model.onnx` in, a callable out.

    with runtimes.load(folder, threads=2, runtime="openvino") as model:
        logits = model(input_ids, attention_mask)  # int64 [batch, length] twice → float32 [batch, length, labels]

A runtime is asked for by name, with settings behind it where it has any: `openvino:precision=bf16:hint=throughput`.
Whether it can run here, `available` says. Each lives in a module of its own that is imported on first use.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmalib.records import machine

GRAPH = "model.onnx"
QUANTIZED = "onnx/model_quantized.onnx"  # where Optimum and transformers.js look for an int8 graph
PLACES = (GRAPH, QUANTIZED)
MISSING = "is not available"  # in what `load` says of a runtime that is not here
TRANSIENT = re.compile(r"SIGKILL|SIGTERM|MemoryError|out of memory|bad.?alloc|cannot allocate|no space left", re.I)
MODULES = {"onnxruntime": "ort", "openvino": "ov", "deepsparse": "deepsparse", "torch": "torch_int8"}
# What may be set behind a runtime's name; the first value is the one it has unless told otherwise.
SETTINGS = {
    "onnxruntime": {},
    "openvino": {"precision": ("f32", "bf16"), "hint": ("latency", "throughput"), "shapes": ("dynamic", "fixed")},
    "deepsparse": {},
    "torch": {"kernel": ("auto", "dense", "sparse"), "attention": ("f32", "bf16")},
}
NAMES = tuple(SETTINGS)
FED = ("input_ids", "attention_mask", "token_type_ids")  # the last one gets zeros: there is one text a row


class Engine(NamedTuple):
    """What a runtime's module hands over: how to run the model it has loaded, how to end it, what it is."""

    run: Callable[[dict[str, np.ndarray]], np.ndarray]
    stop: Callable[[], None]
    inputs: Sequence[str]  # their names
    facts: dict  # for the record: version, number format, streams
    stream: Callable[[list[dict[str, np.ndarray]]], list[np.ndarray]] | None = None  # many at once, where it can
    streams: int = 1  # how many at once
    process: int | None = None  # where the work is done, if not in this process


class Session(AbstractContextManager):
    """A loaded model; call it with ids and mask, `close` it or use it in a `with`."""

    def __init__(self, runtime: str, path: Path, threads: int, engine: Engine) -> None:
        self.runtime, self.path, self.threads = runtime, path, threads
        self.facts, self.process, self.streams = engine.facts, engine.process, engine.streams
        self._engine: Engine | None = engine

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Logits [batch, length, labels] as float32."""
        feeds = self._feeds(input_ids, attention_mask)
        return self._checked(self._do(self._engine.run, feeds), feeds)

    def stream(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Logits of several batches, some of which a runtime with more than one stream computes at the same time."""
        feeds = [self._feeds(*pair) for pair in pairs]
        outputs = self._do(self._engine.stream, feeds)
        return [self._checked(logits, one) for logits, one in zip(outputs, feeds, strict=True)]

    def close(self) -> None:
        """Let go of the model, its memory and its process; closing twice does no harm."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    def __exit__(self, *_) -> None:
        self.close()

    def _feeds(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        if self._engine is None:
            raise ValueError(f"{self.path} was closed in {self.runtime}. Load it again.")
        ids, mask = (np.ascontiguousarray(given, dtype=np.int64) for given in (input_ids, attention_mask))
        if ids.ndim != 2 or ids.shape != mask.shape or 0 in ids.shape:
            raise ValueError(
                f"Ids {list(ids.shape)} and mask {list(mask.shape)} are no batch. "
                "Give both as [batch, length] with at least one row and one token."
            )
        given = dict(zip(FED, (ids, mask, np.zeros_like(ids)), strict=True))
        return {name: given[name] for name in self._engine.inputs}

    def _do(self, work: Callable, feeds):
        try:
            return work(feeds)
        except Exception as error:
            raise RuntimeError(f"{self.runtime} failed on {self.path}: {one_line(error)}") from error

    def _checked(self, logits: np.ndarray, feeds: dict[str, np.ndarray]) -> np.ndarray:
        wanted = feeds["input_ids"].shape
        if logits.ndim != 3 or logits.shape[:2] != wanted:  # as OpenVINO does beyond the last position, silently
            raise RuntimeError(
                f"{self.runtime} failed on {self.path}: logits {list(logits.shape)} for ids {list(wanted)}. "
                "Is it a token classifier, and the text within its positions?"
            )
        return np.asarray(logits, dtype=np.float32)


def parse(runtime: str) -> tuple[str, dict[str, str]]:
    """`openvino:precision=bf16` → its name and all its settings, those not given at their usual values."""
    name, *given = runtime.split(":")
    if name not in SETTINGS:
        raise ValueError(f"There is no runtime '{name}'. Choose one of: {', '.join(NAMES)}.")
    known = SETTINGS[name]
    settings = {key: values[0] for key, values in known.items()}
    for key, _, value in (setting.partition("=") for setting in given):
        if value not in known.get(key, ()):
            choices = [f"{key}={value}" for key, values in known.items() for value in values]
            raise ValueError(f"'{runtime}': {name} takes {', '.join(choices) or 'no settings'} after its name.")
        settings[key] = value
    return name, settings


def numbers(runtime: str) -> str:
    """The part of a runtime's name that decides what it computes; the rest decides how fast."""
    name, *settings = runtime.split(":")
    return ":".join([name, *(one for one in settings if not one.startswith(("hint=", "shapes=", "kernel=")))])


def available(runtime: str) -> str | None:
    """None if the runtime can be used here, else the reason why not."""
    name, _ = parse(runtime)
    if name == "deepsparse":
        return machine.deepsparse()[1]
    return None if importlib.util.find_spec(name) else f"{name} is not installed"


def to_measure_again(rows: Iterable[dict]) -> bool:
    """Whether a row failed for a reason that may be gone: its runtime was missing and is here now, or memory was short.

    What a runtime cannot do stays a failure.
    """
    failed = [(row["runtime"], row["failed"]) for row in rows if row.get("failed")]
    return any(TRANSIENT.search(text) or (MISSING in text and not available(name)) for name, text in failed)


def locate(folder: Path) -> Path:
    """The ONNX file of a model's folder."""
    path = graph_in(folder)
    if path is None:
        what = f"has no {GRAPH}" if Path(folder).is_dir() else "is not a folder"
        raise ValueError(f"{folder} {what}. Give the folder of an exported model.")
    return path


def graph_in(folder: Path) -> Path | None:
    """The same, or None where there is none."""
    return next((path for name in PLACES if (path := Path(folder) / name).is_file()), None)


def load(folder: Path, threads: int, runtime: str = "onnxruntime") -> Session:
    """The model of a folder, ready to compute on `threads` threads."""
    name, settings = parse(runtime)
    path = locate(folder)
    check_threads(threads)
    if reason := available(name):
        raise ValueError(f"{name} {MISSING}: {reason}.")
    try:
        engine = importlib.import_module(f"mmalib.runtimes.{MODULES[name]}").load(path, threads, **settings)
    except Exception as error:
        raise ValueError(f"{path} could not be loaded in {runtime}: {one_line(error)}") from error
    if "input_ids" not in engine.inputs or not set(engine.inputs) <= set(FED):
        engine.stop()
        raise ValueError(
            f"{path} takes {', '.join(engine.inputs) or 'nothing'}. A token classifier takes input_ids and "
            "attention_mask, and perhaps token_type_ids."
        )
    return Session(runtime, path, threads, engine)


def check_threads(threads: int) -> None:
    """Refuse a number of threads that this machine cannot give."""
    cores = machine.cores()
    if not 1 <= threads <= cores:
        raise ValueError(f"{threads} threads were asked for and {cores} cores may be used. Choose between 1 and that.")


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def failure(error: BaseException) -> str:
    """The same for a record: paths of this machine are cut to the names at their ends."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", one_line(error))
