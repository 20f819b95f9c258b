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
    """Test F1 of every baseline and seed, one column a language, with the 95% interval over sentences."""
    rows = frame[(frame["method"] == "baseline") & (frame["split"] == "test")]
    names = list(dict.fromkeys(rows["backbone"] + "\n" + rows["corpus"]))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(3.4, 0.9 + 0.75 * len(names)))
        axes = figure.subplots()
        for row, name in enumerate(names):
            of_name = rows[rows["backbone"] + "\n" + rows["corpus"] == name]
            for language, group in of_name.groupby("language", sort=False):
                for number, run in enumerate(group.sort_values("seed").itertuples()):
                    # seeds a little below one another, or their intervals would lie on top of one another
                    height = row + 0.14 * (number - (len(group) - 1) / 2)
                    colour = COLOURS[language]
                    axes.plot([run.f1_low, run.f1_high], [height] * 2, color=colour, linewidth=1, alpha=0.6)
                    axes.plot(run.f1, height, "o", color=colour, markersize=3.5)
                axes.annotate(
                    f"{LANGUAGE_NAMES[language]} {group['f1'].mean():.2f}",
                    (group["f1"].mean(), row - 0.14 * len(group) / 2 - 0.06),
                    ha="center",
                    va="bottom",
                    fontsize=7,
                    color=COLOURS[language],
                )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.65)
        axes.set_xlim(0, 1)
        axes.set_xlabel("entity F1 on test")
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
