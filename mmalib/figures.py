"""Figures of the study: DataFrame in, matplotlib Figure out; one function writes the files."""

import os
from pathlib import Path

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "house.mplstyle"
LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "nl": "Dutch"}
COLOURS = {"en": "#4477AA", "es": "#EE6677", "nl": "#228833"}  # Paul Tol's bright scheme, safe for the colour-blind


def baselines(frame: pd.DataFrame) -> Figure:
    """Test F1 of every baseline, a row a language, a dot a seed, with the 95% interval over sentences."""
    rows = frame[(frame["method"] == "baseline") & (frame["split"] == "test")]
    groups = list(rows.groupby(["backbone", "corpus", "language"], sort=False))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(3.4, 0.7 + 0.34 * len(groups)))
        axes = figure.subplots()
        for row, ((_, _, language), group) in enumerate(groups):
            colour = COLOURS[language]
            for number, run in enumerate(group.sort_values("seed").itertuples()):
                # seeds a little below one another, or their intervals would lie on top of one another
                height = row + 0.2 * (number - (len(group) - 1) / 2)
                axes.plot([run.f1_low, run.f1_high], [height] * 2, color=colour, linewidth=1, alpha=0.6)
                axes.plot(run.f1, height, "o", color=colour, markersize=3)
            axes.annotate(
                f"{group['f1'].mean():.3f}", (1.0, row), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=7, color=colour, annotation_clip=False,
            )  # fmt: skip
        names = [f"{backbone}, {LANGUAGE_NAMES[language]}" for (backbone, _, language), _ in groups]
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        corpora = ", ".join(rows["corpus"].unique())
        axes.set_xlabel(f"entity F1 on test ({corpora}); right: mean over seeds")
        axes.set_title("Tuned on English alone", loc="left")
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as svg and png, the same bytes for the same figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    # Without a salt and with a date, two drawings of one figure would differ.
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            path = folder / f"{name}.{suffix}"
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            figure.savefig(temporary, format=suffix, metadata=metadata)
            os.replace(temporary, path)
            paths.append(path)
    return paths
