"""Notebook 08, from records: what the Optimal BERT Surgeon's tables and figures become in more than one language.

Their tables 3 and 17 (compound), 1 (patience), 2 (upstream), 4 (2:4), their figure 2 and their ablations. Every row has
F1 on the test sets and what is left of the dense baseline's: of English, and of Spanish and Dutch in the mean. Theirs
stand beside as printed: F1 on SQuAD in percent, of which they take shares of BERT base's 88.54.
"""

from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import ABLATIONS, PATTERNS, UPSTREAM, of_kind
from mmalib.reports import figures, speed, tables
from mmalib.reports.speed_real import front
from mmalib.reports.unstructured import NAMES

THEIR_DENSE = 88.54
KEY = ("layers", "share", "form")
FORMS = ("dense", *PATTERNS, "int8", "4-block int8")
RUNTIMES = {name: title for name, (title, *_) in speed.RUNTIMES.items()}
KEPT = {"English kept %": "#4477AA", "unseen kept %": "#AA3377"}  # and their colours


def layers(records: list[dict]) -> pd.DataFrame:
    """Layers dropped in every way: F1 as they are left, and tuned with the whole model as teacher."""
    runs = sorted(of_kind(records, "layers"), key=lambda record: -record["settings"]["layers"])
    return pd.DataFrame(
        {"layers": record["settings"]["layers"], "which stay": record["settings"]["choice"]}
        | {"numbers, from 0": " ".join(map(str, record["stay"]))}
        | {f"{name} at once": f1 for name, f1 in _f1(record["at_once"]).items()}
        | _scores(record, records)
        for record in runs
    )


def compound(records: list[dict]) -> pd.DataFrame:
    """Their tables 3 and 17 in one, of trained models: F1, weights left, size, speed-ups; theirs beside.

    Speed-ups are over dense float32 XLM-R base in ONNX Runtime, at the largest batch; `over own dense` is the quotient
    of two in DeepSparse, as theirs is. F1 of int8 is that of the graph in ONNX Runtime.
    """
    timed, rows = of_kind(records, "compound speed"), []
    timed.sort(key=lambda of: (-of["settings"]["layers"], of["settings"]["share"], FORMS.index(of["settings"]["form"])))
    dense = best(timed[0]).get("deepsparse", {}) if timed and timed[0]["settings"]["form"] == "dense" else {}
    for record in timed:
        settings, model = record["settings"], tables.of_part(record, "model", records)
        size, theirs = next(iter(record["sizes"].values())), printed(*(settings[name] for name in KEY))
        ratios = {name: row["ratio"] for name, row in best(record).items()}
        row = {"layers": settings["layers"], "zeros": f"{settings['share']:.0%}", "form": settings["form"]}
        row |= (_scores(model, records) if model else {}) | {"paper F1 kept %": theirs.get("kept")}
        row |= {"million weights left": float(f"{size['weights_left'] / 1e6:.3g}"), "MB": round(size["megabytes"], 1)}
        row |= {"MB by gzip": round(size["gzip_megabytes"], 1), "paper MB": theirs.get("gzip_mb")}
        row |= {title: round(ratios.get(name, nan), 2) for name, title in RUNTIMES.items()}
        row |= {"over own dense": round(ratios.get("deepsparse", nan) / dense.get("ratio", nan), 2)}
        row |= {"paper speed-up": theirs.get("speedup"), "batch": max(settings["batches"])}
        means = {name: np.mean(list(f1.values())) for name, f1 in record["f1_in"].items()}
        row |= {"mean F1 in": ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())}
        notes = [f"{one['runtime']} failed" for one in record["throughput"] if "failed" in one]
        notes += ["busy machine" for one in record["throughput"] if one.get("busy")]
        rows.append(row | {"note": ", ".join(dict.fromkeys(notes))})
    return pd.DataFrame(rows)


def best(record: dict) -> dict[str, dict]:
    """The speed-up in each runtime at the largest batch, of its fastest setting."""
    largest = max(record["settings"]["batches"])
    rows = [row for row in record["throughput"] if row["batch"] == largest and "failed" not in row]
    rows.sort(key=speed.chosen_by)  # the last one of a runtime counts
    return {row["runtime"].split(":")[0]: row | speed.reported(row) for row in rows}


def printed(depth: int, share: float, form: str) -> dict:
    """What they print of one of these models: share of F1 kept, speed-up, megabytes."""
    method = {"dense": "unstructured", "int8": "4-block + QAT", "4-block int8": "4-block + QAT"}.get(form, form)
    f1 = tables.paper("obert 3").set_index(["task", "sparsity", "method"])["value"]
    speeds = tables.paper("obert").set_index(["layers", "sparsity", "method"])[["speedup", "gzip_mb"]].to_dict("index")
    kept = f1.get((f"SQuAD {depth} layers", 100 * share, method))
    theirs = {} if kept is None else {"kept": round(100 * kept / THEIR_DENSE, 2)}
    return theirs | speeds.get((depth, 100 * share, "none" if form == "dense" else method.replace(" ", "")), {})


def patience(records: list[dict]) -> pd.DataFrame:
    """Their table 1: the recipes of 10 and of 30 epochs, of the model with fewer layers."""
    rows = [
        {"pruned": f"{settings['layers']} layers, second order", "sparsity": f"{settings['share']:.0%}"}
        | {"recipe": settings["recipe"]}
        | {"epochs pruned and after": f"{settings['pruning_epochs']:g} + {settings['sparse_epochs']:g}"}
        | _scores(record, records)
        for record in of_kind(records, "compound")
        if "recipe" in (settings := record["settings"])
    ]
    return _beside(rows, 1, lambda row: {"pruned": row["method"], "recipe": f"{row['epochs']:.0f} epochs"})


def upstream(records: list[dict]) -> pd.DataFrame:
    """Their table 2: pruned before the task on plain text, and on the task; mean over seeds."""
    rows, there = [], set()
    for record in of_kind(records, "transfer"):
        criterion, share, languages = UPSTREAM[record["settings"]["upstream"]]
        read = (tables.of_part(record, "start", records) or {}).get("read", {"source": "not there"})
        row = {"pruned": f"upstream, {NAMES[criterion]}", "sparsity": f"{share:.0%}", "text": " ".join(languages)}
        rows.append(row | {"from": read["source"], "seeds": 1} | _scores(record, records))
        there.add((record["settings"]["label"], record["settings"]["seed"]))
    for record in of_kind(records, "gradual"):
        settings = record["settings"]
        if "hardness" in settings and (settings["label"], settings["seed"]) in there:
            row = {"pruned": "downstream, second order", "sparsity": f"{settings['share']:.0%}", "text": "en, labels"}
            rows.append(row | {"from": "notebook 03", "seeds": 1} | _scores(record, records))
    grouped = pd.DataFrame(rows).groupby(["pruned", "sparsity", "text", "from", "model", "source"], sort=False)
    mean = grouped.mean(numeric_only=True).round(3).assign(seeds=grouped.size()).reset_index()
    return _beside(mean.to_dict("records"), 2, lambda row: {"pruned": row["method"]}).astype({"seeds": "Int64"})


def backbones(records: list[dict]) -> pd.DataFrame:
    """The backbones that pruning upstream has left, each a folder for anyone to tune."""
    return pd.DataFrame(
        {"backbone": record["run"], "made from": settings["label"], "zeros": f"{record['sparsity']['measured']:.0%}"}
        | {"by": NAMES[settings["method"]], "text": " ".join(record["read"]["subwords"])}
        | {"from": record["read"]["source"], "million subwords read": f"{record['read']['total'] / 1e6:.2f}"}
        | {"million encoder weights left": float(f"{record['size']['weights_left'] / 1e6:.3g}")}
        | {"MB": round(record["size"]["megabytes"], 1), "MB by gzip": round(record["size"]["gzip_megabytes"], 1)}
        for record in of_kind(records, "upstream")
        if (settings := record["settings"])
    )


def two_of_four(records: list[dict]) -> pd.DataFrame:
    """Their table 4: half of every four weights gone, at once and after an epoch with masks held."""
    rows = [
        {"criterion": NAMES[record["settings"]["method"]], "sparsity": "50%", "epochs after": epochs}
        | _scores(record | scored, records)
        for record in of_kind(records, "held")
        for epochs, scored in (
            ("0", {"scores": record["at_once"], "further": {}}),
            (f"{record['settings']['held_epochs']:g}", {}),
        )
    ]
    rows.sort(key=lambda row: row["epochs after"])
    return _beside(rows, 4, lambda row: {"criterion": row["method"], "epochs after": f"{row['epochs']:.0f}"})


def ablations(records: list[dict]) -> pd.DataFrame:
    """Test F1 of second order at once with other gradients, blocks, damping and sub-steps, and without blocks."""
    runs = sorted(of_kind(records, "ablation"), key=lambda record: list(ABLATIONS).index(record["settings"]["line"]))
    return pd.DataFrame(
        {"varied": record["settings"]["line"], "value": f"{point['value']:g}", "sparsity": f"{point['share']:.0%}"}
        | _f1(point["scores"])
        for record in runs
        for point in record["curve"]
    )


def recall(records: list[dict]) -> Figure:
    """Their figure 2 for two: F1 kept against speed-up and against size; a line joins what no other model beats."""
    table = compound(records)
    fastest = table[list(RUNTIMES.values())].astype(float).max(axis=1)
    with figures.drawing(6.9, 2.7) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, values, sign in zip(panels, (fastest, table["MB by gzip"]), (1, -1), strict=True):
            for name, colour in KEPT.items():
                points = pd.DataFrame({"x": values, "y": table.get(name, nan)}).dropna().sort_values("x")
                axes.plot(points["x"], points["y"], "o", color=colour, alpha=0.4, markeredgewidth=0)
                line = points.loc[front((sign * points["x"]).tolist(), points["y"].tolist())]
                axes.plot(line["x"], line["y"], "o-", color=colour, label=name.removesuffix(" kept %"))
            axes.set(xlim=(0, None), ylim=(0, 105))
        panels[0].set_xlabel("speed-up over dense XLM-R base in ONNX Runtime,\nof the fastest runtime")
        panels[1].set_xlabel("MB by gzip")
        panels[0].set_ylabel("% of the dense F1 kept, test")
        panels[1].legend()
    return drawn


def ablation_curves(records: list[dict]) -> Figure | None:
    """F1 by language against each setting: a panel a setting; the highest sparsity is dashed."""
    if (table := ablations(tables.planned(records))).empty:
        return None
    table = table.astype({"value": float})
    panels = list(table.groupby("varied", sort=False))
    with figures.drawing(1.6 + 1.5 * len(panels), 2.4) as drawn:
        grid = drawn.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (name, rows) in zip(grid[0], panels, strict=True):
            for share, points in rows.sort_values("value").groupby("sparsity"):
                style = (0, (2, 2)) if share == max(table["sparsity"]) else "-"
                for language, colour in figures.COLOURS.items():
                    label = f"{figures.LANGUAGE_NAMES[language]}, {share}"
                    axes.plot(points["value"], points[language], "o", linestyle=style, color=colour, label=label)
            axes.set_xscale("log")
            values = sorted(set(rows["value"]))
            axes.set_xticks(values, [f"{value:g}" for value in values], fontsize=6)
            axes.set_xticks([], minor=True)
            axes.set_title({"matrix-free": "gradients, no blocks"}.get(name, name), loc="left")
        axes.set_ylim(0, 1)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        drawn.supylabel("test F1, pruned at once", fontsize=8)
    return drawn


def _scores(record: dict, records: list[dict]) -> dict:
    """Test F1 by language, what is kept of the dense baseline's, and F1 in further languages."""
    settings, base = record["settings"], tables.of_part(record, "base", records)
    base = base or (record if settings["kind"] == "baseline" else None)
    left = tables.retention(record["scores"], base["scores"], "test") if base else dict.fromkeys(record["scores"], nan)
    row = {"model": settings["label"], "source": f"this study, {settings['corpus']}"} | _f1(record["scores"])
    row |= dict(zip(KEPT, (round(left["en"], 1), round(np.mean([left["es"], left["nl"]]), 1)), strict=True))
    return row | _f1(record.get("further", {}))


def _f1(scores: dict) -> dict[str, float]:
    known = [*figures.COLOURS, *(name for name in scores if name not in figures.COLOURS)]
    return {name: round(scores[name]["test"]["f1"], 3) for name in known if name in scores}


def _beside(rows: list[dict], number: int, about: Callable[[dict], dict]) -> pd.DataFrame:
    """Our rows, if any, and below them those of one of their tables."""
    theirs = tables.paper(f"obert {number}").fillna(0)
    of_paper = [
        {**about(row), "sparsity": f"{row['sparsity']:.0f}%"}
        | {"source": f"paper, {row['task']}", "paper F1": row["value"]}
        for row in theirs[theirs["metric"] == "F1"].to_dict("records")
    ]
    return pd.DataFrame([*rows, *of_paper] if rows else [])
