"""OpenVINO on the CPU, in float32, bfloat16 or the int8 of the graph, for latency or for throughput.

Three of its habits are turned off here. `import openvino` reports itself to a Google server (openvino-telemetry, with
no opt-in), so that package is hidden from it. On a CPU with bfloat16 instructions it computes a float32 model in
bfloat16 unless it is told not to. And it takes as many threads as it likes.
"""

import sys
from collections import OrderedDict
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
    ready: OrderedDict[tuple[int, int] | None, tuple] = OrderedDict()  # shape → the compiled model, its request

    def fitting(feeds: dict[str, np.ndarray]) -> tuple[openvino.CompiledModel, openvino.InferRequest]:
        shape = None if shapes == "dynamic" else feeds["input_ids"].shape
        if shape not in ready:
            if shape:
                model.reshape({given: list(shape) for given in model.inputs})
            compiled = core.compile_model(model, "CPU", config)
            ready[shape] = compiled, compiled.create_infer_request()
            while len(ready) > KEPT:
                ready.popitem(last=False)
        ready.move_to_end(shape)
        return ready[shape]

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        return fitting(feeds)[1].infer(feeds, share_inputs=True, share_outputs=True)[0].copy()

    def stream(many: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        outputs: list[np.ndarray | None] = [None] * len(many)
        queues: dict[openvino.CompiledModel, openvino.AsyncInferQueue] = {}
        for number, feeds in enumerate(many):
            compiled, _ = fitting(feeds)
            if compiled not in queues:
                queues[compiled] = openvino.AsyncInferQueue(compiled)  # as many requests as it has streams
                queues[compiled].set_callback(lambda request, place: _keep(request, place, outputs))
            queues[compiled].start_async(feeds, number)
        for queue in queues.values():
            queue.wait_all()
        return outputs

    axes = {given.any_name: given.partial_shape for given in model.inputs}
    inputs = {name: [None if one.is_dynamic else one.get_length() for one in shape] for name, shape in axes.items()}
    facts = {"version": openvino.__version__.split("-")[0]}
    if shapes == "dynamic":  # compiled now, where a graph that does not compile is still a mistake in the folder
        compiled, _ = fitting({})
        facts["precision"] = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        facts["streams"] = compiled.get_property("NUM_STREAMS")
    if hint == "latency":
        return Engine(run, ready.clear, inputs, facts)
    return Engine(run, ready.clear, inputs, facts, stream, facts.get("streams", threads))


def _keep(request: openvino.InferRequest, place: int, outputs: list) -> None:
    outputs[place] = request.get_output_tensor(0).data.copy()
