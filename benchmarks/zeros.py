"""What do zeros in int8 weights buy in each runtime, on this CPU?

    python benchmarks/zeros.py

XLM-R base with random weights, static int8, with no zeros and with 80, 90 and 95% of them in blocks of four, in every
runtime in the form that it runs fast, in turns with dense float32 base in ONNX Runtime. ONNX Runtime and OpenVINO
multiply by every zero, DeepSparse and `torch:kernel=sparse` leave them out. Prints a Markdown table. Run it on an
otherwise idle machine: what zeros buy depends on how fast the CPU multiplies int8 that is dense.

`--out benchmarks/records` also writes the record that the table in figures/README.md comes from.
"""

import argparse
import tempfile
from pathlib import Path

from mmalib.graph import export
from mmalib.model.backbones import load_tokenizer
from mmalib.plan import LENGTH
from mmalib.records import machine, store
from mmalib.reports import tables
from mmalib.speed import throughput
from mmalib.speed.cases import SKIPPING, cases, form
from mmalib.speed.shapes import build, shape

DENSE = "base int8"
NAMES = (DENSE, *(f"base {share:.0%} 4-block int8" for share in (0.8, 0.9, 0.95)))
RUNTIMES = ("onnxruntime", "openvino", "deepsparse", "torch", SKIPPING)


def main(arguments: list[str] | None = None) -> None:
    """Build, measure, print, one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=machine.cores(), help="default: every core that may be used")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row (default: 5)")
    parser.add_argument("--layers", type=int, help="at most so many (default: all twelve)")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("batch", "threads", "seconds", "layers")}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "zeros", settings)
    tokenizer, rows = load_tokenizer("e5-half"), []  # any would do: a random model reads random subwords
    how = {"threads": options.threads, "seconds": options.seconds}
    for case in (case for case in cases() if case.name in NAMES):
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "dense"
            export.export(shape("base", vocabulary=len(tokenizer), layers=options.layers), tokenizer, base)
            wanted = [name for name in RUNTIMES if case.name != DENSE or name != SKIPPING]
            forms = list(dict.fromkeys(form(case, name) for name in wanted))
            folders = build(case, forms, tokenizer, Path(folder), deepest=options.layers)
            for name in wanted:
                named = {case.name: folders[form(case, name)]}
                measured = throughput.measure(named, [name], [options.batch], LENGTH, baseline=base, **how)
                rows += map(throughput.told, measured)
    table = throughput.table(rows).drop(columns="p95 ms")
    print(tables.markdown(table))
    if options.out:
        store.save(options.out, "zeros", settings, scores={}, rows=table.to_dict("records"))


if __name__ == "__main__":
    main()
