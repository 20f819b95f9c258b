"""Notebook 07's figures: speed-ups of all cases, speed against what was removed, F1 against speed."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mmalib.reports import figures

RUNTIMES = {  # name → (how it is written, colour, marker); colours are none of a language's
    "onnxruntime": ("ONNX Runtime", "#CCBB44", "o"),
    "openvino": ("OpenVINO", "#66CCEE", "s"),
    "deepsparse": ("DeepSparse", "#AA3377", "D"),
    "torch": ("PyTorch, int8", "#228833", "^"),
}
SHADES = {1: "#88AACC", 4: "#4477AA", 8: "#223355"}  # batch → colour
FAMILIES = {  # as in `words`
    "dense": "#222222",
    "student": "#66CCEE",
    "heads or neurons gone": "#CCBB44",
    "zeros": "#AA3377",
    "int8": "#228833",
    "several at once": "#EE7733",
    "others": "#4477AA",
    "the paper's": "#999999",
}
NAMED = 5  # models of the front
TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def speedups(measured: pd.DataFrame, printed_best: float) -> Figure:
    """Every case at its best batch: a dot a runtime, on a logarithmic scale; the paper's best as a line."""
    listed = measured[~measured["case"].str.startswith("obert")]  # they have a table of their own
    speeds = listed.dropna(subset=["ratio"]).assign(family=lambda rows: rows["runtime"].str.split(":").str[0])
    best = speeds.groupby(["case", "family"])["ratio"].max().unstack()
    best = best.loc[best.max(axis=1).sort_values().index]
    with figures.drawing(6.9, 0.9 + 0.17 * len(best)) as drawn:
        axes = drawn.subplots()
        for family, (name, colour, marker) in RUNTIMES.items():
            if family in best:
                axes.plot(best[family], range(len(best)), marker, color=colour, label=name, markeredgecolor="black",
                          markeredgewidth=0.3)  # fmt: skip
        axes.axvline(printed_best, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        text, where = f"the paper's best\n{printed_best:.1f}×, DeepSparse", ("data", "axes fraction")
        figures.note(axes, text, (printed_best, 0.01), xycoords=where, va="bottom")
        axes.set_yticks(range(len(best)), best.index)
        axes.set_ylim(-0.7, len(best) - 0.3)
        _log_x(axes, best.stack().tolist() + [printed_best * 2])
        axes.set_xlabel("speed-up over dense float32 base in ONNX Runtime, at the best batch")
        drawn.legend(loc="outside upper right", ncols=3)
    return drawn


def shrinking(measured: pd.DataFrame, way: str) -> Figure:
    """Samples a second against the share of heads ("heads"), or of heads and neurons ("uniform"), that is gone."""
    of_way = (measured["case"] == "base") | measured["case"].str.startswith(f"{way} ")
    kept = measured[of_way & measured["runtime"].isin(RUNTIMES)].dropna(subset=["ratio"])
    batches = sorted(kept["batch"].unique())
    names = [name for name in RUNTIMES if (kept["runtime"] == name).any()]
    with figures.drawing(6.9, 2.3) as drawn:
        panels = drawn.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            for number, batch in enumerate(batches):
                line = kept[(kept["runtime"] == name) & (kept["batch"] == batch)].sort_values(way)
                colour = SHADES.get(batch, "#4477AA")
                middle = line["samples_per_second"]
                spread = [middle - line["samples_per_second_low"], line["samples_per_second_high"] - middle]
                axes.errorbar(line[way], middle, spread, marker="os^Dv"[number % 5], color=colour, capsize=2,
                              elinewidth=0.6, label=f"batch {batch}")  # fmt: skip
            axes.set_title(RUNTIMES[name][0], loc="left")
            axes.set_xlim(-0.04, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axes.xaxis.set_major_formatter("{x:.0%}")
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("samples/s, length 128")
        what = {"heads": "all heads, wherever they were", "uniform": "heads and feed-forward neurons, every layer"}[way]
        drawn.supxlabel(f"share removed of {what}", fontsize=8)
        panels[0].legend(loc="upper left")
    return drawn


def against_speed(points: pd.DataFrame) -> Figure:
    """F1 in Spanish and Dutch against speed-up, of the trained models by family beside the paper's.

    Those that no other beats are joined, and `NAMED` of them are named. Hollow: Spanish and Dutch text has been read,
    without its labels. Bars are a standard deviation over seeds.
    """
    points = points.sort_values("speed-up")
    best = points[points["front"]].drop_duplicates("model")
    with figures.drawing(6.9, 3.1) as drawn:
        axes = drawn.subplots()
        for family, colour in FAMILIES.items():
            of_family = points[points["family"] == family]
            for read, face in (("", colour), ("yes", "white")):
                group = of_family[of_family["text read"] == read]
                label = family if read == "" and len(of_family) else None
                axes.errorbar(group["speed-up"], group["F1 unseen"], group["± over seeds"], fmt="o", color=colour,
                              markerfacecolor=face, capsize=2, elinewidth=0.6, label=label)  # fmt: skip
        if (points["text read"] == "yes").any():
            axes.plot([], [], "o", color="#555555", markerfacecolor="white", label="has read their text")
        for row in points[points["source"] == "paper"].to_dict("records"):
            figures.note(axes, row["model"], (row["speed-up"], row["F1 unseen"]), xytext=(4, -6), fontsize=6,
                         color="#777777")  # fmt: skip
        axes.plot(best["speed-up"], best["F1 unseen"], color="black", linewidth=0.8, zorder=1)
        places = sorted({round(place) for place in np.linspace(0, len(best) - 1, min(NAMED, len(best)))})
        named = best.iloc[places].to_dict("records")
        for number, row in enumerate(named, start=1):
            where = {"xytext": (4, 4), "va": "baseline", "fontweight": "bold"}
            figures.note(axes, str(number), (row["speed-up"], row["F1 unseen"]), **where)
        names = [
            f"{number}  {row['what it is']}\n    {row['speed-up']:.0f}×, {RUNTIMES[row['runtime'].split(':')[0]][0]}"
            for number, row in enumerate(named, start=1)
        ]
        axes.annotate("\n".join(names), (1.02, 0), xycoords="axes fraction", fontsize=6, annotation_clip=False)
        _log_x(axes, points["speed-up"].tolist())
        axes.margins(y=0.12)
        axes.set_xlabel("speed-up over dense float32 XLM-R base in ONNX Runtime, same batch and length")
        axes.set_ylabel("test F1, mean of Spanish and Dutch")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return drawn


def _log_x(axes, values: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(values) * 0.8, max(values) * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}×")
