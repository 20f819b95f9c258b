"""What F1 have the shipped int8 models on this CPU, runtime by runtime?

    MMALIB_DATA=folder python benchmarks/scores.py fast faithful

An int8 product is rounded otherwise by each runtime, and by one runtime on CPUs with other instructions, so that the F1
of a graph is that of a runtime on a CPU. Scores the models on the test sets and prints a Markdown table.

`--out benchmarks/records` also writes the record that the table in figures/README.md comes from.
"""

import argparse
from pathlib import Path

import pandas as pd

from mmalib import NER
from mmalib.model.evaluate import scored
from mmalib.records import machine, store
from mmalib.reports import tables
from mmalib.studies.study import Study


def main(arguments: list[str] | None = None) -> None:
    """Score, print, one model and runtime after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped names, or folders with a graph")
    parser.add_argument("--runtimes", default="onnxruntime,openvino,torch")
    parser.add_argument("--profile", default="small", help="for the corpora (default: small)")
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    study = Study.open(options.profile)
    settings = {"models": options.models, "runtimes": options.runtimes, "corpus": study.corpus}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "scores", settings)
    tests, rows = {language: {"test": splits["test"]} for language, splits in study.corpora.items()}, []
    for model in options.models:
        for runtime in options.runtimes.split(","):
            ner = NER.load(model, runtime=runtime)
            row = {"model": model, "runtime": runtime, "CPU": machine.cpu()}
            row |= {f"{name} test": f"{of['test']['f1']:.3f}" for name, of in scored(ner.tags, tests).items()}
            rows.append(row)
            print(", ".join(row.values()), flush=True)
    print(tables.markdown(pd.DataFrame(rows)))
    if options.out:
        store.save(options.out, "scores", settings, scores={}, rows=rows)


if __name__ == "__main__":
    main()
