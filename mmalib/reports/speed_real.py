"""Notebook 07's real things, from records: sentences of a corpus at their own lengths, F1 against speed."""

import re
from math import nan

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import of_kind
from mmalib.reports import combined, figures, speed, tables, words

COLOURS = ("#222222", "#66CCEE", "#CCBB44", "#AA3377", "#228833", "#EE7733", "#4477AA", "#999999")
FAMILIES = dict(zip((*words.FAMILIES.values(), "others", "the paper's"), COLOURS, strict=True))
NAMED = 5  # models


def text_table(records: list[dict]) -> pd.DataFrame:
    """Real text: sentences and words a second, and the speed-up over dense base in ONNX Runtime, all padded to 128."""
    return pd.DataFrame(
        about
        | {"sentences/s": round(row.get("sentences_per_second", nan), 1)}
        | {"words/s": round(row.get("words_per_second", nan), 0), "speed-up": round(row.get("ratio", nan), 2)}
        | {"note": speed.note(row)}
        for about, row in _texts(records)
    )


def latency_table(records: list[dict]) -> pd.DataFrame:
    """Real text, one sentence at a time: milliseconds from words to tags."""
    return pd.DataFrame(
        about | {"p50 ms": round(row["milliseconds_p50"], 1), "p95 ms": round(row["milliseconds_p95"], 1)}
        for about, row in _texts(records)
        if "milliseconds_p50" in row
    )


def _texts(records: list[dict]) -> list[tuple[dict, dict]]:
    """What every row of real text is of, and the row."""
    return [
        (about | {"runtime": row["runtime"], "way": row["way"]}, row)
        for record in of_kind(records, "text")
        for row in record["text"]
        if (about := {"model": record["settings"].get("combination", record["settings"]["model"])})
    ]


def trained(records: list[dict]) -> pd.DataFrame:
    """Test F1 and speed of every trained model in its fastest runtime; `front` or not by F1 in Spanish and Dutch."""
    made = []
    for record in of_kind(records, "trained"):
        if not (speeds := [row for row in record["throughput"] if "failed" not in row]):
            continue
        best = max(speeds, key=speed.chosen_by)
        scored, f1 = speed.scored_in(record, best)
        dense = {row["batch"]: row["ratio"] for row in record.get("dense", ()) if "failed" not in row}
        ratio = speed.reported(best)["ratio"]
        left = tables.of_part(record, "model", records) or {"settings": {}}
        row = _about(record["settings"]["folder"], left, records) | {"source": "this study"}
        text = combined.target_text(left["settings"])
        row |= {"text read": "yes" if text in combined.HAS_READ else text.replace("none", "")}
        row |= {"runtime": best["runtime"], "batch": best["batch"]}
        row |= {"samples/s": round(best["samples_per_second"], 1), "speed-up": round(ratio, 2)}
        row |= {"over its own dense": round(ratio / dense.get(best["batch"], nan), 2)}
        made.append(row | _f1(f1, scored))
    if not made:
        return pd.DataFrame()
    points = pd.DataFrame(made)
    points["front"] = front(points["speed-up"].tolist(), points["F1 unseen"].tolist())
    points = pd.concat([points, _printed()], ignore_index=True)
    return points.sort_values("speed-up", ascending=False, kind="stable", ignore_index=True)


def _about(folder: str, left: dict, records: list[dict]) -> dict:
    """What a timed model is, and the mean and deviation of its F1 in Spanish and Dutch where other seeds are there."""
    if not left["settings"]:
        return {"model": folder, "what it is": folder, "family": "others", "mean of seeds": nan, "± over seeds": nan}
    alike = [r for r in records if _seedless(r) == _seedless(left) and r["settings"]["kind"] != "structured"]
    unseen = pd.Series([tables.unseen(record) for record in alike] if alike[1:] else [nan])
    about = {"model": folder, "what it is": words.words(left["settings"], folder)}
    spread = {"mean of seeds": round(unseen.mean(), 4), "± over seeds": round(unseen.std(), 4)}
    return about | {"family": words.family(left["settings"]), **spread}


def _seedless(record: dict) -> str:
    """A run's name without the number of its seed; what was varied stays."""
    return re.sub(r"seed\d+", "seed", record["run"])


def _printed() -> pd.DataFrame:
    """The paper's own models on the same axes: its speeds over its own dense model, its F1 on test."""
    scores, rows = tables.paper(8).set_index("model"), []
    for model, own in tables.paper(10).groupby("model"):
        best = own.loc[own["throughput"].idxmax()]
        row = {"model": model, "what it is": model, "family": "the paper's", "source": "paper", "text read": ""}
        row |= {"front": False, "runtime": best["runtime"], "batch": int(best["batch_size"])}
        row |= {"samples/s": best["throughput"], "speed-up": round(best["throughput"] / speed.printed_base(), 2)}
        f1 = {language: scores.loc[model, f"{language}_test"] for language in ("en", "es", "nl")}
        rows.append(row | _f1(f1, best["runtime"]))
    return pd.DataFrame(rows)


def _f1(f1: dict[str, float], runtime: str) -> dict:
    mean = {"F1 in": runtime, "F1 unseen": round((f1["es"] + f1["nl"]) / 2, 4)}
    return mean | {f"F1 {language}": round(value, 3) for language, value in f1.items()}


def front(speeds: list[float], scores: list[float]) -> list[bool]:
    """Which points no other beats: none is at least as fast and as good, and one of the two more so."""
    pairs = list(zip(speeds, scores, strict=True))
    return [not any(a >= s and b >= f and (a, b) != (s, f) for a, b in pairs) for s, f in pairs]


def against_speed(records: list[dict]) -> Figure | None:
    """F1 in Spanish and Dutch against speed-up, of the trained models by family beside the paper's.

    Those that no other beats are joined; dashed, those that nothing of their text was read for. `NAMED` have names,
    the joined ones first. Bars: mean and deviation over seeds, where there are several; the first seed was timed.
    """
    if (points := trained(records)).empty:
        return None
    points = points.sort_values("speed-up")
    best = points[points["front"]].drop_duplicates("model")
    with figures.drawing(6.9, 3.1) as drawn:
        axes = drawn.subplots()
        for family, colour in FAMILIES.items():
            of_family = points[points["family"] == family]
            for read, face in ((False, colour), (True, "white")):
                group = of_family[(of_family["text read"] == "yes") == read]
                about = {"color": colour, "capsize": 2, "elinewidth": 0.6}
                axes.errorbar(group["speed-up"], group["mean of seeds"], group["± over seeds"], fmt="none", **about)
                axes.plot(group["speed-up"], group["F1 unseen"], "o", color=colour, markerfacecolor=face)
            if len(of_family):
                axes.plot([], [], "o", color=colour, label=family)
        if (points["text read"] == "yes").any():
            axes.plot([], [], "o", color="#555555", markerfacecolor="white", label="has read es+nl text")
        for row in points[points["source"] == "paper"].to_dict("records"):
            below = {"xytext": (4, -6), "fontsize": 6, "color": "#777777"}
            figures.note(axes, row["model"], (row["speed-up"], row["F1 unseen"]), **below)
        axes.plot(best["speed-up"], best["F1 unseen"], color="black", linewidth=0.8, zorder=1)
        blind = points[(points["text read"] == "") & (points["source"] != "paper")]
        blind = blind[front(blind["speed-up"].tolist(), blind["F1 unseen"].tolist())]
        axes.plot(blind["speed-up"], blind["F1 unseen"], color="black", linewidth=0.6, linestyle="--", zorder=1)
        places = sorted({round(place) for place in np.linspace(0, len(best) - 1, min(NAMED, len(best)))})
        ours = points[(points["source"] != "paper") & ~points["model"].isin(best["model"])].drop_duplicates("model")
        named = pd.concat([best.iloc[places], ours.tail(NAMED - len(places))]).sort_values("speed-up")  # the fastest
        names = []
        for number, row in enumerate(named.to_dict("records"), start=1):
            where = {"xytext": (4, 4), "va": "baseline", "fontweight": "bold"}
            figures.note(axes, str(number), (row["speed-up"], row["F1 unseen"]), **where)
            runtime = speed.RUNTIMES[row["runtime"].split(":")[0]][0]
            own = f"{row['over its own dense']:.1f}× its own dense model"
            names.append(f"{number}  {row['what it is']}\n    {row['speed-up']:.0f}×, {own}, {runtime}")
        axes.annotate("\n".join(names), (1.02, 0), xycoords="axes fraction", fontsize=6, annotation_clip=False)
        speed.log_x_(axes, points["speed-up"].tolist())
        axes.set_xlabel("speed-up over dense float32 XLM-R base in ONNX Runtime, same batch and length")
        axes.set(ymargin=0.12, ylabel="test F1, mean of Spanish and Dutch")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return drawn
