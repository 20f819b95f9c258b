"""How long does each notebook of a profile take, from an empty folder?

    python benchmarks/study.py --profile quick

Runs the whole study as `python -m mmalib study` does, in a folder of its own that is deleted afterwards, and prints a
Markdown table. Run it on an otherwise idle machine.

`--out benchmarks/records` also writes the record that the README's numbers come from.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd

from mmalib import batch, machine, results, tables


def main() -> int:
    """Run the study and print the table; the exit code is the study's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        if failed := batch.run(options.profile, runs=Path(runs)):
            return failed
        executed = sorted((Path(runs) / options.profile / "notebooks").glob("*.ipynb"))
        seconds = {path.stem: nbformat.read(path, 4).metadata.papermill.duration for path in executed}
    rows = [{"notebook": name, "seconds": f"{value:.0f}"} for name, value in seconds.items()]
    rows.append({"notebook": "together", "seconds": f"{sum(seconds.values()):.0f}"})
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        config = {"profile": options.profile, "data": os.environ.get("MMALIB_DATA") or "sample"}
        config["threads"] = machine.describe()["cores"]
        results.save(options.out, f"study_{options.profile}", config, scores={}, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
