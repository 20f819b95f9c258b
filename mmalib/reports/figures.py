"""What every figure of the study shares: the style, a colour and a name for each language, the files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.style
import pandas as pd
from babel import Locale
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalib.records import store

STYLE = Path(__file__).parent / "house.mplstyle"
LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "nl": "Dutch"}
FORMATS = ("svg", "png")  # what every figure is written as; pdf on demand
UNDATED = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
COLOURS = {"en": "#4477AA", "es": "#EE6677", "nl": "#228833"}  # Paul Tol's bright scheme, safe for the colour-blind


def language_name(code: str) -> str:
    """The English name of a language, by its two letters."""
    return LANGUAGE_NAMES.get(code) or Locale("en").languages.get(code, code)


@contextmanager
def drawing(*size: float) -> Iterator[Figure]:
    """A new figure of this width and height in inches, drawn in the study's style."""
    with matplotlib.style.context(STYLE):
        yield Figure(figsize=size or None)


def label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write (height, text, colour) right of the lines that end there, moved apart; the limits must be final."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)  # the least distance between two labels
    ends = sorted(ends)
    heights = [end[0] for end in ends]
    for _ in range(100):  # push neighbours apart until they keep their distance
        for below in range(len(heights) - 1):
            overlap = gap - (heights[below + 1] - heights[below])
            if overlap > 1e-9:
                heights[below] -= overlap / 2
                heights[below + 1] += overlap / 2
    lift = max(0.0, low + gap / 2 - min(heights, default=high))  # above the axis' own labels
    heights = [height + lift for height in heights]
    for height, (_, text, colour) in zip(heights, ends, strict=True):
        note(axes, text, (1.0, height), xycoords=("axes fraction", "data"), color=colour, annotation_clip=False)


def rows_(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, … of a figure, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def columns_(axes: Axes, points: pd.DataFrame, ticks: Mapping[str, str], apart: float = 0.0) -> None:
    """`value` by language and `setting`, a column a setting of `ticks`: large dots are means, small ones seeds.

    The languages' dots stand side by side where they are set `apart`, else on a line.
    """
    for number, (language, colour) in enumerate(COLOURS.items()):
        of_language = points[points["language"] == language].groupby("setting")["value"]
        places = {name: place + apart * (number - 1) for place, name in enumerate(ticks)}
        means = of_language.mean().reindex(list(ticks))
        axes.plot(places.values(), means, "o" if apart else "o-", color=colour, linewidth=0.6, markersize=5)
        for name, seeds in of_language:
            if len(seeds) > 1:
                axes.plot([places[name] + 0.08] * len(seeds), seeds, "o", color=colour, markersize=2, alpha=0.6)
    axes.set_xticks(range(len(ticks)), list(ticks.values()))
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.grid(axis="x", visible=False)


def label_languages(axes: Axes, points: pd.DataFrame, ticks: Mapping[str, str]) -> None:
    """Write the languages' names right of their dots in the last column."""
    for name in reversed(ticks):
        last = points[points["setting"] == name].groupby("language")["value"].mean()
        if len(last):
            label_ends(axes, [(last[language], LANGUAGE_NAMES[language], COLOURS[language]) for language in COLOURS])
            return


def note(axes: Axes, text: str, at: tuple, **how) -> None:
    """Small text right of a point, or where `how` puts it."""
    axes.annotate(text, at, **{"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 7} | how)


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as svg and png (or as pdf), the same bytes for the same figure."""
    paths = []
    # Without a salt and with a date, two drawings of one figure would differ.
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"svg.hashsalt": name}):
        for suffix in formats:
            paths.append(Path(folder) / f"{name}.{suffix}")
            with store.replacing(paths[-1]) as fresh:
                figure.savefig(fresh, format=suffix, metadata=UNDATED[suffix])
    return paths
