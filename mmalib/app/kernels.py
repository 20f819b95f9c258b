"""The kernels that a study's notebooks run in, in this interpreter, whatever kernels are installed.

A kernel is handed on, emptied, to the next notebook: to import torch and the Trainer takes longer than many notebooks
of `quick`. Every kernel dies with the study, even if the study is killed, and shares its lock, so that no orphan can
write records beside a study that was started again.
"""

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mmalib.records import machine

# What a kernel runs. `lifeline` is the reading end of a pipe that only the study could write to: the read
# returns when the study is gone. ipykernel only polls its parent, and may miss one that died early.
KERNEL = """
import os, runpy, shutil, threading
def follow():
    os.read({lifeline}, 1)
    shutil.rmtree({folder!r}, ignore_errors=True)
    os.killpg(os.getpid(), 9)  # a kernel leads a group of its own; its workers go with it
threading.Thread(target=follow, daemon=True).start()
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""
EMPTY = "get_ipython().reset(), __import__('gc').collect()"


class Kernels(ExitStack):
    """Kernels to borrow, as many as are wanted at once; they share the lock that `held` is the file of."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held, self.idle = held, defaultdict(list)
        self.lifeline, ours = os.pipe()
        self.callback(os.close, self.lifeline)
        self.end = self.enter_context(os.fdopen(ours, "w")).close  # ends every kernel at once, whatever it does

    @contextmanager
    def borrow(self, threads: int) -> Iterator:
        """A kernel on so many threads, for one notebook; one in which a notebook has failed is not used again."""
        from jupyter_core.utils import run_sync

        there = self.idle[threads]
        kernel = there.pop() if there else self.enter_context(_kernel(self.held, self.lifeline, threads))
        client = type(kernel).client(kernel)
        kernel.client = lambda: client  # papermill's own client would be left with its sockets open
        try:
            yield kernel
            run_sync(client.execute_interactive)(EMPTY, silent=True, allow_stdin=False)
        finally:
            client.stop_channels()
        there.append(kernel)


@contextmanager
def _kernel(held: int, lifeline: int, threads: int) -> Iterator:
    """A kernel that talks over files, not ports."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_core.utils import run_sync

    with tempfile.TemporaryDirectory(prefix="mmalib-") as folder:  # socket paths must be short
        specs = KernelSpecManager(kernel_dirs=[])
        connection = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, **connection)
        program = KERNEL.format(lifeline=lifeline, folder=folder)
        kernel.kernel_spec.argv = [sys.executable, "-c", program, "-f", "{connection_file}"]
        environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["IPYTHONDIR"] = folder  # nobody's start-up files or history
        environment["KINETO_LOG_LEVEL"] = "99"  # torch's profiler writes past Python, between the lines of progress
        if threads < machine.threads():
            environment |= {machine.THREADS: str(threads), "OMP_NUM_THREADS": str(threads)}
        in_haste = True
        try:
            run_sync(kernel.start_kernel)(env=environment, pass_fds=(held, lifeline))
            yield kernel
            in_haste = False
        finally:
            run_sync(kernel.shutdown_kernel)(now=in_haste)
