"""The DeepSparse side of `deepsparse.py`: a process of its own Python (3.8 to 3.11) that computes what it is sent.

It has nothing of mmalib, only numpy and deepsparse. A message is two 32-bit lengths, that many bytes of JSON, and that
many bytes of raw arrays. The first message goes out: versions and the graph's inputs. Then one answer per question.
"""

import ctypes
import glob
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
from functools import lru_cache

KEPT = 2  # engines; each holds the model's weights once more
PR_SET_PDEATHSIG = 1


def main(model, threads, parent, main_thread):
    answers = os.fdopen(os.dup(0), "wb")  # standard input is a socket
    if main_thread:
        end_with(parent)
    import deepsparse
    import numpy
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [given.name for given in graph.input if given.name not in weights]
    cpu = deepsparse.cpu_architecture()
    about = {"version": deepsparse.__version__, "isa": cpu.isa, "vnni": bool(cpu.vnni), "inputs": inputs}
    send(answers, about)

    @lru_cache(maxsize=KEPT)
    def engine_of(shape):
        return compiled(deepsparse, model, threads, shape, len(inputs))

    while True:
        question, payload = receive(sys.stdin.buffer)
        if question is None:
            return
        try:
            shape, names = tuple(question["shape"]), question["inputs"]
            arrays = numpy.frombuffer(payload, dtype=numpy.int64).reshape((len(names),) + shape)
            given = {name: arrays[place] for place, name in enumerate(names)}
            engine = engine_of(shape)
            logits = engine([numpy.ascontiguousarray(given[name]) for name in engine.input_names])[0]
            logits = numpy.ascontiguousarray(logits, dtype=numpy.float32)
            about = {"shape": list(logits.shape), "supported_share": engine.fraction_of_supported_ops}
            send(answers, about, logits.tobytes())
        except Exception as error:
            send(answers, {"error": str(error) or type(error).__name__})


def compiled(deepsparse, model, threads, shape, inputs):
    """An engine for one shape, from a private copy, because DeepSparse rewrites the file it is given."""
    with tempfile.TemporaryDirectory() as folder:
        for file in glob.glob(glob.escape(model) + "*"):  # weights beside the graph are named after it
            shutil.copy(file, folder)
        copy, shapes = os.path.join(folder, os.path.basename(model)), [list(shape)] * inputs
        return deepsparse.Engine(copy, batch_size=shape[0], num_cores=threads, input_shapes=shapes)


def send(pipe, header, payload=b""):
    """One message out."""
    header = json.dumps(header).encode()
    pipe.write(struct.pack("<II", len(header), len(payload)) + header + payload)
    pipe.flush()


def receive(pipe):
    """One message in; (None, None) when the other side is gone."""
    lengths = pipe.read(8)
    if len(lengths) < 8:
        return None, None
    header, payload = struct.unpack("<II", lengths)
    return json.loads(pipe.read(header).decode()), pipe.read(payload)


def end_with(parent):
    """Die with the parent even in the middle of a computation; where that cannot be had, the pipe ends after it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "main")
