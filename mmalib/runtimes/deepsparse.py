"""DeepSparse, which cannot share our environment, as a worker process fed over a socket.

It is end-of-life, closed and free for research only; it is here because the paper's best numbers are its. It compiles
an engine for one batch and length, rewrites the file it is given (so the worker copies it first), reports to a server
(turned off), and now and then ends its process in place of raising: that, a kill, and a hang all become one error with
the reason. Between two calls its threads sleep; during one they spin, so nothing else should run then.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np

from mmalib.records import machine
from mmalib.runtimes import Engine

WORKER = Path(__file__).with_name("deepsparse_worker.py")
PATIENCE = 600.0  # seconds for one answer; compiling a large int8 model takes a minute or two
ENVIRONMENT = {
    "NM_DISABLE_ANALYTICS": "True",
    "NM_VERSION_CHECK": "false",
    "NM_BIND_THREADS_TO_CORES": "1",  # as its own benchmark has it
    "OMP_NUM_THREADS": "1",  # for numpy; the engine's threads are told apart
}
# How the native library begins the line that says why it ends its process.
REASONS = ("Assertion", "terminate called", "what():", "Caught signal", "Fatal")
REASONS += ("MemoryError", "ImportError", "OSError")


def load(path: Path, threads: int) -> Engine:
    """The model in a worker of its own, on `threads` threads."""
    worker = _Worker(path, threads)
    facts = {key: worker.about[key] for key in ("version", "isa", "vnni")}

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        question = {"shape": next(iter(feeds.values())).shape, "inputs": list(feeds)}
        answer, payload = worker.ask(question, b"".join(array.tobytes() for array in feeds.values()))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        facts["supported_share"] = answer["supported_share"]  # of the operations, by its own count
        return np.frombuffer(payload, dtype=np.float32).reshape(answer["shape"])

    return Engine(run, worker.stop, worker.about["inputs"], facts, process=worker.process.pid)


class _Worker:
    """The process, its socket and what it prints; all three are gone after `stop`, and when this object is."""

    def __init__(self, path: Path, threads: int) -> None:
        thread = "main" if threading.current_thread() is threading.main_thread() else "other"
        # -I keeps its sys.path free of our folder, whose deepsparse.py it would import in place of its own.
        command = [machine.DEEPSPARSE / "bin" / "python", "-I", WORKER, path.resolve(), threads, os.getpid(), thread]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed when the worker is stopped)
        self._socket, its_end = socket.socketpair()
        self._answers = self._socket.makefile("rb")
        self._one_at_a_time = threading.Lock()  # an answer goes to whoever reads it first
        with its_end:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=its_end,  # answers come by it too: on standard output the native library prints
                stdout=self._log,
                stderr=self._log,
                cwd=tempfile.gettempdir(),
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is for us; what becomes of the worker, we decide
            )
        self.stop = weakref.finalize(self, _stop, self.process, self._answers, self._socket, self._log)  # at exit too
        self.about, _ = self._answer()

    def ask(self, question: dict, payload: bytes) -> tuple[dict, bytes]:
        """Send a question and wait for its answer."""
        header = json.dumps(question).encode()
        with self._one_at_a_time:
            return self._answer(struct.pack("<II", len(header), len(payload)) + header + payload)

    def _answer(self, question: bytes = b"") -> tuple[dict, bytes]:
        if not self.stop.alive:
            raise RuntimeError("the worker was stopped before; load the model again")
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.sendall(question)
            header, payload = (self._read(length) for length in struct.unpack("<II", self._read(8)))
            return json.loads(header), payload
        except TimeoutError:
            self.stop()
            raise TimeoutError(f"the worker gave no answer in {PATIENCE:.0f} seconds and was stopped") from None
        except (ConnectionError, EOFError):
            reason = self._reason()
            self.stop()
            raise RuntimeError(reason) from None
        except BaseException:  # interrupted: what would come now answers nobody's question
            self.stop()
            raise

    def _read(self, number: int) -> bytes:
        data = self._answers.read(number)
        if len(data) < number:
            raise EOFError
        return data

    def _reason(self) -> str:
        """Why the worker ended, from how it ended and the last of what it said."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker closed its socket and did not end"
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(REASONS) or "Error: " in line]
        reason = (telling or lines or ["it said nothing"])[0 if telling else -1]
        return f"the worker ended ({end}): {reason}"


def _stop(process: subprocess.Popen, *files) -> None:
    process.kill()  # there is nothing in it to be saved
    process.wait()
    for file in files:
        file.close()
