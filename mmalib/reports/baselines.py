"""Notebook 01, from records: table 1, the figure of the baselines, and what was tried to tune them."""

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import RECIPE, of_kind
from mmalib.records import store
from mmalib.reports import figures, tables


def table_1(records: list[dict]) -> pd.DataFrame:
    """Table 1: F1 of the fine-tuned baselines, mean and sample deviation over seeds, and the paper's."""
    runs = [
        {"model": settings["label"], "source": f"this study, {settings['corpus']}"} | tables.scores_of(record)
        for record in of_kind(records, "baseline")
        if (settings := record["settings"])
    ]
    ours = tables.over_seeds(runs, ("model", "source", "seeds"), tables.F1)
    both = pd.DataFrame([*ours.to_dict("records"), *tables.printed_rows(1, tables.F1)]).astype({"seeds": "Int64"})
    return both.sort_values("model", key=lambda models: pd.factorize(models)[0], kind="stable", ignore_index=True)


def recipes_table(records: list[dict]) -> pd.DataFrame:
    """What was tried to tune a backbone, the best English dev F1 first: it alone decides."""
    rows = []
    for record in of_kind(records, "recipe"):
        settings, scores = record["settings"], record["scores"]
        row = {"backbone": settings["label"], "corpus": settings["corpus"], "trial": settings["trial"]}
        others = {name: settings[name] for name, value in RECIPE.items() if settings[name] != value}
        changed = [f"{name} {value if value is None else format(value, '.3g')}" for name, value in others.items()]
        row |= {"changed": ", ".join(changed)}  # from the first trial
        row |= {f"{language} dev": round(scores[language]["dev"]["f1"], 4) for language in figures.LANGUAGE_NAMES}
        rows.append(row | {"minutes": round(record["timings"]["training"] / 60, 1)})
    return pd.DataFrame(rows).sort_values("en dev", ascending=False, ignore_index=True)


def figure(records: list[dict]) -> Figure:
    """Test F1 of every baseline, a row a language, a dot a seed, with the 95% interval over sentences."""
    rows = store.frame(of_kind(records, "baseline")).query("split == 'test'")
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
        figures.rows_(axes, names)
        corpora = ", ".join(rows["corpus"].unique())
        axes.set(xlim=(0, 1), xlabel=f"entity F1 on test ({corpora}); right: mean over seeds")
        axes.set_title("Tuned on English alone", loc="left")
    return drawn
