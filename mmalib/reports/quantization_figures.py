"""What int8 costs, drawn: the change of F1 in each language, and which map's int8 moves the labels most."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmalib.plan import FLOOR_POINTS
from mmalib.reports import figures

PARTS = ["query", "key", "value", "mix", "widen", "narrow"]  # of a layer, as in `model.backbones.Parts`
TICKS = {  # the graphs in the figure of the losses, in this order
    "dynamic": "Dynamic",
    "static": "Static",
    "qat": "QAT",
    "without-data": "Without\ndata",
    "longer": "trained on,\nfloat",
}


def losses(changes: pd.DataFrame) -> Figure:
    """Change of F1 per language for every kind: a panel a split; large dots are means, small ones seeds."""
    frame = changes[changes["graph"].isin(TICKS)]
    studies = frame[["label", "corpus"]].drop_duplicates().to_numpy()
    with figures.drawing(6.9, 0.3 + 2.3 * len(studies)) as drawn:
        grid = drawn.subplots(len(studies), 2, sharey="row", squeeze=False)
        for of_study, (backbone, corpus) in zip(grid, studies, strict=True):
            mine = frame[(frame["label"] == backbone) & (frame["corpus"] == corpus)]
            for axes, split in zip(of_study, ("dev", "test"), strict=True):
                _panel_(axes, mine[mine["split"] == split])
                axes.set_title(f"{backbone} ({corpus}), {split}", loc="left")
            low, high = of_study[0].get_ylim()
            of_study[0].set_ylim(min(low, -1.2), max(high, 0.5))
            for axes, split in zip(of_study, ("dev", "test"), strict=True):
                last = mine[(mine["split"] == split) & (mine["graph"] == _shown(mine)[-1])]
                means = last.groupby("language")["points"].mean()
                figures.label_languages(axes, means)
            of_study[0].set_ylabel("change of F1 in points (dashed: −1)")
    return drawn


def sensitivity(drifts: pd.DataFrame) -> Figure:
    """Layer × MatMul: the drift from the float graph when this one alone is int8, as a share of that of all."""
    studies = drifts.groupby(["label", "corpus"])
    most = int(studies["layer"].nunique().max())
    with figures.drawing(3.4 if len(studies) == 1 else 6.9, 0.9 + 0.24 * min(most, 12)) as drawn:
        of_studies = drawn.subplots(1, len(studies), squeeze=False)[0]
        for axes, ((backbone, corpus), mine) in zip(of_studies, studies, strict=True):
            _heat_(drawn, axes, mine)
            seeds = mine["seed"].nunique()
            axes.set_title(f"{backbone} ({corpus}, {seeds} seed{'s' * (seeds > 1)})", loc="left")
    return drawn


def _panel_(axes: Axes, group: pd.DataFrame) -> None:
    shown = _shown(group)
    for number, (language, colour) in enumerate(figures.COLOURS.items()):
        for place, graph in enumerate(shown):
            points = group[(group["language"] == language) & (group["graph"] == graph)]["points"]
            at = place + 0.2 * (number - 1)
            axes.plot(at, points.mean(), "o", color=colour, markersize=5)
            if len(points) > 1:
                axes.plot([at + 0.07] * len(points), points, "o", color=colour, markersize=2, alpha=0.6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axhline(-FLOOR_POINTS, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    if "longer" in shown:  # no quantization: the control of QAT
        axes.axvspan(shown.index("longer") - 0.5, len(shown) - 0.5, color="#EEEEEE", zorder=0, linewidth=0)
    axes.set_xticks(range(len(shown)), [TICKS[graph] for graph in shown])
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.grid(axis="x", visible=False)


def _heat_(drawn: Figure, axes: Axes, seen: pd.DataFrame) -> None:
    mean = seen.groupby(["layer", "part"])["share"].mean().unstack().reindex(columns=PARTS)
    chosen = seen.groupby(["layer", "part"])["in float"].any().unstack().reindex(columns=PARTS).eq(True)
    shares = mean.to_numpy()
    highest = max(0.01, float(np.nanmax(shares)))
    shades = axes.imshow(shares, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for row, column in np.argwhere(~np.isnan(shares)):
        share = shares[row, column]
        colour = "white" if share > 0.6 * highest else "black"
        axes.text(column, row, str(round(100 * share)), ha="center", va="center", fontsize=6, color=colour)
        if chosen.iloc[row, column]:
            axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#EE6677"))
    axes.grid(visible=False)
    axes.set_xticks(range(len(mean.columns)), mean.columns)
    axes.set_yticks(range(len(mean.index)), mean.index)
    axes.set_ylabel("layer")
    if chosen.to_numpy().any():
        axes.set_xlabel("linear map (framed: back in float)")
    bar = drawn.colorbar(shades, ax=axes, pad=0.02, label="drift, of that of all")
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _shown(frame: pd.DataFrame) -> list[str]:
    return [graph for graph in TICKS if graph in set(frame["graph"])]
