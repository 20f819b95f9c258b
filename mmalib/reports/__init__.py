"""Records → the tables and figures of the study: a module a notebook, two for 07, and the claims' verdicts."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import of_kind
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
Drawn = dict[str, pd.DataFrame | Figure]  # by the names of their files
DRAWN = {  # by the kind of runs that it needs: the name of each file, and what draws it from all records
    "baseline": {"table_1": baselines.table_1, "baselines": baselines.figure}
    | {"table_languages": languages.table, "languages": languages.figure},
    "recipe": {"table_recipes": baselines.recipes_table},
    "structured": {"table_structured": structured.table, "heads_removed": structured.removal_map}
    | {"figure_1": partial(structured.falling, method="heads")}
    | {"figure_2": partial(structured.falling, method="uniform")},
    "vocabulary": {"table_vocabulary": structured.vocabulary_table},
    "gradual": {"table_3": unstructured.table_3, "retention": unstructured.kept}
    | {"figure_3": partial(unstructured.on_the_way, criterion="obs", schedule="cubic")}
    | {"figure_4": partial(unstructured.on_the_way, criterion="obs", schedule="linear")}
    | {"figure_5": partial(unstructured.on_the_way, criterion="magnitude", schedule="cubic")},
    "one-shot": {"table_oneshot": unstructured.one_shot_table},
    "trial": {"table_trials": unstructured.trials_table},
    "movement": {"table_movement": unstructured.movement_table},
    "student": {"table_4": distillation.table_4, "distillation": distillation.figure},
    "graph": {"table_6": quantization.table_6, "table_int8_sizes": quantization.sizes}
    | {"table_calibration": quantization.calibration, "table_floor": quantization.floors}
    | {"quantization": quantization.losses, "sensitivity": quantization.sensitivity},
    "changed words": {"table_changed_words": quantization.changed_words},
    "combination": {"table_8": combined.table_8, "table_combined": combined.contents, "table_best": combined.goals}
    | {"table_sums": combined.sums_table},
    "shape": {f"table_{number}": partial(speed.table, number=number) for number in (2, 5, 7, 9, 10, 11)}
    | {"table_speed_open": speed.fastest, "table_17_obert": speed.table_17, "speedups": speed.speedups}
    | {"figure_6_7": partial(speed.shrinking, way="heads")}
    | {"figure_8_9": partial(speed.shrinking, way="uniform")},
    "text": {"table_real_text": speed_real.text_table, "table_latency": speed_real.latency_table},
    "trained": {"table_f1_speed": speed_real.trained, "f1_against_speed": speed_real.against_speed},
    "layers": {"table_layers": compound.layers},
    "compound": {"table_patience": compound.patience},
    "compound speed": {"table_compound": compound.compound, "compound": compound.recall},
    "transfer": {"table_upstream": compound.upstream},
    "upstream": {"table_upstream_backbones": compound.backbones},
    "held": {"table_2_of_4": compound.two_of_four},
    "ablation": {"table_ablations": compound.ablations, "ablations": compound.ablation_curves},
    "crossed": {"table_crossed": crossed.table},
    "searched": {"table_searched": crossed.searched},
    "gated": {"crossed_quality": crossed.quality, "crossed_size": crossed.size, "crossed_removed": crossed.removed},
    "use": {"crossed_emissions": crossed.emissions},
    "all": {"claims": claims.table, "table_costs": costs.table},
}


def draw(records: list[dict], *chosen: str) -> Drawn:
    """Tables and figures by the names of their files: those of the chosen kinds of runs or names, or all.

    What there are no runs for is left out.
    """
    drawn = {}
    for kind, files in DRAWN.items():
        there = kind == "all" or of_kind(records, kind)
        for name, make in files.items():
            made = make(records) if there and (not chosen or {kind, name} & set(chosen)) else None
            if isinstance(made, Figure) or made is not None and len(made):
                drawn[name] = made
    if "claims" in drawn:
        drawn["verdicts"] = drawn["claims"].drop(columns="numbers")
        drawn["claims"] = drawn["claims"].drop(columns=["corpus", "records"])
    return drawn


def shown(drawn: Drawn, name: str) -> pd.DataFrame | Figure | str:
    """One of what was drawn, as a notebook shows it."""
    made = drawn.get(name, "Not run in this profile.")
    return tables.formatted(made) if isinstance(made, pd.DataFrame) else made


def write(drawn: Drawn, tables_folder: Path, figures_folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write tables and figures, each in those of the formats that are for its kind."""
    check(formats)
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
