"""Notebook 02, from records: figures 1 and 2 of the paper, which heads went when, sizes and scores at four shares."""

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalib.plan import KEPT_SHARES, of_kind
from mmalib.records import store
from mmalib.reports import figures, tables

SHARES = (0.0, *KEPT_SHARES)  # the rows of the table
KEPT = 0.95  # F1 has begun to fall where less than this share of it is left
TITLES = {"heads": "Michel: heads wherever they are", "uniform": "Uniform: the same in every layer"}


def knee(shares: Sequence[float], f1: Sequence[float]) -> float:
    """The share at which F1 first falls under `KEPT` of its start, by a straight line; nan where it never does."""
    wanted = KEPT * f1[0]
    after = next((place for place, one in enumerate(f1) if one < wanted), None)
    if after is None:
        return nan
    part = (f1[after - 1] - wanted) / (f1[after - 1] - f1[after])
    return float(shares[after - 1] + part * (shares[after] - shares[after - 1]))


def over_seeds(knees: Sequence[float]) -> tuple[str, float | None]:
    """Where F1 falls in the mean over seeds: as text, and as a number if it does in every seed."""
    fell = [at for at in knees if not np.isnan(at)]
    if not fell:
        return "never", None
    if len(fell) < len(knees):
        return f"≥{min(fell):.0%}", None  # in some it never does
    return f"{np.mean(fell):.0%}", float(np.mean(fell))


def knees(curves: pd.DataFrame) -> pd.DataFrame:
    """The knee of every method, language and seed, pruned and recovered; nan where F1 never falls so far."""
    rows, tests = [], curves[curves["split"] == "test"]
    start = tests[(tests["step"] == 0) & ~tests["recovered"]].set_index(["run", "language"])["f1"]
    keys = ["method", "recovered", "label", "corpus", "language", "seed"]
    for key, group in tests.sort_values("step").groupby(keys):
        # the fall is measured from the baseline in both cases: recovery is no reason for a higher start
        f1 = [start[(group["run"].iloc[0], key[4])], *group["f1"].iloc[1:]]
        rows.append(dict(zip(keys, key, strict=True)) | {"knee": knee(group["share"].tolist(), f1)})
    return pd.DataFrame(rows)


def table(records: list[dict]) -> pd.DataFrame:
    """F1, multilingual score, parameters and size at a few shares of heads removed, mean and deviation over seeds."""
    rows = [
        {"backbone": settings["label"], "corpus": settings["corpus"], "method": settings["method"]}
        | {"recovered": "yes" if point["recovered"] else "no", "share": f"{point['share']:.0%}"}
        | {"million parameters": point["parameters"] / 1e6, "MB": point["megabytes"]}
        | tables.scores_of(point, record["curve"][0])
        for record in of_kind(records, "structured")
        for point in record["curve"]
        if np.isclose(point["share"], SHARES, atol=1e-6).any() and (settings := record["settings"])
    ]
    about = ["backbone", "corpus", "method", "recovered", "share"]
    return tables.over_seeds(rows, [*about, "seeds"], means={"million parameters": 2, "MB": 1}).sort_values(about)


def falling(records: list[dict], method: str) -> Figure | None:
    """F1 against the share of heads removed: a line a language and split, as pruned and recovered, knees marked."""
    if not (pruned := tables.alike(_by(method, records))):
        return None
    curves = store.curves(pruned)
    with figures.drawing(6.9, 2.5) as drawn:
        for axes, recovered in zip(drawn.subplots(1, 2, sharey=True), (False, True), strict=True):
            panel = curves[curves["recovered"] == recovered]
            marked = knees(curves).query("recovered == @recovered").groupby("language")["knee"].agg(list)
            for language, line in panel[panel["split"] == "test"].groupby("language"):
                spread = line.groupby("share")["f1"].agg(["min", "max"])
                colour = figures.COLOURS[language]
                axes.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.15, linewidth=0)
            lines_(axes, panel, "share", marked)
            axes.set_xlabel("share of heads removed")
            axes.set_title("recovered on English" if recovered else "as pruned", loc="left")
        drawn.axes[0].set_ylabel("entity F1 (solid test, dashed dev)")
        backbone = "{label} on {corpus}".format_map(pruned[0]["settings"])
        what = f"circle and number: F1 falls under {KEPT:.0%} of the dense model's"
        drawn.suptitle(f"{TITLES[method]} ({backbone}; {what})", x=0.01, ha="left", fontsize=8)
    return drawn


def lines_(axes: Axes, curves: pd.DataFrame, along: str, knees: Mapping[str, Sequence[float]]) -> None:
    """A line a language and split, in the mean over seeds, and where it falls, if told: a circle, a number."""
    ends = []
    for (language, split), line in curves.groupby(["language", "split"]):
        mean = line.groupby(along)["f1"].mean()
        colour, test = figures.COLOURS[language], split == "test"
        axes.plot(mean.index, mean, color=colour, linestyle="-" if test else (0, (2, 2)))
        if test:
            fell, at = over_seeds(knees[language]) if language in knees else ("", None)
            ends.append((mean.iloc[-1], f"{figures.LANGUAGE_NAMES[language]} {fell}", colour))
            if at is not None:
                height = np.interp(at, mean.index, mean)
                axes.plot(at, height, "o", color=colour, markeredgecolor="black", markersize=5, zorder=5)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(bottom=0)
    figures.label_ends(axes, ends)


def removal_map(records: list[dict]) -> Figure | None:
    """Layer × head of every seed, coloured by the share of heads that was gone when this one went."""
    if not (pruned := _by("heads", records)):
        return None
    with figures.drawing(min(6.9, 1.5 + 1.9 * len(pruned)), 2.1) as drawn:
        panels = drawn.subplots(1, len(pruned), squeeze=False, sharey=True)[0]
        for axes, record in zip(panels, pruned, strict=True):
            first = record["curve"][0]["heads_left"]
            gone = np.full((len(first), max(map(len, first))), np.nan)  # [layers, heads]; nan: stayed to the end
            for point in reversed(record["curve"]):
                for layer, left in enumerate(point["heads_left"]):
                    for head in set(first[layer]) - set(left):
                        gone[layer, head] = point["share"]
            shades = axes.imshow(gone, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            axes.set_facecolor("white")
            for layer, head in zip(*np.nonzero(np.isnan(gone)), strict=True):
                axes.text(head, layer, "•", ha="center", va="center", fontsize=6)
            axes.grid(visible=False)
            axes.set_xlabel("head")
            axes.set_xticks(range(0, gone.shape[1], 2), range(1, gone.shape[1] + 1, 2))
            axes.set_yticks(range(len(first)), range(1, len(first) + 1))
            axes.set_title(f"{record['settings']['backbone']}, seed {record['settings']['seed']}", loc="left")
        panels[0].set_ylabel("layer")
        drawn.colorbar(shades, ax=panels, label="went at this share (dot: stayed)", pad=0.01, format="{x:.0%}")
    return drawn


def vocabulary_table(records: list[dict]) -> pd.DataFrame:
    """What cutting the vocabulary saves and what it costs, beside the model it was cut from."""
    rows = [
        {"run": cut["run"], "vocabulary": name, "MB": round(size["megabytes"], 1)}
        | {"million parameters": round(size["parameters"] / 1e6, 2)}
        | {"of these embedding": f"{size['embedding_parameters'] / size['parameters']:.0%}"}
        | tables.scores_of(scored)
        for cut in of_kind(records, "vocabulary")
        for name, size, scored in (
            ("whole", cut["before"], tables.of_part(cut, "base", records) or {"scores": {}}),
            ("cut", cut["after"], cut),
        )
    ]
    return tables.over_seeds(rows, list(rows[0])[:5], tables.F1)


def _by(method: str, records: list[dict]) -> list[dict]:
    return tables.planned(r for r in of_kind(records, "structured") if r["settings"]["method"] == method)
