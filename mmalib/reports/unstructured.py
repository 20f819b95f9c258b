"""Notebook 03, from records: table 3, figures 3 to 5 of the paper, who keeps which languages, one-shot and trials."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import GRADUAL, MOVEMENT, SCHEDULE, of_kind
from mmalib.records import store
from mmalib.reports import figures, tables
from mmalib.reports.compare import of_part, retention
from mmalib.reports.structured import knee, over_seeds

CURVES = {  # file → what the paper drew there
    "figure_3": ("obs", "cubic"),
    "figure_4": ("obs", "linear"),
    "figure_5": ("magnitude", "cubic"),
}
COLLAPSED = 50.0  # % of English: a model that keeps less is named in the figure and not drawn
MARKERS = {"random": "x", "magnitude": "s", "movement": "^", "obs": "o"}
NAMES = {"random": "random", "magnitude": "magnitude", "movement": "movement", "obs": "second order"}


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    drawn: dict[str, pd.DataFrame | Figure] = {}
    if pruned := gradual_runs(records):
        drawn["table_3"] = table_3(records)
        drawn["retention"] = kept(records)
        curves = store.curves(pruned)
        for name, (criterion, schedule) in CURVES.items():
            if ((curves["method"] == criterion) & (curves["schedule"] == schedule)).any():
                drawn[name] = on_the_way(curves, criterion, schedule)
    if at_once := of_kind(records, "one-shot"):
        drawn["table_oneshot"] = one_shot_table(at_once)
    if tried := of_kind(records, "trial"):
        drawn["table_trials"] = trials_table(tried)
    if steps := of_kind(records, "movement"):
        drawn["table_movement"] = movement_table(steps)
    return drawn


def gradual_runs(records: list[dict]) -> list[dict]:
    """The records of the gradually pruned models that share one recipe: not of those that the dense model taught."""
    return [record for record in of_kind(records, "gradual") if "hardness" not in record["settings"]]


def table_3(records: list[dict]) -> pd.DataFrame:
    """Table 3: F1 and multilingual score after pruning, mean and sample deviation over seeds, and the paper's."""
    rows = []
    frame = pd.DataFrame([_final(record, of_part(record, "base", records)) for record in of_kind(records, "gradual")])
    for key, group in frame.groupby(["label", "corpus", "method", "share", "schedule", "teacher"]):
        backbone, corpus, method, share, schedule, teacher = key
        row = {"model": f"{backbone} {NAMES[method]} {100 * share:.0f}", "schedule": schedule, "teacher": teacher}
        row |= {"source": f"this study, {corpus}", "seeds": len(group)}
        row["order"] = (share, GRADUAL.index(method), schedule, teacher)
        rows.append(row | tables.over_seeds(group))
    rows = sorted(rows, key=lambda row: row.pop("order")) + tables.printed_rows(3, schedule="", teacher="")
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def on_the_way(curves: pd.DataFrame, criterion: str, schedule: str) -> Figure:
    """F1 of every language and split against sparsity while it grows, for the highest final sparsity."""
    rows = curves[(curves["method"] == criterion) & (curves["schedule"] == schedule)]
    rows = rows[rows["share"] == rows["share"].max()]
    with figures.drawing(3.4, 2.5) as drawn:
        axes, ends = drawn.subplots(), []
        for (language, split), line in held(rows).groupby(["language", "split"]):
            mean = line.sort_values("step").groupby("sparsity", sort=True)["f1"].mean()
            colour, test = figures.COLOURS[language], split == "test"
            axes.plot(mean.index, mean, color=colour, linestyle="-" if test else (0, (2, 2)))
            if not test:
                continue
            hurt = rows[(rows["stage"] == "pruned") & (rows["language"] == language) & (rows["split"] == split)]
            hurt = hurt.groupby("sparsity")["f1"].mean()
            axes.plot(hurt.index, hurt, "v", color=colour, markersize=3, alpha=0.5)
            of_runs = [one.sort_values("sparsity") for _, one in line.groupby("run")]
            fell, at = over_seeds([knee(one["sparsity"].to_numpy(), one["f1"].to_numpy()) for one in of_runs])
            ends.append((mean.iloc[-1], f"{figures.LANGUAGE_NAMES[language]} {fell}", colour))
            if at is not None:
                height = np.interp(at, mean.index, mean)
                axes.plot(at, height, "o", color=colour, markeredgecolor="black", zorder=5)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        figures.label_ends(axes, ends)
        axes.set_xlabel("sparsity during pruning (▾ right after a mask update;\ncircle, number: F1 falls under 95%)")
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_ylabel("entity F1 (solid test, dashed dev)")
        seeds = rows["run"].nunique()
        several = f" (mean of {seeds} seeds)" if seeds > 1 else ""
        axes.set_title(f"{NAMES[criterion]}, {schedule}".capitalize() + several, loc="left")
    return drawn


def held(curves: pd.DataFrame) -> pd.DataFrame:
    """The points right before a mask update; of the first masks, where they have no such point, their beginning.

    One point at each sparsity: at 0 that of the dense model, from which a fall is measured, and not what training on
    has made of it before anything went.
    """
    recovered = curves[curves["stage"] == "recovered"].sort_values("step")
    recovered = recovered.drop_duplicates(["run", "language", "split", "sparsity"])
    first = curves[(curves["stage"] == "pruned") & (curves["step"] == 0)]
    known = pd.MultiIndex.from_frame(recovered[["run", "sparsity"]])
    return pd.concat([recovered, first[~pd.MultiIndex.from_frame(first[["run", "sparsity"]]).isin(known)]])


def kept(records: list[dict]) -> Figure:
    """What a pruned model keeps of English against what it keeps of the unseen languages, one point a model."""
    with figures.drawing(3.4, 2.9) as drawn:
        axes = drawn.subplots()
        axes.plot([0, 110], [0, 110], color="#BBBBBB", linewidth=0.8, zorder=0)
        named, collapsed = {}, []
        for record in gradual_runs(records):
            base = of_part(record, "base", records)
            share, criterion = record["settings"]["share"], record["settings"]["method"]
            if base is None or record["settings"]["schedule"] != SCHEDULE[criterion]:
                continue
            left = retention(record["scores"], base["scores"], "test")
            x, y = left["en"], np.mean([value for language, value in left.items() if language != "en"])
            if not x >= COLLAPSED:
                collapsed.append(f"{NAMES[criterion]} {share:.0%}")
                continue
            colour = {0.8: "#66CCEE", 0.9: "#AA3377"}.get(share, "#4477AA")
            axes.plot(x, y, MARKERS[criterion], color=colour, markersize=4.5, markeredgecolor="white")
            named.setdefault((criterion, share), []).append((x, y, colour))
        axes.set_xlim(min([60.0, *(x - 5 for points in named.values() for x, *_ in points)]), 105)
        lowest = min([60.0, *(y - 5 for points in named.values() for _, y, _ in points)])
        axes.set_ylim(max(0.0, lowest), 105)
        ends = [
            (np.mean([y for _, y, _ in points]), f"{NAMES[criterion]} {share:.0%}", points[0][2])
            for (criterion, share), points in named.items()
        ]
        figures.label_ends(axes, ends)
        if collapsed:
            under = "\n".join([f"under {COLLAPSED:.0f}%, not drawn:", *dict.fromkeys(collapsed)])
            axes.text(0.97, 0.03, under, transform=axes.transAxes, ha="right", fontsize=7, in_layout=False)
        axes.set_xlabel("English: % of the dense F1 kept")
        axes.set_ylabel("Spanish and Dutch: % kept")
        axes.set_title("Who keeps the languages nobody trained on", loc="left")
    return drawn


def one_shot_table(at_once: list[dict]) -> pd.DataFrame:
    """Pruned at once and never trained again: test F1 by criterion, sparsity and pattern."""
    curves = store.curves(at_once)
    rows = []
    for key, group in curves.groupby(["share", "pattern", "label", "corpus", "method"]):
        share, pattern, backbone, corpus, method = key
        row = {"sparsity": f"{share:.0%}", "pattern": "single" if pattern == "1" else pattern}
        row |= {"criterion": NAMES[method], "model": backbone, "corpus": corpus, "seeds": group["seed"].nunique()}
        rows.append(row | tables.cells_over_seeds(group))
    return pd.DataFrame(rows)


def trials_table(tried: list[dict]) -> pd.DataFrame:
    """What was tried for every criterion, with the English dev F1 that alone decided."""
    names = ("rate", "cycles", "initial", "updates", "every", "begin", "score_rate", "per_matrix", "damp")
    rows, keys = [], ("corpus", "method", "trial")
    for record in sorted(tried, key=lambda record: [record["settings"][key] for key in keys]):
        settings = record["settings"]
        row = {"criterion": NAMES[settings["method"]], "trial": settings["trial"], "corpus": settings["corpus"]}
        row |= {name.replace("_", " "): "" if settings.get(name) is None else f"{settings[name]:g}" for name in names}
        rows.append(row | {"English dev F1": round(record["scores"]["en"]["dev"]["f1"], 4)})
    return pd.DataFrame(rows)


def movement_table(steps: list[dict]) -> pd.DataFrame:
    """What keeps movement alive: each setting adds one thing to the one before; the English dev F1 that is left."""
    steps = sorted(steps, key=lambda record: list(MOVEMENT).index(record["settings"]["step"]))
    return pd.DataFrame(
        {"setting": settings["step"], "model": settings["label"], "corpus": settings["corpus"]}
        | {"sparsity": f"{settings['share']:.0%}"}
        | {"English dev F1": round(record["scores"]["en"]["dev"]["f1"], 4)}
        for record in steps
        if (settings := record["settings"])
    )


def _final(record: dict, base: dict | None) -> dict:
    settings = record["settings"]
    row = {key: settings[key] for key in ("label", "corpus", "method", "share", "schedule", "seed")}
    row["teacher"] = "dense, first jump to 70%" if "hardness" in settings else "none"
    return row | tables.scores_of(record["scores"], base and base["scores"])
