"""The `bench` command: speeds of exported models in a table, and a record of each model in each runtime."""

import re
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from mmalib import runtimes
from mmalib.model import cache
from mmalib.plan import Run
from mmalib.records import store
from mmalib.reports import tables
from mmalib.speed import throughput


def run(folders: Sequence[Path], runtime_names: Sequence[str], baseline: Path | None, records: Path, **how) -> int:
    """Measure, record one by one and print; the exit code is 1 if anything failed. Measuring again replaces a record.

    `how` is how to measure: `batches`, `length`, `threads` and `seconds` of `throughput.measure`.
    """
    base, named = Path(baseline or folders[0]), throughput.named(folders)
    measured, rows = map(throughput.told, throughput.measure(named, runtime_names, baseline=base, **how)), []
    for (model, runtime), group in groupby(measured, key=itemgetter("model", "runtime")):
        rows += (of_model := list(group))
        settings = {"model": model, "weights": fingerprint(named[model]), "runtime": runtime, **how}
        settings["baseline"] = fingerprint(base)
        # The settings are in the name, so that no measurement stands in the way of another.
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"bench-{model}-{runtime}-{Run('bench', settings).digest}")
        store.save(records, name, settings, scores={}, throughput=of_model)
    same = f"at the same batch; {how['threads']} threads, length {how['length']}"
    print(f"\nSpeed-up over {base} in ONNX Runtime {same}:\n")
    print(tables.markdown(throughput.table(rows)))
    if any(row.get("busy") for row in rows):
        print("The machine was busy with other things, so this means little. Measure again.")
    print(f"Records: {records}")
    return int(any("failed" in row for row in rows))


def fingerprint(folder: Path) -> str:
    """Tells one exported model from another of the same name."""
    return cache.hash_of(runtimes.locate(folder))[:12]
