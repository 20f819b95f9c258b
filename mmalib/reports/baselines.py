"""Notebook 01, from records: table 1, the figure of the baselines, and what was tried to tune them."""

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import RECIPE, of_kind
from mmalib.records import store
from mmalib.reports import figures, tables


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    frame = store.frame(of_kind(records, "baseline"))
    drawn = {} if frame.empty else {"table_1": table_1(frame), "baselines": figure(frame)}
    tried = of_kind(records, "recipe")
    return drawn | ({"table_recipes": recipes_table(tried)} if tried else {})


def table_1(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1: F1 of the fine-tuned baselines, mean and sample deviation over seeds, and the paper's."""
    paper_rows = {}
    for printed in tables.paper(1).to_dict("records"):
        scores = {f"{language} {split} mean": printed[f"{language}_{split}"] for language, split in tables.CELLS}
        paper_rows[printed["model"]] = {"model": printed["model"], "source": "paper", **scores}
    rows = []
    for backbone, of_backbone in _runs(frame).groupby("label", sort=False):
        rows += [_our_row(backbone, *group) for group in of_backbone.groupby("corpus", sort=False)]
        if backbone in paper_rows:
            rows.append(paper_rows.pop(backbone))
    columns = [f"{language} {split} {value}" for language, split in tables.CELLS for value in ("mean", "std")]
    table = pd.DataFrame([*rows, *paper_rows.values()], columns=["model", "source", "seeds", *columns])
    return table.astype({"seeds": "Int64"})


def recipes_table(tried: list[dict]) -> pd.DataFrame:
    """What was tried to tune a backbone, the best English dev F1 first: it alone decides."""
    rows = []
    for record in tried:
        settings, scores = record["settings"], record["scores"]
        row = {"backbone": settings["label"], "corpus": settings["corpus"], "trial": settings["trial"]}
        row |= {"changed": _changed(settings)}
        row |= {f"{language} dev": round(scores[language]["dev"]["f1"], 4) for language in ("en", "es", "nl")}
        rows.append(row | {"minutes": round(record["timings"]["training"] / 60, 1)})
    return pd.DataFrame(rows).sort_values("en dev", ascending=False, ignore_index=True)


def _changed(settings: dict) -> str:
    """What a trial has otherwise than the first one."""
    others = {name: settings[name] for name, value in RECIPE.items() if settings[name] != value}
    return ", ".join(f"{name} {value if value is None else format(value, '.3g')}" for name, value in others.items())


def figure(frame: pd.DataFrame) -> Figure:
    """Test F1 of every baseline, a row a language, a dot a seed, with the 95% interval over sentences."""
    rows = frame[(frame["method"] == "baseline") & (frame["split"] == "test")]
    groups = list(rows.groupby(["label", "corpus", "language"], sort=False))
    with figures.drawing(3.4, 0.7 + 0.34 * len(groups)) as drawn:
        axes = drawn.subplots()
        for row, ((_, _, language), group) in enumerate(groups):
            colour = figures.COLOURS[language]
            for number, run in enumerate(group.sort_values("seed").itertuples()):
                # seeds a little below one another, or their intervals would lie on top of one another
                height = row + 0.2 * (number - (len(group) - 1) / 2)
                axes.plot([run.f1_low, run.f1_high], [height] * 2, color=colour, linewidth=1, alpha=0.6)
                axes.plot(run.f1, height, "o", color=colour, markersize=3)
            figures.note(axes, f"{group['f1'].mean():.3f}", (1.0, row), color=colour, annotation_clip=False)
        names = [f"{backbone}, {figures.LANGUAGE_NAMES[language]}" for (backbone, _, language), _ in groups]
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        corpora = ", ".join(rows["corpus"].unique())
        axes.set_xlabel(f"entity F1 on test ({corpora}); right: mean over seeds")
        axes.set_title("Tuned on English alone", loc="left")
    return drawn


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    needed = ["method", "label", "corpus", "seed"]
    if absent := [column for column in needed if column not in frame]:
        raise ValueError(f"Table 1 needs runs that say their {', '.join(absent)}. Run notebook 01 first.")
    runs = frame[frame["method"] == "baseline"]
    if runs.empty:
        raise ValueError("Table 1 needs runs whose method is 'baseline': there are none. Run notebook 01.")
    # Two runs of one seed are no spread over seeds: they differ in a setting that the table does not show.
    twice = runs[runs.duplicated([*needed, "language", "split"], keep=False)]
    if not twice.empty:
        names = ", ".join(twice["run"].unique())
        raise ValueError(f"Table 1 takes one run per backbone, corpus and seed; these share them: {names}.")
    return runs


def _our_row(backbone: str, corpus: str, group: pd.DataFrame) -> dict:
    row = {"model": backbone, "source": f"this study, {corpus}", "seeds": group["seed"].nunique()}
    return row | tables.cells_over_seeds(group)
