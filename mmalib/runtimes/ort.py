"""ONNX Runtime on the CPU: the runtime that everything else is measured against."""

from pathlib import Path

import numpy as np
import onnxruntime

from mmalib.runtimes import Engine

SILENT = 4  # only what is fatal; errors come as exceptions and need not be printed as well


def load(path: Path, threads: int) -> Engine:
    """The model with all graph optimizations, on `threads` threads, one node at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = SILENT
    # Threads that wait for the next call by spinning would take the cores from whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        return session.run([output], feeds)[0]

    inputs = [given.name for given in session.get_inputs()]
    return Engine(run, lambda: None, inputs, {"version": onnxruntime.__version__})  # it ends with its last reference
