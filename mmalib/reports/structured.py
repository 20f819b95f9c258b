"""Notebook 02, from records: figures 1 and 2 of the paper, which heads went when, sizes and scores at four shares."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import of_kind
from mmalib.records import store
from mmalib.reports import figures, tables
from mmalib.reports.compare import of_part

SHARES = (0.0, 0.25, 0.5, 0.75)  # the rows of the table
KEPT = 0.95  # F1 has begun to fall where less than this share of it is left
TITLES = {"heads": "Michel: heads wherever they are", "uniform": "Uniform: the same in every layer"}


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    curves = store.curves(of_kind(records, "structured"))
    drawn: dict[str, pd.DataFrame | Figure] = {}
    if not curves.empty:
        drawn["table_structured"] = table(curves)
        for name, method in (("figure_1", "heads"), ("figure_2", "uniform")):
            if (curves["method"] == method).any():
                drawn[name] = falling(curves, method)
    if maps := [r for r in of_kind(records, "structured") if r["settings"]["method"] == "heads"]:
        drawn["heads_removed"] = removal_map(maps)
    if cuts := of_kind(records, "vocabulary"):
        drawn["table_vocabulary"] = vocabulary_table(cuts, records)
    return drawn


def knee(shares: np.ndarray, f1: np.ndarray) -> float | None:
    """The share at which F1 first falls under `KEPT` of its start, between two steps by a straight line."""
    wanted = KEPT * f1[0]
    below = np.flatnonzero(f1 < wanted)
    if not len(below):
        return None
    after = below[0]
    part = (f1[after - 1] - wanted) / (f1[after - 1] - f1[after])
    return float(shares[after - 1] + part * (shares[after] - shares[after - 1]))


def over_seeds(knees: Sequence[float | None]) -> tuple[str, float | None]:
    """Where F1 falls in the mean over seeds: as text, and as a number if it does in every seed."""
    fell = [at for at in knees if at is not None and not np.isnan(at)]
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
        f1 = np.concatenate([[start[(group["run"].iloc[0], key[4])]], group["f1"].to_numpy()[1:]])
        at = knee(group["share"].to_numpy(), f1)
        rows.append(dict(zip(keys, key, strict=True)) | {"knee": np.nan if at is None else at})
    return pd.DataFrame(rows)


def table(curves: pd.DataFrame) -> pd.DataFrame:
    """F1, multilingual score, parameters and size at a few shares of heads removed, mean and deviation over seeds."""
    near = curves[curves["share"].map(lambda share: any(abs(share - wanted) < 1e-6 for wanted in SHARES))]
    start = near[(near["step"] == 0) & ~near["recovered"]].set_index(["run", "language", "split"])["f1"]
    keys = ["label", "corpus", "method", "recovered", "share"]
    rows = []
    for key, group in near.groupby(keys):
        row = dict(zip(keys, key, strict=True)) | {"seeds": group["seed"].nunique()}
        before = start.loc[pd.MultiIndex.from_frame(group[["run", "language", "split"]])].to_numpy()
        group = group.assign(lost=group["f1"] - before)
        row |= tables.cells_over_seeds(group)
        for split in ("dev", "test"):
            unseen = group[(group["split"] == split) & (group["language"] != "en")]
            by_seed = unseen.groupby("seed")["lost"].sum()
            row |= {f"mls {split} mean": by_seed.mean(), f"mls {split} std": by_seed.std()}
        row |= {"million parameters": group["parameters"].mean() / 1e6, "MB": group["megabytes"].mean()}
        rows.append(row)
    made = pd.DataFrame(rows).rename(columns={"label": "backbone"})
    made["share"] = [f"{share:.0%}" for share in made["share"]]
    made["recovered"] = made["recovered"].map({False: "no", True: "yes"})
    return made.round({"million parameters": 2, "MB": 1})


def falling(curves: pd.DataFrame, method: str) -> Figure:
    """F1 against the share of heads removed: a line a language and split, as pruned and recovered, knees marked."""
    curves = curves[curves["method"] == method]
    marked = knees(curves)
    with figures.drawing(6.9, 2.5) as drawn:
        for axes, recovered in zip(drawn.subplots(1, 2, sharey=True), (False, True), strict=True):
            ends = []
            panel = curves[curves["recovered"] == recovered]
            for (language, split), line in panel.groupby(["language", "split"]):
                mean = line.groupby("share")["f1"].agg(["mean", "min", "max"])
                colour, test = figures.COLOURS[language], split == "test"
                axes.plot(mean.index, mean["mean"], color=colour, linestyle="-" if test else (0, (2, 2)))
                if test:
                    axes.fill_between(mean.index, mean["min"], mean["max"], color=colour, alpha=0.15, linewidth=0)
                    mine = marked[(marked["recovered"] == recovered) & (marked["language"] == language)]
                    fell, at = over_seeds(mine["knee"].tolist())
                    ends.append((mean["mean"].iloc[-1], f"{figures.LANGUAGE_NAMES[language]} {fell}", colour))
                    if at is not None:
                        height = np.interp(at, mean.index, mean["mean"])
                        axes.plot(at, height, "o", color=colour, markeredgecolor="black", markersize=5, zorder=5)
            axes.set_xlabel("share of heads removed")
            axes.xaxis.set_major_formatter("{x:.0%}")
            axes.set_title("recovered on English" if recovered else "as pruned", loc="left")
            axes.set_ylim(bottom=0)
            figures.label_ends(axes, ends)
        drawn.axes[0].set_ylabel("entity F1 (solid test, dashed dev)")
        pairs = curves[["label", "corpus"]].drop_duplicates().itertuples(index=False)
        backbone = ", ".join(f"{name} on {corpus}" for name, corpus in pairs)
        what = f"circle and number: F1 falls under {KEPT:.0%} of the dense model's"
        drawn.suptitle(f"{TITLES[method]} ({backbone}; {what})", x=0.01, ha="left", fontsize=8)
    return drawn


def removal_map(records: list[dict]) -> Figure:
    """Layer × head of every seed, coloured by the share of heads that was gone when this one went."""
    with figures.drawing(min(6.9, 1.5 + 1.9 * len(records)), 2.1) as drawn:
        panels = drawn.subplots(1, len(records), squeeze=False, sharey=True)[0]
        for axes, record in zip(panels, records, strict=True):
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
        bar = drawn.colorbar(shades, ax=panels, label="went at this share (dot: stayed)", pad=0.01)
        bar.ax.yaxis.set_major_formatter("{x:.0%}")
    return drawn


def vocabulary_table(cuts: list[dict], records: list[dict]) -> pd.DataFrame:
    """What cutting the vocabulary saves and what it costs, beside the model it was cut from."""
    rows = []
    for cut in cuts:
        base = of_part(cut, "base", records)
        of_both = ("whole", cut["before"], base["scores"] if base else {}), ("cut", cut["after"], cut["scores"])
        for name, size, scores in of_both:
            row = {"run": cut["run"], "vocabulary": name, "MB": round(size["megabytes"], 1)}
            row["million parameters"] = round(size["parameters"] / 1e6, 2)
            row["of these embedding"] = f"{size['embedding_parameters'] / size['parameters']:.0%}"
            for language, split in tables.CELLS:
                f1 = scores.get(language, {}).get(split, {}).get("f1", np.nan)
                row |= {f"{language} {split} mean": f1, f"{language} {split} std": np.nan}
            rows.append(row)
    return pd.DataFrame(rows)
