"""Notebook 07's real things, from records: sentences of a corpus at their own lengths, F1 against speed."""

import math

import pandas as pd

from mmalib import runtimes
from mmalib.plan import of_kind
from mmalib.reports import speed, speed_figures, tables, words
from mmalib.reports.compare import of_part


def draw(records: list[dict]) -> dict:
    """Every table and figure of text and of trained models by its file's name, from the records alone."""
    drawn: dict = {}
    if not (text := text_table(records)).empty:
        drawn["table_real_text"], drawn["table_latency"] = text, latency_table(records)
    if not (points := trained(records)).empty:
        drawn["table_f1_speed"] = points
        drawn["f1_against_speed"] = speed_figures.against_speed(points)
    return drawn


def text_table(records: list[dict]) -> pd.DataFrame:
    """Real text: sentences and words a second, and the speed-up over ONNX Runtime with all padded to 128."""
    made = []
    for record in of_kind(records, "text"):
        for row in record["text"]:
            line = {"model": record["settings"]["model"], "runtime": row["runtime"], "way": row["way"]}
            line |= {"sentences/s": speed.rounded(row.get("sentences_per_second"), 1)}
            line |= {"words/s": speed.rounded(row.get("words_per_second"), 0)}
            line |= {"speed-up": speed.rounded(row.get("ratio"), 2)}
            made.append(line | {"note": speed.note(pd.DataFrame([{"failed": None, **row}]))})
    return pd.DataFrame(made)


def latency_table(records: list[dict]) -> pd.DataFrame:
    """Real text, one sentence at a time: milliseconds from words to tags."""
    made = [
        {"model": record["settings"]["model"], "runtime": row["runtime"], "way": row["way"]}
        | {"p50 ms": speed.rounded(row["milliseconds_p50"], 1), "p95 ms": speed.rounded(row["milliseconds_p95"], 1)}
        for record in of_kind(records, "text")
        for row in record["text"]
        if "milliseconds_p50" in row
    ]
    return pd.DataFrame(made, columns=["model", "runtime", "way", "p50 ms", "p95 ms"])


def trained(records: list[dict]) -> pd.DataFrame:
    """Test F1 and speed of every trained model in its fastest runtime; `front` or not by F1 in Spanish and Dutch."""
    made = []
    for record in of_kind(records, "trained"):
        if not (speeds := [row for row in record["throughput"] if "failed" not in row]):
            continue
        best = max(speeds, key=speed.chosen_by)
        scored, f1 = scored_in(record, best)
        dense = {row["batch"]: row["ratio"] for row in record.get("dense", ()) if "failed" not in row}
        ratio = speed.reported(best)["ratio"]
        row = _about(record, records) | {"source": "this study"}
        row |= {"text read": _text_read(record, records), "runtime": best["runtime"], "batch": best["batch"]}
        row |= {"samples/s": round(best["samples_per_second"], 1), "speed-up": round(ratio, 2)}
        row |= {"over its own dense": speed.rounded(speed.over(ratio, dense.get(best["batch"])), 2)}
        row |= {"F1 in": scored, "F1 unseen": round((f1["es"] + f1["nl"]) / 2, 4)}
        made.append(row | {f"F1 {language}": round(value, 3) for language, value in f1.items()})
    points = pd.DataFrame(made)
    if made:
        points["front"] = front(points["speed-up"].tolist(), points["F1 unseen"].tolist())
        points = pd.concat([points, pd.DataFrame(_printed())], ignore_index=True)
        points = points.sort_values("speed-up", ascending=False, kind="stable", ignore_index=True)
    return points


def scored_in(record: dict, row: dict) -> tuple[str, dict[str, float]]:
    """The runtime that a trained model's F1 is of, and the F1: the row's own where the graph was scored there."""
    runtime = runtimes.numbers(row["runtime"])
    if runtime in (by_runtime := record.get("f1_in", {})):
        return runtime, by_runtime[runtime]
    return ("onnxruntime" if record["settings"]["trained_in"] in ("05", "06") else "pytorch"), record["f1"]


def _about(record: dict, records: list[dict]) -> dict:
    """What a timed model is, and the standard deviation of its F1 in Spanish and Dutch where other seeds are there."""
    folder, left = record["settings"]["folder"], of_part(record, "model", records)
    if left is None:
        return {"model": folder, "what it is": folder, "family": "others", "± over seeds": math.nan}
    stem = left["run"].rpartition("seed")[0]
    alike = [r for r in records if r["run"].rpartition("seed")[0] == stem and r["settings"]["kind"] != "structured"]
    unseen = pd.Series([(r["scores"]["es"]["test"]["f1"] + r["scores"]["nl"]["test"]["f1"]) / 2 for r in alike])
    about = {"model": folder, "what it is": words.words(left["settings"], folder)}
    return about | {"family": words.family(left["settings"]), "± over seeds": round(unseen.std(), 4)}


def _text_read(record: dict, records: list[dict]) -> str:
    """Whether Spanish and Dutch text has been read, by the record of the run that left the model."""
    left = of_part(record, "model", records)
    settings = left["settings"] if left else {}
    return "yes" if settings.get("sees_target_text") or settings.get("start", {}).get("sees_target_text") else ""


def _printed() -> list[dict]:
    """The paper's own models on the same axes: its speeds over its own dense model, its F1 on test."""
    scores, speeds = tables.paper(8).set_index("model"), tables.paper(10)
    rows = []
    for model, own in speeds.groupby("model"):
        best = own.loc[own["throughput"].idxmax()]
        f1 = {f"F1 {language}": scores.loc[model, f"{language}_test"] for language in ("en", "es", "nl")}
        row = {"model": model, "what it is": model, "family": "the paper's", "source": "paper", "text read": ""}
        row |= {"runtime": best["runtime"], "F1 in": best["runtime"]}
        row |= {"batch": int(best["batch_size"]), "samples/s": best["throughput"], "front": False} | f1
        row |= {"speed-up": round(best["throughput"] / speed.printed_base(), 2)}
        rows.append(row | {"F1 unseen": round((f1["F1 es"] + f1["F1 nl"]) / 2, 4)})
    return rows


def front(speeds: list[float], scores: list[float]) -> list[bool]:
    """Which points no other beats: none is at least as fast and as good, and one of the two more so."""
    pairs = list(zip(speeds, scores, strict=True))
    return [not any(a >= s and b >= f and (a, b) != (s, f) for a, b in pairs) for s, f in pairs]
