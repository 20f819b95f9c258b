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
    measured, printed_best = speed.rows(records), speed.printed_best()
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


def shrinking(records: list[dict], way: str) -> Figure | None:
    """Samples a second against the share of heads ("heads"), or of heads and neurons ("uniform"), that is gone."""
    measured = speed.rows(records)
    of_way = measured["case"].str.startswith(f"{way} ")
    if not of_way.any():
        return None
    of_way |= measured["case"] == "base"
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


def pareto(records: list[dict]) -> Figure | None:
    """F1 against speed-up of the trained models beside the paper's; those that no other beats are joined and numbered.

    Hollow: Spanish and Dutch text has been read, without its labels.
    """
    if (points := speed_real.trained(records)).empty:
        return None
    best, printed = points[points["front"]], points[points["source"] == "paper"]
    with figures.drawing(6.9, 2.9) as drawn:
        axes = drawn.subplots()
        for family, (name, colour, marker) in RUNTIMES.items():
            ours = points[(points["runtime"].str.split(":").str[0] == family) & (points["source"] != "paper")]
            for read, face in (("", colour), ("yes", "white")):
                group = ours[ours["text read"] == read]
                axes.plot(group["speed-up"], group["F1"], marker, color=colour, markerfacecolor=face,
                          label=name if face == colour and len(ours) else None)  # fmt: skip
        axes.plot(printed["speed-up"], printed["F1"], "X", color="#999999", label="the paper's models")
        for row in printed.to_dict("records"):
            axes.annotate(row["model"], (row["speed-up"], row["F1"]), xytext=(4, -8), textcoords="offset points",
                          fontsize=6, color="#777777")  # fmt: skip
        axes.plot(best["speed-up"], best["F1"], color="black", linewidth=0.8, zorder=1)
        for number, row in enumerate(best.drop_duplicates("model").to_dict("records"), start=1):
            where = {"xytext": (4, 4), "va": "baseline"}
            figures.note(axes, str(number), (row["speed-up"], row["F1"]), fontweight="bold", **where)
        names = [f"{number}  {name}" for number, name in enumerate(best["model"].drop_duplicates(), start=1)]
        axes.annotate(
            "\n".join(names), (1.02, 1), xycoords="axes fraction", va="top", fontsize=6, annotation_clip=False
        )
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
