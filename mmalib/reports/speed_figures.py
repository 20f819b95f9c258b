"""Notebook 07's figures: speed-ups of all cases, speed against what was removed, F1 against speed."""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mmalib.reports import figures, speed, speed_real

RUNTIMES = {  # name → (how it is written, colour, marker); colours are none of a language's
    "onnxruntime": ("ONNX Runtime", "#CCBB44", "o"),
    "openvino": ("OpenVINO", "#66CCEE", "s"),
    "deepsparse": ("DeepSparse", "#AA3377", "D"),
    "torch": ("PyTorch, int8", "#228833", "^"),
}
SHADES = {1: "#88AACC", 4: "#4477AA", 8: "#223355"}  # batch → colour
TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def speedups(records: list[dict]) -> Figure:
    """Every case at its best batch: a dot a runtime, on a logarithmic scale; the paper's best as a line."""
    speeds, printed_best = speed.rows(records).dropna(subset=["ratio"]), speed.printed_best()
    speeds = speeds[~speeds["case"].str.startswith("obert")]  # they have a table of their own
    best = speeds.groupby(["case", speeds["runtime"].str.split(":").str[0]])["ratio"].max().unstack()
    best = best.loc[best.max(axis=1).sort_values().index]
    with figures.drawing(6.9, 0.9 + 0.17 * len(best)) as drawn:
        axes = drawn.subplots()
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.3}
        for family, (name, colour, marker) in RUNTIMES.items():
            if family in best:
                axes.plot(best[family], range(len(best)), marker, color=colour, label=name, **edge)
        axes.axvline(printed_best, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        text, where = f"the paper's best\n{printed_best:.1f}×, DeepSparse", ("data", "axes fraction")
        figures.note(axes, text, (printed_best, 0.01), xycoords=where, va="bottom")
        axes.set_yticks(range(len(best)), best.index)
        axes.set_ylim(-0.7, len(best) - 0.3)
        _log_x(axes, best.stack().tolist() + [printed_best * 2])
        axes.set_xlabel("speed-up over dense float32 base in ONNX Runtime, at the best batch")
        drawn.legend(loc="outside upper right", ncols=3)
    return drawn


def shrinking(records: list[dict], way: str) -> Figure | None:
    """Samples a second against the share of heads ("heads"), or of heads and neurons ("uniform"), that is gone."""
    measured = speed.rows(records)
    of_way = measured["case"].str.startswith(f"{way} ")
    if not of_way.any():
        return None
    kept = measured[of_way | (measured["case"] == "base")].dropna(subset=["ratio"])
    names = [name for name in RUNTIMES if (kept["runtime"] == name).any()]
    markers = dict(zip(sorted(kept["batch"].unique()), "os^Dv", strict=False))
    with figures.drawing(6.9, 2.3) as drawn:
        panels = drawn.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            for batch, line in kept[kept["runtime"] == name].sort_values(way).groupby("batch"):
                middle, look = line["samples_per_second"], {"marker": markers[batch], "capsize": 2, "elinewidth": 0.6}
                spread = [middle - line["samples_per_second_low"], line["samples_per_second_high"] - middle]
                colour = SHADES.get(batch, "#4477AA")
                axes.errorbar(line[way], middle, spread, color=colour, label=f"batch {batch}", **look)
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


def pareto(records: list[dict]) -> Figure | None:
    """F1 against speed-up of the trained models beside the paper's; those that no other beats are joined and numbered.

    Hollow: Spanish and Dutch text has been read, without its labels.
    """
    if (points := speed_real.trained(records)).empty:
        return None
    best, is_printed = points[points["front"]], points["source"] == "paper"
    families = points["runtime"].str.split(":").str[0]
    with figures.drawing(6.9, 2.9) as drawn:
        axes = drawn.subplots()
        for family, (name, colour, marker) in RUNTIMES.items():
            ours = points[(families == family) & ~is_printed]
            for read, face in (("", colour), ("yes", "white")):
                group, label = ours[ours["text read"] == read], name if not read and len(ours) else None
                axes.plot(group["speed-up"], group["F1"], marker, color=colour, markerfacecolor=face, label=label)
        printed = points[is_printed]
        axes.plot(printed["speed-up"], printed["F1"], "X", color="#999999", label="the paper's models")
        below = {"xytext": (4, -8), "va": "baseline", "fontsize": 6, "color": "#777777"}
        for row in printed.to_dict("records"):
            figures.note(axes, row["model"], (row["speed-up"], row["F1"]), **below)
        axes.plot(best["speed-up"], best["F1"], color="black", linewidth=0.8, zorder=1)
        numbered = best.drop_duplicates("model").to_dict("records")
        for number, row in enumerate(numbered, start=1):
            where = {"xytext": (4, 4), "va": "baseline", "fontweight": "bold"}
            figures.note(axes, str(number), (row["speed-up"], row["F1"]), **where)
        names = "\n".join(f"{number}  {row['model']}" for number, row in enumerate(numbered, start=1))
        axes.annotate(names, (1.02, 1), xycoords="axes fraction", va="top", fontsize=6, annotation_clip=False)
        _log_x(axes, points["speed-up"].tolist())
        axes.margins(y=0.12)
        axes.set_xlabel("speed-up over dense float32 XLM-R base in ONNX Runtime, same batch and length")
        axes.set_ylabel("test F1, mean of languages")
        axes.legend(loc="lower left")
    return drawn


def _log_x(axes, values: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(values) * 0.8, max(values) * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}×")
