"""What do zeros in int8 weights buy in each runtime, on this CPU?

    python benchmarks/zeros.py

XLM-R base with random weights, static int8, with no zeros and with 80, 90 and 95% of them in blocks of four, in every
runtime in the form that it runs fast, in turns with dense float32 base in ONNX Runtime. ONNX Runtime and OpenVINO
multiply by every zero, DeepSparse and `torch:kernel=sparse` leave them out. Prints a Markdown table. Run it on an
otherwise idle machine: what zeros buy depends on how fast the CPU multiplies int8 that is dense.

`--out benchmarks/records` also writes the record that the table in figures/README.md comes from.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from mmalib.profiles import load_profile
from mmalib.records import machine, store
from mmalib.reports import tables
from mmalib.speed import throughput
from mmalib.speed.cases import SKIPPING
from mmalib.studies.study import Study

NAMES = ("base int8", *(f"base {share:.0%} 4-block int8" for share in (0.8, 0.9, 0.95)))
RUNTIMES = ("onnxruntime", "openvino", "deepsparse", "torch", SKIPPING)


def main(arguments: list[str] | None = None) -> None:
    """Make these shapes as notebook 07 does, in a folder that is deleted afterwards, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row (default: 5)")
    parser.add_argument("--layers", type=int, help="at most so many (default: all twelve)")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    settings = {"batch": options.batch, "threads": machine.threads(), "seconds": options.seconds}
    settings |= {"layers": options.layers}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "zeros", settings)
    sizes = {"speed_cases": NAMES, "speed_batches": (options.batch,), "speed_seconds": options.seconds}
    profile = dataclasses.replace(load_profile("small"), **sizes, speed_layers=options.layers)
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        study = Study.open(profile, runs, "sample")
        for run in study.runs(kind="shape"):
            wanted = [name for name in run.settings["runtimes"] if name in RUNTIMES]
            rows += study.make(dataclasses.replace(run, settings=run.settings | {"runtimes": wanted}))["throughput"]
    table = throughput.table(rows).drop(columns="p95 ms")
    print(tables.markdown(table))
    if options.out:
        store.save(options.out, "zeros", settings, scores={}, rows=table.to_dict("records"))


if __name__ == "__main__":
    main()
