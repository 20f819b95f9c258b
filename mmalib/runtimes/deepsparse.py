"""DeepSparse, which cannot share our environment, as a worker process fed over a pipe.

It is end-of-life, closed and free for research only; it is here because the paper's best numbers are its. It compiles
an engine for one batch and length, rewrites the file it is given (so the worker copies it first), reports to a server
(turned off), and now and then ends its process in place of raising: that, a kill, and a hang all become one error with
the reason. Between two calls its threads sleep; during one they spin, so nothing else should run then.
"""

import json
import os
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path

import numpy as np

from mmalib.records import machine
from mmalib.runtimes import Engine

WORKER = Path(__file__).with_name("deepsparse_worker.py")
PATIENCE = 600.0  # seconds for one answer; compiling a large int8 model takes a minute or two
PREFIX = "mmalib-deepsparse-"  # of a worker's folder; our process id follows
ENVIRONMENT = {
    "NM_DISABLE_ANALYTICS": "True",
    "NM_VERSION_CHECK": "false",
    "NM_BIND_THREADS_TO_CORES": "1",  # as its own benchmark has it
    "OMP_NUM_THREADS": "1",  # for numpy; the engine's threads are told apart
}
# How the native library begins the line that says why it ends its process.
REASONS = (
    *("Assertion", "terminate called", "what():", "Caught signal", "Fatal"),
    *("MemoryError", "ImportError", "OSError"),
)


def why_not() -> str | None:
    """Why DeepSparse cannot be used here, or None if it can."""
    return machine.deepsparse()[1]


def load(path: Path, threads: int) -> Engine:
    """The model in a worker of its own, on `threads` threads."""
    worker = _Worker(path, threads)
    facts = {key: worker.about[key] for key in ("version", "isa", "vnni")}

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        question = {"shape": next(iter(feeds.values())).shape, "inputs": list(feeds)}
        answer, payload = worker.ask(question, b"".join(array.tobytes() for array in feeds.values()))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        facts["supported_share"] = answer["facts"]["supported_share"]  # of the operations, by its own count
        return np.frombuffer(payload, dtype=np.float32).reshape(answer["shape"])

    return Engine(run, worker.stop, worker.about["inputs"], facts, process=worker.process.pid)


class _Worker:
    """The process, its pipes and its folder; all three are gone after `stop`, and when this object is."""

    def __init__(self, path: Path, threads: int) -> None:
        _sweep()
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
        self._log = Path(folder) / "stderr"
        thread = "main" if threading.current_thread() is threading.main_thread() else "other"
        try:
            with open(self._log, "wb") as log:
                # -I keeps its sys.path free of our folder, whose deepsparse.py it would import in place of its own.
                python = machine.DEEPSPARSE / "bin" / "python"
                self.process = subprocess.Popen(
                    [str(python), "-I", str(WORKER), str(path.resolve()), str(threads), str(os.getpid()), thread],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    env={**os.environ, **ENVIRONMENT},
                    start_new_session=True,  # Ctrl-C is for us; what becomes of the worker, we decide
                    bufsize=0,
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.stop = weakref.finalize(self, _stop, self.process, folder)  # at exit too
        for pipe in (self.process.stdin, self.process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self.about, _ = self._answer()

    def ask(self, question: dict, payload: bytes) -> tuple[dict, bytes]:
        """Send a question and wait for its answer."""
        header = json.dumps(question).encode()
        return self._answer(struct.pack("<II", len(header), len(payload)) + header + payload)

    def _answer(self, question: bytes = b"") -> tuple[dict, bytes]:
        if not self.stop.alive:
            raise RuntimeError("the worker was stopped before; load the model again")
        deadline = time.monotonic() + PATIENCE
        try:
            self._write(question, deadline)
            lengths = struct.unpack("<II", self._read(8, deadline))
            header, payload = (self._read(length, deadline) for length in lengths)
            return json.loads(header), payload
        except (BrokenPipeError, EOFError):
            reason = self._reason()
            self.stop()
            raise RuntimeError(reason) from None
        except BaseException:  # out of patience or interrupted: what would come now answers nobody's question
            self.stop()
            raise

    def _write(self, data: bytes, deadline: float) -> None:
        pipe, left = self.process.stdin.fileno(), memoryview(data)
        while left:
            _wait(pipe, select.POLLOUT, deadline)
            left = left[os.write(pipe, left) :]

    def _read(self, number: int, deadline: float) -> bytes:
        pipe, data = self.process.stdout.fileno(), bytearray()
        while len(data) < number:
            _wait(pipe, select.POLLIN, deadline)
            part = os.read(pipe, number - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _reason(self) -> str:
        """Why the worker ended, from how it ended and the last of what it said."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker closed its pipe and did not end"
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(REASONS) or "Error: " in line]
        reason = (telling or lines or ["it said nothing"])[0 if telling else -1]
        return f"the worker ended ({end}): {reason}"


def _sweep() -> None:
    """Remove the folders of those who were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        try:
            os.kill(int(folder.name.removeprefix(PREFIX).partition("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):  # not one of ours
            continue


def _wait(pipe: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError(f"the worker gave no answer in {PATIENCE:.0f} seconds and was stopped")


def _stop(process: subprocess.Popen, folder: str) -> None:
    process.kill()  # there is nothing in it to be saved
    process.wait()
    process.stdin.close()
    process.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)
