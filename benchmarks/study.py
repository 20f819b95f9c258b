"""How long does each notebook of a profile take, from an empty folder?

    python benchmarks/study.py --profile quick

Runs the whole study as `python -m mmalib study` does, in a folder of its own that is deleted afterwards, and prints a
Markdown table. Run it on an otherwise idle machine. With `--runs FOLDER` it reads there what the notebooks took when
they were last executed, and runs nothing.

`--out benchmarks/records` also writes the record that the README's numbers come from.
"""

import argparse
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import nbformat
import pandas as pd

from mmalib import profiles
from mmalib.app import batch
from mmalib.data import corpus
from mmalib.records import machine, store
from mmalib.reports import tables


def main() -> int:
    """Run the study and print the table; the exit code is the study's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--runs", type=Path, help="folder of a study that is finished")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args()
    profile = profiles.load_profile(options.profile)
    name, settings = f"study_{profile.name}", {"profile": profile.name, "threads": machine.describe()["cores"]}
    settings["corpus"] = corpus.corpus_name(profile)
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, name, settings)
    if options.runs:
        seconds = took(options.runs / profile.name)
    else:
        with tempfile.TemporaryDirectory() as runs:
            if failed := batch.run(options.profile, runs=Path(runs)):
                return failed
            seconds = took(Path(runs) / profile.name)
    rows = [
        {"notebook": name, "begins at second": f"{begin:.0f}", "seconds": f"{end - begin:.0f}"}
        for name, (begin, end) in seconds.items()
    ]
    for what, last in (("01 to 07 together", "07"), ("all together", "99")):
        ends = [end for name, (_, end) in seconds.items() if name[:2] <= last]
        rows.append({"notebook": what, "begins at second": "0", "seconds": f"{max(ends):.0f}"})
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        store.save(options.out, name, settings, scores={}, rows=rows)
    return 0


def took(home: Path) -> dict[str, tuple[float, float]]:
    """When every executed notebook of a profile began and ended, as papermill has it, in seconds from the first."""
    executed = sorted((home / "notebooks").glob("*.ipynb"))
    names = {path.stem for path in executed}
    if missing := [path.stem for path in batch.notebooks(batch.NOTEBOOKS) if path.stem not in names]:
        raise SystemExit(f"{home} is missing executed notebooks: {', '.join(missing)}. Run the study there first.")
    told = {path.stem: nbformat.read(path, 4).metadata.papermill for path in executed}
    begins = {name: datetime.fromisoformat(of["start_time"]).timestamp() for name, of in told.items()}
    first = min(begins.values())
    return {name: (begins[name] - first, begins[name] - first + of["duration"]) for name, of in told.items()}


if __name__ == "__main__":
    sys.exit(main())
