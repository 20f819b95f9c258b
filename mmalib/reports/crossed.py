"""Notebook 09, from records: the truth table of pruning × distillation × adapters on two tasks, and its figures."""

from math import nan

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalib.plan import PRUNED_ROWS, ROWS, of_kind
from mmalib.reports import figures, intervals, tables
from mmalib.reports.unstructured import NAMES

COLOURS = {"P": "#4477AA", "P+A": "#EE6677", "P+D": "#228833", "P+D+A": "#AA3377", "search": "#CCBB44"}
LEFT, UNDER = ((-4, -3), "right"), ((0, -7), "center")  # where a point's name stands, if not right of it
BESIDE = {"FT": LEFT, "P": LEFT, "P+A": LEFT, "LoRA": UNDER, "D": UNDER, "search": ((0, 6), "center")}
ORDER = (*ROWS, *PRUNED_ROWS, "search", *NAMES.values(), "int8")
SCORE = {"entities": "f1", "similarity": "pearson"}
OVER_FT = ("over FT", "over FT low", "over FT high")  # in turns; low and high from the quartiles of both
COSTS = {"million parameters": 2, "MB": 1, "million trained": 3, "speed-up": 2} | dict.fromkeys(OVER_FT, 2)  # digits
COSTS |= {"own training minutes": 1, "own training Wh": 2, "Wh per 1,000": 4, "g CO2e per 1,000": 4}


def rows(records: list[dict]) -> pd.DataFrame:
    """A line a run: what it is, its scores, size, speed, time and energy; nan for what was not measured."""
    own = of_kind(records, "crossed", "gated", "searched", "crossed sparse", "pairs int8")
    bases = {record["needs"].get("base") for record in own if record["settings"]["task"] == "entities"}
    bases -= {record["run"] for record in own}
    used = {record["settings"]["model"]: record for record in of_kind(records, "use")}
    return pd.DataFrame([_row(r, used.get(r["run"])) for r in [*(r for r in records if r["run"] in bases), *own]])


def table(records: list[dict]) -> pd.DataFrame:
    """The truth table: mean and deviation over seeds, of test F1 or Pearson's r, and what each row costs."""
    made = rows(records)
    made = made.assign(place=made["row"].map(ORDER.index)).sort_values(["task", "place", "asked"], na_position="first")
    made["asked"] = ["" if np.isnan(asked) else f"{asked:g}" for asked in made["asked"]]
    means = {"sparsity": 3, **COSTS}
    told = ("task", "model", "sentences", "row", "asked", "seeds")
    table = tables.over_seeds(made, told, list(figures.COLOURS), means)
    measured = table[[*means]].astype(object).fillna("not measured")
    about, scores = table.iloc[:, : len(told)], table.iloc[:, len(told) : -len(means)]
    return pd.concat([about, measured[["sparsity"]], scores, measured[[*COSTS]]], axis=1)


def searched(records: list[dict]) -> pd.DataFrame:
    """The speed-ups asked for from the mask search, and those measured."""
    return pd.DataFrame(
        {"model": record["settings"]["label"], "asked for": one["requested"], "measured": round(one["measured"], 3)}
        | {"off": f"{one['measured'] / one['requested'] - 1:+.1%}", "looks": len(one["looks"])}
        | {"a head": f"{one['head']:.3%}", "a neuron": f"{one['neuron']:.4%}", "the rest": f"{one['rest']:.1%}"}
        for record in of_kind(records, "searched")
        if (one := record["speedup"])
    )


def quality(records: list[dict]) -> Figure | None:
    """The score against the share that went, for every combination: a panel a task and language."""
    if (made := rows(tables.planned(records))).empty:
        return None
    tasks = [task for task in SCORE if task in set(made["task"])]
    with figures.drawing(6.9, 0.3 + 2.2 * len(tasks)) as drawn:
        grid = drawn.subplots(len(tasks), len(figures.COLOURS), sharey="row", sharex=True, squeeze=False)
        for panels, task in zip(grid, tasks, strict=True):
            for axes, language in zip(panels, figures.COLOURS, strict=True):
                _lines_(axes, made[made["task"] == task], language)
                axes.set_title(f"{task}, {figures.LANGUAGE_NAMES[language]}", loc="left")
            panels[0].set_ylabel("entity F1" if task == "entities" else "Pearson's r")
        return _told(drawn)


def size(records: list[dict]) -> Figure | None:
    """Megabytes against the share that went, for every combination."""
    if (made := rows(tables.planned(records))).empty:
        return None
    with figures.drawing(3.4, 2.4) as drawn:
        axes = drawn.subplots()
        _lines_(axes, made.query("task == 'entities'"), "MB")
        axes.set(ymargin=0.3, ylim=(0, None), ylabel="MB on disk, float32")
        return _told(drawn)


def emissions(records: list[dict]) -> Figure | None:
    """Speed-up over full tuning against what reading a thousand sentences emits."""
    made = rows(tables.planned(records))
    if made.empty or (read := made.dropna(subset=["over FT", "g CO2e per 1,000"])).empty:
        return None
    watts = [record["emissions"]["inference"]["watts"] for record in of_kind(records, "use")]
    with figures.drawing(4.6, 3.4) as drawn:
        axes = drawn.subplots()
        for one in read.to_dict("records"):
            at, pruned = (one["over FT"], 1000 * one["g CO2e per 1,000"]), one["row"] in COLOURS
            colour = COLOURS.get(one["row"], "#777777")
            axes.plot(*at, "o", color=colour, label=one["row"] if pruned else None)
            told = f"{one['asked']:g}×" if one["row"] == "search" else f"{100 * one['asked']:g}"
            place, side = BESIDE.get(one["row"], ((4, 0), "left"))
            figures.note(axes, told if pruned else one["row"], at, color=colour, xytext=place, ha=side)
        axes.set(xscale="log", yscale="log", xlabel="speed-up over FT in ONNX Runtime", xmargin=0.15, ymargin=0.15)
        axes.set_ylabel("mg CO2e per 1,000 sentences")
        for axis in (axes.xaxis, axes.yaxis):
            wide = np.ptp(np.log10(axis.get_view_interval())) > 1
            axis.set(major_formatter="{x:g}", minor_formatter="" if wide else "{x:g}")
        drawn.supxlabel(f"estimate at {min(watts):.1f} to {max(watts):.1f} W; % that went, × asked for", fontsize=7)
        by_row = {row: line for line, row in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawn.legend(by_row.values(), by_row.keys(), loc="outside upper right", ncols=5)
    return drawn


def removed(records: list[dict]) -> Figure | None:
    """What share of the attention and of the feed-forward part of each layer went, and what went altogether (x)."""
    if not (gated := of_kind(tables.planned(records), "gated")):
        return None
    first = min(record["settings"]["seed"] for record in gated)
    chosen = [r for r in gated if r["settings"]["seed"] == first and r["settings"]["task"] == "entities"] or gated
    by_place = {(r["settings"]["row"], r["settings"]["share"]): r for r in chosen}
    names = [row for row in PRUNED_ROWS if any(row == of for of, _ in by_place)]
    shares = sorted({share for _, share in by_place})
    with figures.drawing(6.9, 0.4 + 1.7 * len(shares)) as drawn:
        grid = drawn.subplots(len(shares), len(names), squeeze=False)
        shades = None
        for panels, share in zip(grid, shares, strict=True):
            for axes, row in zip(panels, names, strict=True):
                axes.set_title(f"{row}, {share:.0%}", loc="left")
                if (row, share) not in by_place:
                    figures.note(axes, "not run yet", (0.1, 0.5))
                    continue
                gone = np.stack(gone_by_layer(by_place[row, share]))  # [attention and feed-forward, layers]
                shades = axes.imshow(gone, cmap="viridis", vmin=0, vmax=1, aspect="auto")
                for part, layer in zip(*np.nonzero(gone == 1), strict=True):
                    axes.text(layer, part, "×", ha="center", va="center", fontsize=8)
                axes.set_xticks(range(gone.shape[1]), range(1, gone.shape[1] + 1))
                axes.set_yticks((0, 1), ("attention", "feed-fwd") if axes is panels[0] else ("", ""))
                axes.grid(visible=False)
        drawn.colorbar(shades, ax=grid.ravel().tolist(), label="share that went (×: all)", pad=0.01, format="{x:.0%}")
        drawn.supxlabel("layer", fontsize=8)
    return drawn


def gone_by_layer(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """The share of heads and of neurons that went, by layer of the model that entered pruning."""
    left, whole = record["structure"], record["structure"]["whole"]
    heads = [1 - len(now) / len(then) for now, then in zip(left["heads_left"], whole["heads"], strict=True)]
    neurons = [1 - now / then for now, then in zip(left["neurons_left"], whole["neurons"], strict=True)]
    return np.array(heads), np.array(neurons)


def _row(record: dict, used: dict | None) -> dict:
    settings, zeros, shared = record["settings"], record.get("sparsity") or {}, record["machine"].get("gpu")
    task, untrained = settings.get("task", "entities"), 0.0 if settings.get("row") in ("search", "int8") else nan
    timings = {} if shared else record.get("timings") or {}  # on a GPU many runs stood in each other's way
    row = settings.get("row", "FT")
    line = {"run": record["run"], "task": task, "row": NAMES.get(row, row), "seed": settings["seed"]}
    line |= {"model": settings["label"], "sentences": tuned_on(settings)}
    line |= {"asked": settings.get("share", settings.get("times", nan)), "sparsity": zeros.get("measured", 0.0)}
    line |= {language: splits["test"][SCORE[task]] for language, splits in record["scores"].items()}
    line |= {"million parameters": record["parameters"] / 1e6}
    line |= {"MB": record.get("megabytes", 4 * record["parameters"] / 1e6)}
    line |= {"million trained": record.get("trained_weights", untrained) / 1e6}
    line |= {"own training minutes": timings.get("training", untrained) / 60}  # not its start's, nor its teacher's
    if estimate := record.get("emissions", {}).get("training"):  # its power, over all sittings
        line["own training Wh"] = estimate["watts"] * timings.get("training", estimate["seconds"]) / 3600
    if used:
        speeds = {one["model"]: one for one in used["throughput"] if "failed" not in one}
        own, full = (speeds.get(model, {"ratio": nan}) for model in ("model", "dense"))
        line |= {"speed-up": own["ratio"]} | dict(zip(OVER_FT, intervals.times(own, full), strict=True))
        line |= dict(zip(("Wh per 1,000", "g CO2e per 1,000"), per_thousand(used), strict=True))
    return dict.fromkeys(COSTS, nan) | line


def tuned_on(settings: dict) -> str:
    """How many English sentences, or pairs, a row was tuned on."""
    return str(settings.get("cross_sentences") or settings.get("train_sentences") or "all")


def per_thousand(used: dict) -> tuple[float, float]:
    """Watt-hours and grams of CO2e of reading a thousand sentences, from the record of a model at work."""
    read = used["emissions"]["inference"]
    hours = read["watts"] * read["seconds"] / 3.6 / read["sentences"]
    return hours, hours * read["grams_a_kwh"] / 1000


def _lines_(axes: Axes, made: pd.DataFrame, column: str) -> None:
    """A line a combination, from the model that was pruned on; the mean over seeds."""
    for row, start in PRUNED_ROWS.items():
        line = pd.concat([made[made["row"] == start].assign(asked=0.0), made[made["row"] == row]])
        if (line["row"] == row).any():
            line = line.groupby("asked")[column].mean()
            axes.plot(line.index, line, "o-", color=COLOURS[row], label=f"{row} (from {start})")
    axes.xaxis.set_major_formatter("{x:.0%}")


def _told(drawn: Figure) -> Figure:
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    drawn.supxlabel("share of the encoder that went", fontsize=8)
    return drawn
