"""Notebook 05, from records: table 6 beside the paper's, losses by language, sizes, the floor, the sensitivity."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import of_kind
from mmalib.reports import figures, quantization_figures, tables
from mmalib.reports.compare import of_part

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
YES = {True: "yes", False: "no"}


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    if not of_kind(records, "graph"):
        return {}
    drawn: dict[str, pd.DataFrame | Figure] = {"table_6": table_6(records), "table_int8_sizes": sizes(records)}
    further = {"table_calibration": calibration(records), "table_floor": floors(records)}
    further["table_changed_words"] = changed_words(records)
    drawn |= {name: table for name, table in further.items() if not table.empty}
    if not (table := changes(records)).empty and set(table["graph"]) & set(quantization_figures.TICKS):
        drawn["quantization"] = quantization_figures.losses(table)
    if not (drifts := alone(records)).empty:
        drawn["sensitivity"] = quantization_figures.sensitivity(drifts)
    return drawn


def table_6(records: list[dict]) -> pd.DataFrame:
    """Table 6: F1 of every int8 graph, what Spanish and Dutch lose against the float graph, and the paper's.

    * looks at dev sets of languages that the model was not tuned on, and is no zero-shot setting. The paper trains QAT
    for as many epochs as its models were tuned; `trained on` says what was done here.
    """
    rows = []
    for (corpus, backbone, graph), group in _groups(_frame(records)):
        row = {"model": f"{backbone}, {NAMES[graph]}", "source": f"this study, {corpus}", "seeds": len(group)}
        rows.append(row | {"trained on": group["trained on"].iloc[0]} | tables.over_seeds(group))
    rows += tables.printed_rows(6, **{"trained on": ""})
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def printed_mls(split_of_base: str) -> pd.DataFrame:
    """The multilingual scores of the paper's table 6, made from its F1 and mlbert's of its table 1 on one split.

    The printed ones, those of test too, follow from mlbert's F1 on dev.
    """
    return tables.printed_mls(6, "mlbert", dict.fromkeys(("dev", "test"), split_of_base))


def sizes(records: list[dict]) -> pd.DataFrame:
    """Size on disk, and the share of zeros in the weights that are int8, before and after rounding."""
    rows = []
    for (corpus, backbone, graph), group in _groups(_frame(records)):
        mean = group[["megabytes", "share", "zeros", "zeros_int8"]].mean()
        row = {"model": f"{backbone}, {NAMES[graph]}", "source": f"this study, {corpus}"}
        row |= {"format": group["format"].iloc[0], "MB": round(mean["megabytes"], 1)}
        row |= {"of float": f"{mean['share']:.0%}"}
        rounded = "" if np.isnan(mean["zeros_int8"]) else f"{mean['zeros_int8']:.1%}"
        rows.append(row | {"zeros in float": f"{mean['zeros']:.1%}", "zeros in int8": rounded})
    return pd.DataFrame(rows)


def calibration(records: list[dict]) -> pd.DataFrame:
    """What every calibration method came to on English dev, and which was chosen."""
    rows = []
    for record in of_kind(records, "graph"):
        for method, seen in record.get("calibration", {}).get("tried", {}).items():
            row = _about(record) | {"method": method, "en dev F1": round(seen["f1"], 4)}
            chosen = "yes" if method == record["calibration"]["chosen"] else ""
            rows.append(row | {"drift": float(f"{seen['drift']:.3g}"), "chosen": chosen})
    return pd.DataFrame(rows)


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
        dense = of_part(record, "float", records) or {"places": {}}
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
    rows = [
        {"corpus": row["corpus"], "label": row["label"], "graph": row["graph"], "seed": row["seed"]}
        | {"language": language, "split": split, "points": row[f"{language} {split} change"]}
        for row in _frame(records).to_dict("records")
        for language, split in tables.CELLS
        if row["graph"] != "float"
    ]
    made = pd.DataFrame(rows, columns=["corpus", "label", "graph", "seed", "language", "split", "points"])
    return made.dropna(subset="points")


def alone(records: list[dict]) -> pd.DataFrame:
    """The drift when one map alone is int8, as a share of the drift when all are; a row a seed and map."""
    rows = [
        {"label": record["settings"]["label"], "corpus": record["settings"]["corpus"]}
        | {"seed": record["settings"]["seed"], "layer": row["layer"] + 1, "part": row["part"]}
        | {"share": _of_total(record, row["drift"]), "in float": row["map"] in record["floor"]["skip"]}
        for record in of_kind(records, "graph")
        for row in record.get("sensitivity", [])
    ]
    return pd.DataFrame(rows, columns=["label", "corpus", "seed", "layer", "part", "share", "in float"])


def _frame(records: list[dict]) -> pd.DataFrame:
    """One row a graph: scores, change from its float graph in points, size."""
    rows = []
    for record in of_kind(records, "graph"):
        settings, scores, size = record["settings"], record["scores"], record["size"]
        base = record if settings["graph"] == "float" else of_part(record, "float", records)
        row = {name: settings[name] for name in ("corpus", "label", "graph", "seed", "format")}
        row |= {"trained on": _training(settings)} | tables.scores_of(scores, base and base["scores"])
        for language, split in tables.CELLS:
            before = base["scores"][language][split]["f1"] if base else np.nan
            row[f"{language} {split} change"] = 100 * (scores[language][split]["f1"] - before)
        row |= {"megabytes": size["megabytes"], "share": size["megabytes"] / size["megabytes_float"]}
        rounded = np.nan if size["sparsity_int8"] is None else size["sparsity_int8"]
        rows.append(row | {"zeros": size["sparsity"], "zeros_int8": rounded})
    return pd.DataFrame(rows)


def _groups(frame: pd.DataFrame):
    order = frame.assign(place=[list(NAMES).index(graph) for graph in frame["graph"]])
    order = order.sort_values(["corpus", "label", "place", "seed"])
    return order.groupby(["corpus", "label", "graph"], sort=False)


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


def _of_total(record: dict, drift: float) -> float:
    total = record["floor"]["drift_at_first"]
    return drift / total if total > 0 else 0.0
