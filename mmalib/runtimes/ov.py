"""OpenVINO on the CPU, in float32, bfloat16 or the int8 of the graph, for latency or for throughput.

Three of its habits are turned off here. `import openvino` reports itself to a Google server (openvino-telemetry, with
no opt-in), so that package is hidden from it. On a CPU with bfloat16 instructions it computes a float32 model in
bfloat16 unless it is told not to. And it takes as many threads as it likes.
"""

import sys
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmalib.runtimes import Engine

# With None here, importing it is an ImportError, and openvino falls back to a stub that does nothing.
sys.modules.setdefault("openvino_telemetry", None)

import openvino  # noqa: E402

KEPT = 4  # compiled shapes


def load(path: Path, threads: int, precision: str, hint: str, shapes: str) -> Engine:
    """The model on `threads` threads; with shapes "fixed" it is compiled anew for every batch and length."""
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        raise ValueError(f"this CPU has no bfloat16 instructions (OpenVINO lists {', '.join(able)})")
    model = core.read_model(path)
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": precision}

    one_at_a_time = threading.Lock()  # a compiled shape has one request, and its answer lies there until it is copied

    @lru_cache(KEPT)
    def compiled(shape: tuple[int, int] | None) -> tuple[openvino.CompiledModel, openvino.InferRequest]:
        if shape:
            model.reshape({given: list(shape) for given in model.inputs})
        ready = core.compile_model(model, "CPU", config)
        return ready, ready.create_infer_request()

    def fitting(feeds: dict[str, np.ndarray]) -> tuple[openvino.CompiledModel, openvino.InferRequest]:
        return compiled(None if shapes == "dynamic" else feeds["input_ids"].shape)

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        with one_at_a_time:
            return fitting(feeds)[1].infer(feeds, share_inputs=True, share_outputs=True)[0].copy()

    def stream(many: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        outputs: list[np.ndarray | None] = [None] * len(many)

        def keep(request: openvino.InferRequest, place: int) -> None:
            outputs[place] = request.get_output_tensor(0).data.copy()

        queues: dict[openvino.CompiledModel, openvino.AsyncInferQueue] = {}
        for number, feeds in enumerate(many):
            with one_at_a_time:
                ready, _ = fitting(feeds)
            if ready not in queues:
                queues[ready] = openvino.AsyncInferQueue(ready)  # as many requests as it has streams
                queues[ready].set_callback(keep)
            queues[ready].start_async(feeds, number)
        for queue in queues.values():
            queue.wait_all()
        return outputs

    inputs = [given.any_name for given in model.inputs]
    facts = {"version": openvino.__version__.split("-")[0]}
    if shapes == "dynamic":  # compiled now, where a graph that does not compile is still a mistake in the folder
        ready, _ = fitting({})
        facts["precision"] = ready.get_property("INFERENCE_PRECISION_HINT").to_string()
        facts["streams"] = ready.get_property("NUM_STREAMS")
    if hint == "latency":
        return Engine(run, compiled.cache_clear, inputs, facts)
    return Engine(run, compiled.cache_clear, inputs, facts, stream, facts.get("streams", threads))
