"""Records → the tables and figures of the study: a module a notebook (two for 07), the claims' verdicts, the costs.

Every module has `draw(records)`, which gives its tables and figures by the names of their files.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mmalib.reports import answer as answer  # two sentences, for a page
from mmalib.reports import backbones as backbones  # drawn from the reports beside the weights, not from records
from mmalib.reports import (
    baselines,
    claims,
    combined,
    compound,
    costs,
    crossed,
    distillation,
    figures,
    languages,
    quantization,
    speed,
    speed_real,
    structured,
    tables,
    unstructured,
)

TABLES, FIGURES = (*tables.FORMATS, "tex"), (*figures.FORMATS, "pdf")
FORMATS = (*tables.FORMATS, *figures.FORMATS)
NOTEBOOKS = (
    *(baselines, structured, unstructured, distillation, quantization, combined, speed, speed_real),
    *(compound, crossed, languages, claims, costs),
)


def redraw(
    records: list[dict], tables_folder: Path, figures_folder: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write every table and figure of the study again in these formats, from the records alone."""
    check(formats)
    every = [notebook.draw(records) for notebook in NOTEBOOKS]
    return [path for drawn in every for path in write(drawn, tables_folder, figures_folder, formats)]


def write(
    drawn: dict[str, pd.DataFrame | Figure], tables_folder: Path, figures_folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Write tables and figures by the names of their files, each in those of the formats that are for its kind."""
    of_table, of_figure = ([name for name in formats if name in known] for known in (TABLES, FIGURES))
    written = []
    for name, each in drawn.items():
        if isinstance(each, Figure):
            written += figures.save(each, figures_folder, name, of_figure)
        else:
            written += tables.write(each, tables_folder, name, of_table)
    return written


def check(formats: Sequence[str]) -> None:
    """Refuse a format that nothing can be written in."""
    if unknown := [name for name in formats if name not in (*TABLES, *FIGURES)]:
        raise ValueError(f"There is no format '{unknown[0]}'. Choose from: {', '.join((*TABLES, *FIGURES))}.")
