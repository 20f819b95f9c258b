"""Notebook 05, from records: table 6 beside the paper's, losses by language, sizes, the floor, the sensitivity."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmalib.plan import FLOOR_POINTS, INT8_KINDS, of_kind
from mmalib.reports import combined, figures, tables

NAMES = {
    "float": "float",
    "longer": "float, trained on as QAT is",
    "dynamic": "Dynamic",
    "static": "Static",
    "qat": "QAT",
    "without-data": "Without data",
    "static-qoperator": "Static, QOperator",
    "qat-qoperator": "QAT, QOperator",
    "qat-taught": "QAT, taught by the dense model",
    "qat-taught-qoperator": "QAT, taught by the dense model, QOperator",
    "static-embeddings": "Static, embeddings too",
    "floor": "Static with a floor, English dev",
    "floor-all": "Static with a floor, all dev sets*",
}
TICKS = {name: NAMES[name].replace(" ", "\n") for name in INT8_KINDS} | {"longer": "trained on,\nfloat"}
PARTS = ["query", "key", "value", "mix", "widen", "narrow"]  # of a layer, as in `model.backbones.Parts`
YES = {True: "yes", False: "no"}


def table_6(records: list[dict]) -> pd.DataFrame:
    """Table 6: F1 of every int8 graph, what Spanish and Dutch lose against the float graph, and the paper's.

    * looks at dev sets of languages that the model was not tuned on, and is no zero-shot setting. The paper trains QAT
    for as many epochs as its models were tuned; `trained on` says what was done here.
    """
    rows = [
        _model(record)
        | {"trained on": _training(record["settings"])}
        | tables.scores_of(record, combined.whole_of(record, records))
        for record in _graphs(records)
    ]
    ours = tables.over_seeds(rows, ("model", "source", "seeds", "trained on"))
    return tables.beside_paper(ours, 6, **{"trained on": ""})


def sizes(records: list[dict]) -> pd.DataFrame:
    """Size on disk, and the share of zeros in the weights that are int8, before and after rounding."""
    rows = [
        _model(record)
        | {"format": record["settings"]["format"], "MB": size["megabytes"]}
        | {"of float": size["megabytes"] / size["megabytes_float"]}
        | {"zeros in float": size["sparsity"], "zeros in int8": size["sparsity_int8"]}
        for record in _graphs(records)
        if (size := record["size"])
    ]
    numbers = pd.DataFrame(rows).astype({"zeros in int8": float}).groupby(["model", "source", "format"], sort=False)
    made = numbers.mean().round({"MB": 1}).reset_index()
    return tables.percent(made, {"of float": 0, "zeros in float": 1, "zeros in int8": 1})


def calibration(records: list[dict]) -> pd.DataFrame:
    """What every calibration method came to on English dev, and which was chosen."""
    return pd.DataFrame(
        _about(record)
        | {"method": method, "en dev F1": round(seen["f1"], 4), "drift": float(f"{seen['drift']:.3g}")}
        | {"chosen": "yes" if method == record["calibration"]["chosen"] else ""}
        for record in of_kind(records, "graph")
        for method, seen in record.get("calibration", {}).get("tried", {}).items()
    )


def changed_words(records: list[dict]) -> pd.DataFrame:
    """How every graph differs from the float one on the test sets, and the word whose tag it changes most often."""
    rows = []
    for record in of_kind(records, "changed words"):
        for graph, languages in record["changed"].items():
            for language, difference in languages.items():
                low, high = (difference[f"points_{end}"] for end in ("low", "high"))
                row = _about(record) | {"graph": NAMES[graph], "language": language}
                row |= {"points of F1": f"{difference['points']:+.2f} ({low:+.2f} to {high:+.2f})"}
                row |= {"tags changed": f"{difference['changed'] / difference['words']:.2%}"}
                words = [f"{word['word']}, {word['how']}, {word['times']} times" for word in difference["most"]]
                without = difference.get("points_without_first", difference["points"])
                row |= {"word most often changed": [*words, "none"][0]}
                rows.append(row | {"points without it": f"{without:+.2f}"})
    return pd.DataFrame(rows)


def floors(records: list[dict]) -> pd.DataFrame:
    """The maps left in float (part and layer) to hold the floor, and the points of dev F1 lost in all languages."""
    rows = []
    for record in of_kind(records, "graph"):
        if not (floor := record.get("floor")):
            continue
        dense = tables.of_part(record, "float", records) or {"places": {}}
        where = [dense["places"].get(name) for name in floor["skip"]]
        named = [f"{at[1]} {at[0] + 1}" if at else name for name, at in zip(floor["skip"], where, strict=True)]
        row = _about(record) | {"looked at dev of": " ".join(floor["languages"])}
        row |= {"maps in float": ", ".join(named) or "none", "int8 graphs": floor["measured"]}
        row |= {"met there": YES[floor["met"]]}
        row |= {f"{name} dev lost": round(floor["lost_on_dev"][name], 2) for name in figures.COLOURS}
        rows.append(row | {"met everywhere": YES[floor["met_everywhere"]]})
    return pd.DataFrame(sorted(rows, key=lambda row: (*list(row.values())[:3], len(row["looked at dev of"]))))


def changes(records: list[dict]) -> pd.DataFrame:
    """Points of F1 that every graph gains (below 0: loses) against its float graph; a row a language and split."""
    keys = ("corpus", "label", "graph", "seed")
    rows = [
        {key: record["settings"][key] for key in keys}
        | {"language": language, "split": split}
        | {"points": 100 * (record["scores"][language][split]["f1"] - base["scores"][language][split]["f1"])}
        for record in of_kind(records, "graph")
        if (base := combined.whole_of(record, records)) and base is not record
        for language, split in tables.CELLS
    ]
    return pd.DataFrame(rows, columns=[*keys, "language", "split", "points"])


def alone(records: list[dict]) -> pd.DataFrame:
    """The drift when one map alone is int8, as a share of the drift when all are; a row a seed and map."""
    rows = [
        _about(record)
        | {"layer": row["layer"] + 1, "part": row["part"], "in float": row["map"] in record["floor"]["skip"]}
        | {"share": row["drift"] / total if (total := record["floor"]["drift_at_first"]) > 0 else 0.0}
        for record in of_kind(records, "graph")
        for row in record.get("sensitivity", [])
    ]
    return pd.DataFrame(rows, columns=["backbone", "corpus", "seed", "layer", "part", "in float", "share"])


def losses(records: list[dict]) -> Figure | None:
    """Change of F1 per language for every kind: a panel a split; large dots are means, small ones seeds."""
    frame = changes(records).query("graph in @TICKS").rename(columns={"graph": "setting", "points": "value"})
    if frame.empty:
        return None
    studies = list(frame.groupby(["label", "corpus"], sort=False))
    with figures.drawing(6.9, 0.3 + 2.3 * len(studies)) as drawn:
        grid = drawn.subplots(len(studies), 2, sharey="row", squeeze=False)
        for of_study, ((backbone, corpus), mine) in zip(grid, studies, strict=True):
            ticks = {name: TICKS[name] for name in TICKS if name in set(mine["setting"])}
            panels = list(zip(of_study, ("dev", "test"), strict=True))
            for axes, split in panels:
                figures.columns_(axes, mine[mine["split"] == split], ticks, apart=0.2)
                axes.axhline(0, color="black", linewidth=0.6)
                axes.axhline(-FLOOR_POINTS, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
                if "longer" in ticks:  # no quantization: the control of QAT
                    axes.axvspan(len(ticks) - 1.5, len(ticks) - 0.5, color="#EEEEEE", zorder=0, linewidth=0)
                axes.set_title(f"{backbone} ({corpus}), {split}", loc="left")
            low, high = of_study[0].get_ylim()
            of_study[0].set(ylim=(min(low, -1.2), max(high, 0.5)), ylabel="change of F1 in points (dashed: −1)")
            for axes, split in panels:
                figures.label_languages(axes, mine[mine["split"] == split], ticks)
    return drawn


def sensitivity(records: list[dict]) -> Figure | None:
    """Layer × MatMul: the drift from the float graph when this one alone is int8, as a share of that of all."""
    if (drifts := alone(records)).empty:
        return None
    studies = drifts.groupby(["backbone", "corpus"])
    most = int(studies["layer"].nunique().max())
    with figures.drawing(3.4 if len(studies) == 1 else 6.9, 0.9 + 0.24 * min(most, 12)) as drawn:
        panels = drawn.subplots(1, len(studies), squeeze=False)[0]
        for axes, ((backbone, corpus), mine) in zip(panels, studies, strict=True):
            by_map = mine.groupby(["layer", "part"])
            mean = by_map["share"].mean().unstack().reindex(columns=PARTS)
            chosen = by_map["in float"].any().unstack().reindex(columns=PARTS).eq(True).to_numpy()
            shares, highest = mean.to_numpy(), max(0.01, mean.max(axis=None))
            shades = axes.imshow(shares, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
            for row, column in np.argwhere(~np.isnan(shares)):
                share = shares[row, column]
                colour = "white" if share > 0.6 * highest else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
                if chosen[row, column]:
                    axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#EE6677"))
            axes.grid(visible=False)
            axes.set_xticks(range(len(mean.columns)), mean.columns)
            axes.set_yticks(range(len(mean.index)), mean.index)
            axes.set_ylabel("layer")
            if chosen.any():
                axes.set_xlabel("linear map (framed: back in float)")
            drawn.colorbar(shades, ax=axes, pad=0.02, label="drift, of that of all", format="{x:.0%}")
            seeds = mine["seed"].nunique()
            axes.set_title(f"{backbone} ({corpus}, {seeds} seed{'s' * (seeds > 1)})", loc="left")
    return drawn


def _graphs(records: list[dict]) -> list[dict]:
    """By corpus and model, in the order of `NAMES`."""
    graphs = sorted(of_kind(records, "graph"), key=lambda record: list(NAMES).index(record["settings"]["graph"]))
    return sorted(graphs, key=lambda record: (record["settings"]["corpus"], record["settings"]["label"]))


def _model(record: dict) -> dict:
    settings = record["settings"]
    return {"model": f"{settings['label']}, {NAMES[settings['graph']]}", "source": f"this study, {settings['corpus']}"}


def _about(record: dict) -> dict:
    settings = record["settings"]
    return {"backbone": settings["label"], "corpus": settings["corpus"], "seed": settings["seed"]}


def _training(settings: dict) -> str:
    """What was trained on top of the tuned model, beside what tuned it."""
    if "qat_epochs" not in settings:
        return ""
    parts = (("qat_epochs", "qat_sentences"), ("epochs", "train_sentences"))
    more, tuned = (f"{settings[epochs]:g} × {settings[number] or 'all'}" for epochs, number in parts)
    return f"{more} sentences; tuned on {tuned}"
