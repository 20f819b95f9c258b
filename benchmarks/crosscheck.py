"""Does our harness measure what the runtimes' own tools measure? Same file, batch, length and threads.

    python benchmarks/crosscheck.py FOLDER… --batch 1,8 --length 128 --threads 2 --seconds 5

OpenVINO against its `benchmark_app`, DeepSparse against `deepsparse.benchmark`, the runtime `torch` (of static int8
graphs alone) against `torch.utils.benchmark`, in nine rounds in which the two take turns at going first; speeds and
their quotient are medians over rounds, and the range of the quotients says what one round is worth on this machine.
Which ids a batch holds is left to either. Prints a Markdown table. Run it on an otherwise idle machine.

`--out benchmarks/records` also writes the record that the README's numbers come from.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from mmalib import runtimes
from mmalib.app import bench
from mmalib.records import machine, store
from mmalib.reports import tables
from mmalib.speed import throughput

ROUNDS = 9
# benchmark_app without the report that `import openvino` sends, see mmalib/runtimes/ov.py.
BENCHMARK_APP = (
    "import sys; sys.modules['openvino_telemetry'] = None; from openvino.tools.benchmark.main import main; main()"
)


def main() -> int:
    """Print the table; the exit code is 1 where the two differ by more than 5%."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a model.onnx")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=machine.describe()["cores"])
    parser.add_argument("--seconds", type=int, default=5, help="for each of the two in a round")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args()
    models = {name: runtimes.locate(folder) for name, folder in throughput.named(options.folders).items()}
    asked = {name: getattr(options, name) for name in ("batch", "length", "threads", "seconds")}
    settings = {"models": {name: bench.fingerprint(model.parent) for name, model in models.items()}, **asked}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "crosscheck", settings)
    # benchmark_app makes the shapes static, so ours does too.
    tools = {"openvino:shapes=fixed": _benchmark_app, "deepsparse": _deepsparse_benchmark, "torch": _torch_benchmark}
    rows = []
    for runtime, tool in tools.items():
        if reason := runtimes.available(runtime):
            print(f"{runtime} is not available: {reason}", file=sys.stderr)
            continue
        for name, model in models.items():
            if runtime == "torch" and "quantization" not in store.read_json(model.with_name("mmalib.json")):
                continue
            for batch in map(int, options.batch.split(",")):
                rows.append({"model": name, **_row(runtime, tool, model, batch, options)})
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        store.save(options.out, "crosscheck", settings, scores={}, rows=rows)
    return int(any(abs(float(row["difference"].rstrip("%"))) > 5 for row in rows))


def _row(runtime: str, tool, model: Path, batch: int, options: argparse.Namespace) -> dict:
    ours, theirs = [], []

    def measure_ours() -> None:
        with runtimes.load(model.parent, options.threads, runtime) as session:
            found = throughput.compare(session, session, batch, options.length, seconds=options.seconds / 2)
            ours.append((found["samples_per_second"] + found["baseline_samples_per_second"]) / 2)

    def measure_theirs() -> None:
        theirs.append(tool(model, batch, options.length, options.threads, options.seconds))

    for number in range(ROUNDS):  # a steady drift of the machine cancels out
        for measure in (measure_ours, measure_theirs) if number % 2 else (measure_theirs, measure_ours):
            measure()
    apart = [one / other - 1 for one, other in zip(ours, theirs, strict=True)]
    return {
        "runtime": runtime,
        "batch": batch,
        "its own tool": tool.__name__.strip("_"),
        "tool samples/s": f"{statistics.median(theirs):.1f}",
        "harness samples/s": f"{statistics.median(ours):.1f}",
        "difference": f"{100 * statistics.median(apart):+.1f}%",
        "single rounds": f"{100 * min(apart):+.1f}% to {100 * max(apart):+.1f}%",
    }


def _benchmark_app(model: Path, batch: int, length: int, threads: int, seconds: int) -> float:
    shape = ",".join(f"{name}[{batch},{length}]" for name in _inputs(model))
    command = [sys.executable, "-c", BENCHMARK_APP, "-m", str(model), "-d", "CPU", "-shape", shape]
    # A hint excludes a number of threads in this tool; one stream of so many threads is what "latency" means.
    command += ["-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-infer_precision", "f32"]
    command += ["-api", "sync", "-t", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600 + seconds)
    found = re.search(r"Throughput:\s+([\d.]+) FPS", done.stdout)
    if not found:
        raise ValueError(f"benchmark_app failed: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    # It takes "batch" from the layout of images; of ours it knows none and counts calls.
    counted = re.search(r"batch_size\(s\): (\d+)|Model batch size: (\d+)", done.stdout)
    size = int(next(filter(None, counted.groups()))) if counted else 1
    return float(found[1]) * batch / size


def _deepsparse_benchmark(model: Path, batch: int, length: int, threads: int, seconds: int) -> float:
    from mmalib.runtimes.deepsparse import ENVIRONMENT

    with tempfile.TemporaryDirectory() as folder:  # it rewrites the file it is given
        copy = shutil.copy(model, folder)
        report = Path(folder) / "report.json"
        shapes = ",".join([f"[{batch},{length}]"] * len(_inputs(model)))
        command = [str(machine.DEEPSPARSE / "bin" / "deepsparse.benchmark"), copy, "-b", str(batch), "-i", shapes]
        command += ["-ncores", str(threads), "-s", "sync", "-t", str(seconds), "-w", "2", "-x", str(report), "-q"]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600 + seconds, env=environment)
        if not report.is_file():
            raise ValueError(f"deepsparse.benchmark failed: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
        return json.loads(report.read_text())["benchmark_result"]["items_per_sec"]


def _torch_benchmark(model: Path, batch: int, length: int, threads: int, seconds: int) -> float:
    from torch.utils.benchmark import Timer

    with runtimes.load(model.parent, threads, "torch") as session:
        known = {"session": session, "pair": throughput.random_batch(batch, length)}
        return batch / Timer("session(*pair)", globals=known).blocked_autorange(min_run_time=seconds).median


def _inputs(model: Path) -> list[str]:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [given.name for given in graph.input if given.name not in weights]


if __name__ == "__main__":
    sys.exit(main())
