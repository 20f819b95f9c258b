"""What a run was made on and with: the machine, the versions, the commit.

Every record carries them: an int8 throughput means nothing without the CPU's flags, and a score
means little without the versions. What a system does not tell (macOS has no /proc) is None, never a guess.
"""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
DEEPSPARSE = ROOT / ".venv-deepsparse"
THREADS = "MMALIB_THREADS"
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's, as "200000 100000": so much of a period, or "max 100000"

# The study's dependencies by the names that pip knows; tests/test_setup.py compares them with pyproject.toml.
PACKAGES = (
    *("torch", "accelerate", "datasets", "huggingface_hub", "safetensors", "tokenizers", "transformers"),
    *("pyarrow", "onnx", "openvino", "onnxruntime", "seqeval", "numpy", "pandas", "matplotlib", "Faker", "babel"),
    *("jupyterlab", "papermill", "nbclient", "jupyter_client", "jupyter_core", "nbformat", "ipykernel"),
    *("ipywidgets", "tqdm", "psutil", "peft", "codecarbon"),
)

# The instructions that decide how fast int8 and bf16 are, by their names in /proc/cpuinfo.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def describe() -> dict:
    """The machine as plain data for a record: CPU, cores, memory, CPU flags, GPU, Python, platform."""
    import torch  # takes seconds, and most users of this module never ask

    told = {"cpu": cpu(), "cores": cores(), "threads": threads(), "ram_gib": _ram_gib(), "flags": flags()}
    told["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return told | {"python": platform.python_version(), "platform": platform.platform()}


def cpu() -> str:
    """The CPU's name."""
    # ARM Linux gives no model name, and macOS answers through sysctl.
    if name := _cpuinfo().get("model name"):
        return name
    apple = _output("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else None
    return apple or platform.processor() or platform.machine() or "unknown"


def flags() -> dict[str, bool | None]:
    """Which of `FLAGS` the CPU has."""
    listed = (told := _cpuinfo()).get("flags", "").split()
    return {flag: flag in listed if told else None for flag in FLAGS}


def device() -> str:
    """Where models are trained, pruned and scored; graphs run on the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cores() -> int:
    """The cores this process may use, which on a shared machine or in a container are fewer than there are."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = QUOTA.read_text().partition(" ") if QUOTA.is_file() else ("max", "", "")
    return may if quota == "max" else max(1, min(may, round(int(quota) / int(period))))


def threads() -> int:
    """How many threads a run computes with: all cores, or a worker's share of them."""
    return int(os.environ.get(THREADS) or cores())


def versions() -> dict[str, str]:
    """The installed version of every package the study depends on; one that is not installed is left out."""
    return {name: there for name in PACKAGES if (there := version(name))}


def version(package: str) -> str | None:
    """The installed version of a package, if it is there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache  # what this process has loaded; a fresh clone's git reads every file anew each time it is asked
def commit() -> str | None:
    """The checkout's git commit, with "-dirty" if the code differs from it; None outside a checkout."""
    # An installed copy may lie inside somebody else's repository: only our own root counts.
    if not (ROOT / ".git").exists():
        return None
    head = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    # Without locks: a run that is killed here would leave one, and the user's next commit would be refused. Asked of
    # what may change a number alone.
    asked = ("--no-optional-locks", "status", "--porcelain", "--", "mmalib", "notebooks", "pyproject.toml")
    changes = _output("git", "-C", str(ROOT), *asked)
    return None if head is None or changes is None else head + ("-dirty" if changes else "")


def has_bf16() -> bool:
    """Whether bf16 is faster here: without the instructions a CPU computes it slower than float32."""
    import torch

    if device() == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = flags()
    return bool(known["avx512_bf16"] or known["amx_bf16"])


def saturates(told: dict | None = None) -> bool:
    """Whether u8 x s8 products saturate here, or on a record's machine: x86 without VNNI; what is unknown is safe."""
    known, name = (told["flags"], told["platform"]) if told else (flags(), platform.machine())
    is_x86 = any(x86 in name.lower() for x86 in ("x86_64", "amd64"))
    return is_x86 and {known[name] for name in ("avx512_vnni", "avx_vnni", "amx_int8")} == {False}


def deepsparse() -> tuple[str | None, str | None]:
    """Its version, or else why it cannot be used here; it has an environment of its own."""
    failed, python = DEEPSPARSE / ".failed", DEEPSPARSE / "bin" / "python"
    if failed.exists():  # the Makefile left the reason
        return None, failed.read_text(encoding="utf-8").strip()
    if not python.exists():
        return None, "there is no .venv-deepsparse (make deepsparse)"
    if platform.machine() == "x86_64" and flags()["avx2"] is False:
        return None, "this CPU has no AVX2"
    ask = "from importlib.metadata import version; print(version('deepsparse'))"
    version = _output(str(python), "-I", "-c", ask, NM_DISABLE_ANALYTICS="True")
    return version, None if version else ".venv-deepsparse is incomplete (make deepsparse)"


def _cpuinfo() -> dict[str, str]:
    # The first processor's entry; empty where the system has no such file.
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _ram_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # no sysconf, or it does not know these names
        return None


def _output(*command: str, **environment: str) -> str | None:
    # What a command prints, or None if it is missing, fails or hangs.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
