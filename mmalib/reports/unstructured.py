"""Notebook 03, from records: table 3, figures 3 to 5 of the paper, who keeps which languages, one-shot and trials."""

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import GRADUAL, MOVEMENT, SCHEDULE, of_kind
from mmalib.records import store
from mmalib.reports import figures, tables
from mmalib.reports.structured import KEPT, knee, lines_

COLLAPSED = 50.0  # % of English: a model that keeps less is named in the figure and not drawn
MARKERS = {"random": "x", "magnitude": "s", "movement": "^", "obs": "o"}
NAMES = {"random": "random", "magnitude": "magnitude", "movement": "movement", "obs": "second order"}


def gradual_runs(records: list[dict]) -> list[dict]:
    """The records of the gradually pruned models that share one recipe: not of those that the dense model taught."""
    return [record for record in of_kind(records, "gradual") if "hardness" not in record["settings"]]


def called(settings: dict) -> str:
    """A criterion in words; movement whose scores begin at the weights' sizes is not the published one."""
    return "magnitude + " * bool(settings.get("score_start")) + NAMES[settings["method"]]


def table_3(records: list[dict]) -> pd.DataFrame:
    """Table 3: F1 and multilingual score after pruning, mean and sample deviation over seeds, and the paper's."""
    rows = []
    for record in of_kind(records, "gradual"):
        settings = record["settings"]
        method, share, schedule = (settings[name] for name in ("method", "share", "schedule"))
        teacher = f"dense, first jump to {settings['initial']:.0%}" if "hardness" in settings else "none"
        row = {"model": f"{settings['label']} {called(settings)} {100 * share:.0f}", "schedule": schedule}
        row |= {"teacher": teacher, "source": f"this study, {settings['corpus']}"}
        row["order"] = (share, GRADUAL.index(method), schedule, teacher, settings["label"], settings["corpus"])
        rows.append(row | tables.scores_of(record, tables.of_part(record, "base", records)))
    rows.sort(key=lambda row: row["order"])
    about = ("model", "schedule", "teacher", "source", "seeds")
    return tables.beside_paper(tables.over_seeds(rows, about), 3, schedule="", teacher="")


def on_the_way(records: list[dict], criterion: str, schedule: str) -> Figure | None:
    """F1 of every language and split against sparsity while it grows, for the highest final sparsity.

    Hollow is what training on made of the dense model before anything went; where that is a fall, no other is told.
    """
    how = {"method": criterion, "schedule": schedule}
    runs = tables.alike(run for run in gradual_runs(records) if how.items() <= run["settings"].items())
    share = max((run["settings"]["share"] for run in runs), default=None)
    if share is None:
        return None
    runs = [run for run in runs if run["settings"]["share"] == share]
    lines = store.curves([run | {"curve": held(run)} for run in runs])
    left = {language: [trained_on(run, language) for run in runs] for language in figures.COLOURS}
    knees = {language: [] for language, shares in left.items() if min(shares) >= KEPT}
    for (language, _), line in lines[lines["split"] == "test"].groupby(["language", "run"]):
        if language in knees:
            knees[language].append(knee(line["sparsity"].tolist(), line["f1"].tolist()))
    trained = {language for language, shares in left.items() if set(shares) != {1.0}}  # what that was measured of
    hurt = store.curves(runs).query("stage == 'pruned' and split == 'test'")
    with figures.drawing(3.4, 2.5) as drawn:
        axes = drawn.subplots()
        for language, points in hurt.groupby("language"):
            mean = points.groupby("sparsity")["f1"].mean()
            axes.plot(mean.index, mean, "v", color=figures.COLOURS[language], markersize=3, alpha=0.5)
        for language, dense in lines.query("split == 'test' and sparsity == 0").groupby("language"):
            height = dense["f1"].mean() * sum(left[language]) / len(runs)
            if language in trained:
                axes.plot(0, height, "o", color=figures.COLOURS[language], markerfacecolor="none", clip_on=False)
        lines_(axes, lines, "sparsity", knees)
        of = f", on {number} sentences" if (number := runs[0]["settings"].get("curve_sentences")) else ""
        marks = "○ trained on, nothing pruned yet;\n" * bool(trained)
        axes.set(xlim=(0, None), xlabel=f"sparsity during pruning{of}\n({marks}▾ after a mask update; ● under 95%)")
        axes.set_ylabel("entity F1 (solid test, dashed dev)")
        several = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
        axes.set_title(f"{runs[0]['settings']['label']}: {NAMES[criterion]}, {schedule}{several}", loc="left")
    return drawn


def held(record: dict) -> list[dict]:
    """The points right before a mask update; of the first masks, where they have no such point, their beginning.

    One point at each sparsity: at 0 that of the dense model, from which a fall is measured, and not what training on
    has made of it before anything went.
    """
    by_sparsity: dict[float, dict] = {}
    for point in sorted(record["curve"], key=lambda point: (point["stage"] == "pruned", point["step"])):
        if point["stage"] == "recovered" or point["step"] == 0:
            by_sparsity.setdefault(point["sparsity"], point)
    return [by_sparsity[sparsity] for sparsity in sorted(by_sparsity)]


def trained_on(record: dict, language: str) -> float:
    """The share of the dense test F1 that training on has left before anything went; 1 where that was not measured."""
    whole = [point["scores"][language]["test"]["f1"] for point in record["curve"] if not point["sparsity"]] or [1.0]
    return whole[-1] / max(whole[0], 1e-9)


def kept(records: list[dict]) -> Figure:
    """What a pruned model keeps of English against what it keeps of the unseen languages, one point a model."""
    points, collapsed = [], []
    for record in gradual_runs(tables.planned(records)):
        base, settings = tables.of_part(record, "base", records), record["settings"]
        if base and settings["schedule"] == SCHEDULE[settings["method"]]:
            left = tables.retention(record["scores"], base["scores"], "test")
            point = {"what": f"{called(settings)} {settings['share']:.0%}", "x": left["en"]}
            point |= {"y": (left["es"] + left["nl"]) / 2, "marker": MARKERS[settings["method"]]}
            point |= {"colour": {0.8: "#66CCEE", 0.9: "#AA3377"}.get(settings["share"], "#4477AA")}
            (points if left["en"] >= COLLAPSED else collapsed).append(point)
    shown = pd.DataFrame(points, columns=["what", "x", "y", "marker", "colour"])
    with figures.drawing(5.0, 2.9) as drawn:
        axes = drawn.subplots()
        axes.plot([0, 110], [0, 110], color="#BBBBBB", linewidth=0.8, zorder=0)
        for what, models in shown.sort_values("y", ascending=False).groupby("what", sort=False):
            look = {"color": models["colour"].iloc[0], "marker": models["marker"].iloc[0], "fillstyle": "none"}
            axes.plot(models["x"], models["y"], linestyle="none", markersize=5, label=what, **look)
        axes.set_xlim(min([60.0, *(shown["x"] - 5)]), 105)
        axes.set_ylim(max(0.0, min([60.0, *(shown["y"] - 5)])), 105)
        if points:
            drawn.legend(loc="outside center right")
        if collapsed:
            names = dict.fromkeys(point["what"] for point in collapsed)
            under = "\n".join([f"under {COLLAPSED:.0f}%, not drawn:", *names])
            axes.text(0.97, 0.03, under, transform=axes.transAxes, ha="right", fontsize=7, in_layout=False)
        axes.set(xlabel="English: % of the dense F1 kept", ylabel="Spanish and Dutch: % kept")
        axes.set_title("Who keeps the languages not tuned on", loc="left")
    return drawn


def one_shot_table(records: list[dict]) -> pd.DataFrame:
    """Pruned at once and never trained again: test F1 by criterion, sparsity and pattern."""
    rows = [
        {"sparsity": f"{point['share']:.0%}", "pattern": "single" if point["pattern"] == "1" else point["pattern"]}
        | {"criterion": NAMES[settings["method"]], "model": settings["label"], "corpus": settings["corpus"]}
        | {"order": (point["share"], point["pattern"], settings["label"], settings["corpus"], settings["method"])}
        | tables.scores_of(point)
        for record in of_kind(records, "one-shot")
        for point in record["curve"]
        if (settings := record["settings"])
    ]
    rows.sort(key=lambda row: row["order"])
    return tables.over_seeds(rows, ("sparsity", "pattern", "criterion", "model", "corpus", "seeds"), tables.F1)


def trials_table(records: list[dict]) -> pd.DataFrame:
    """What was tried for every criterion, with the English dev F1 that alone decided."""
    names = ("rate", "cycles", "initial", "updates", "every", "begin", "score_start", "per_matrix", "damp")
    rows, keys = [], ("corpus", "method", "trial")
    for record in sorted(of_kind(records, "trial"), key=lambda record: [record["settings"][key] for key in keys]):
        settings = record["settings"]
        row = {"criterion": NAMES[settings["method"]], "trial": settings["trial"], "corpus": settings["corpus"]}
        row |= {name.replace("_", " "): "" if settings.get(name) is None else f"{settings[name]:g}" for name in names}
        rows.append(row | {"English dev F1": round(record["scores"]["en"]["dev"]["f1"], 4)})
    return pd.DataFrame(rows)


def movement_table(records: list[dict]) -> pd.DataFrame:
    """What keeps movement alive: each setting adds one thing to the one before; the English dev F1 that is left."""
    steps = sorted(of_kind(records, "movement"), key=lambda record: list(MOVEMENT).index(record["settings"]["step"]))
    return pd.DataFrame(
        {"setting": settings["step"], "model": settings["label"], "corpus": settings["corpus"]}
        | {"sparsity": f"{settings['share']:.0%}"}
        | {"English dev F1": round(record["scores"]["en"]["dev"]["f1"], 4)}
        for record in steps
        if (settings := record["settings"])
    )
