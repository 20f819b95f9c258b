"""What does tagging text cost beside the graph, how soon is the first answer there, and does a long stream grow?

    python benchmarks/tagging.py fast faithful

The first answer is timed from the start of a new process. The share beside the graph is the CPU time that is not spent
in the runtime: cutting text into words and subwords, sorting, padding, entities. `--out benchmarks/records` writes the
record that `figures/` quotes. Run it on an otherwise idle machine.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mmalib import NER
from mmalib.records import store
from mmalib.reports import tables
from mmalib.use import shipped

LINES = 100_000
FIRST = (
    "import sys; from mmalib import NER; NER.load(sys.argv[1], runtime=sys.argv[2])('Angela Merkel besuchte Madrid.')"
)


def main(arguments: list[str] | None = None) -> None:
    """Measure every model and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a shipped name, or the folder of a graph")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    rows = [row(model, options.runtime) for model in options.models]
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        settings = {"models": options.models, "runtime": options.runtime, "lines": LINES, "threads": 1}
        store.save(options.out, "tagging", settings, scores={}, rows=rows)


def row(model: str, runtime: str) -> dict:
    """What is measured of one model, on one thread."""
    shipped.locate(model)  # unpacked, before anything is timed
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST, model, runtime], check=True)
    first = time.perf_counter() - start
    ner = NER.load(model, runtime=runtime, threads=1)
    speed, share = shipped.speed(ner), beside(ner)
    sizes = [resident() for number, _ in enumerate(ner(f"Angela {n} besuchte Madrid." for n in range(LINES)), 1)
             if number % (LINES // 4) == 0]  # fmt: skip
    return {
        "model": Path(model).name,
        "first answer after s": f"{first:.2f}",
        "sentences a second": f"{speed:.0f}",
        "CPU time beside the graph": f"{share:.1%}",
        f"MB after a quarter and all of {LINES:,} lines": f"{sizes[0]:.0f}, {sizes[-1]:.0f}",
    }


def beside(ner: NER, times: int = 9) -> float:
    """The share of CPU time that is not spent in the runtime, in the median of so many rounds."""
    run, inside, shares = ner._run, [], []

    def timed(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        start = time.process_time()
        logits = run(ids, mask)
        inside.append(time.process_time() - start)
        return logits

    ner._run = timed
    for _ in range(times):
        inside.clear()
        start = time.process_time()
        ner([*shipped.TEXT] * 100)
        shares.append(1 - sum(inside) / (time.process_time() - start))
    ner._run = run
    return statistics.median(shares)


def resident() -> float:
    """Megabytes of this process in memory, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
