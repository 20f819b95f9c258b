"""Notebook 07, from records: speeds beside the paper's, sizes, real text, F1 against speed.

A speed-up is over dense float32 XLM-R base in ONNX Runtime, ours at the same batch and in turns. The paper prints that
baseline once, without a batch size (table 2: 18.7 samples/s); all its speed-ups here are over that number. Tables 7
and 9 are extracts of 11 and 10 and are drawn as such: the fastest batch of each model and runtime.
"""

import math
import re

import pandas as pd

from mmalib import results, tables, throughput
from mmalib.profiles import Profile
from mmalib.reports import speed_figures
from mmalib.studies import speed, speed_real

# printed name → the cases that are it here; the paper does not say in which pattern its models are sparse
PRINTED = {
    2: {"base": ["base"]},
    5: {"DistilBERT": ["distilbert"], "MiniLM": ["minilm"]},
    10: {
        "xlm_80_q": ["base 80% 4-block int8", "base 80% unstructured int8"],
        "xlm_90_q": ["base 90% 4-block int8", "base 90% unstructured int8"],
        "distilbert_q": ["distilbert int8"],
    },
    11: {"Dynamic": ["base dynamic"], "Static": ["base int8"]},
}
EXTRACTS = {7: 11, 9: 10}
OPEN = ("onnxruntime", "openvino")
WAYS = {"heads": "figure_6_7", "uniform": "figure_8_9"}


def draw(records: list[dict]) -> dict:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    measured = rows(records)
    drawn: dict = {}
    if not measured.empty:
        for number in sorted([*PRINTED, *EXTRACTS]):
            drawn[f"table_{number}"] = table(measured, number)
        drawn["table_speed_open"] = fastest(measured)
        drawn["speedups"] = speed_figures.speedups(measured, printed_best())
        for way, name in WAYS.items():
            if (measured["case"].str.startswith(way)).any():
                drawn[name] = speed_figures.shrinking(measured, way)
    if not (sized := table_17(records)).empty:
        drawn["table_17_obert"] = sized
    if not (text := text_table(records)).empty:
        drawn["table_real_text"], drawn["table_latency"] = text, latency_table(records)
    if not (points := trained(records)).empty:
        drawn["table_f1_speed"] = points
        drawn["f1_against_speed"] = speed_figures.pareto(points)
    return drawn


def gaps(records: list[dict], settings: Profile) -> list[str]:
    """The cases and texts that this profile has and the records have not."""
    there = {r["run"] for r in records}
    wanted = [case.name for case in speed.planned(settings)] + [f"text {reader}" for reader in speed_real.READERS]
    corpora = sorted({r["config"]["corpus"] for r in records})
    return [run for corpus in corpora for what in wanted if (run := speed.run_name(what, corpus)) not in there]


def rows(records: list[dict]) -> pd.DataFrame:
    """One row for every case, runtime and batch; `failed` says why there is no speed."""
    found = []
    for record in of_method(records, "speed"):
        config = record["config"]
        about = {key: config[key] for key in ("case", "shape", "depth", "zeros", "heads", "uniform", "int8")}
        for row in record["throughput"]:
            plain = {key: value for key, value in row.items() if not isinstance(value, (list, dict))}
            found.append({"failed": None, "samples_per_second": None, "ratio": None, **plain, **about})
    made = pd.DataFrame(found)
    # The same case measured beside two corpora: the last one counts.
    return made.drop_duplicates(["case", "runtime", "batch"], keep="last").reset_index(drop=True) if found else made


def table(measured: pd.DataFrame, number: int) -> pd.DataFrame:
    """One of the paper's tables: samples/s and speed-up, ours and the paper's, side by side."""
    if number in EXTRACTS:
        whole = table(measured, EXTRACTS[number])
        order = whole["samples/s"].fillna(whole["paper samples/s"] - 1e6).fillna(-1e9)  # what ran comes first
        best = whole.loc[order.groupby([whole["measured as"], whole["runtime"]]).idxmax()]
        return best.sort_index().reset_index(drop=True)
    paper = tables.paper(number)
    made = []
    for printed, names in PRINTED[number].items():
        theirs = paper[paper["model"] == printed]
        for name in names:
            ours = measured[(measured["case"] == name)]
            keys = list(dict.fromkeys(zip(ours["runtime"], ours["batch"], strict=True)))
            if ours.empty:
                sizes = theirs.get("batch_size", pd.Series([math.nan] * len(theirs)))
                keys = list(zip(theirs["runtime"], sizes, strict=True))
            for runtime, batch in keys:
                own = ours[(ours["runtime"] == runtime) & (ours["batch"] == batch)]
                made.append(
                    {"model": printed, "measured as": name, "runtime": runtime, "batch": _whole(batch)}
                    | _own(own)
                    | _theirs(theirs, runtime, batch)
                    | {"note": _note(own)}
                )
    return pd.DataFrame(made)


def fastest(measured: pd.DataFrame, number: int = 12) -> pd.DataFrame:
    """The fastest cases in maintained open runtimes, each at its best batch and setting, and the paper's best."""
    speeds = measured.dropna(subset=["ratio"])
    is_open = speeds["runtime"].map(lambda name: name.split(":")[0] in OPEN)
    lines = []
    for kind, some in (("this study", speeds[is_open]), ("this study, closed runtime", speeds[~is_open])):
        best = some.sort_values("samples_per_second", ascending=False).drop_duplicates("case")
        for row in best.head(number if kind == "this study" else 1).to_dict("records"):
            lines.append(
                {"configuration": row["case"], "source": kind, "runtime": row["runtime"], "batch": _whole(row["batch"])}
                | {"samples/s": round(row["samples_per_second"], 1), "speed-up": round(row["ratio"], 2)}
                | {"p50 ms a batch": _a_batch(row), "note": _note(pd.DataFrame([row]))}
            )
    printed = _best_printed()
    lines.append(
        {"configuration": printed["model"], "source": "paper", "runtime": printed["runtime"]}
        | {"batch": _whole(printed["batch_size"]), "samples/s": printed["throughput"]}
        | {"speed-up": round(printed_best(), 2), "p50 ms a batch": None, "note": ""}
    )
    return pd.DataFrame(lines).sort_values("speed-up", ascending=False, kind="stable").reset_index(drop=True)


def printed_best() -> float:
    """The paper's largest speed-up, over its own dense model in ONNX Runtime."""
    return _best_printed()["throughput"] / _printed_base()


def table_17(records: list[dict]) -> pd.DataFrame:
    """The Optimal BERT Surgeon's table 17: speed-up over the dense model in DeepSparse, size by gzip."""
    sized = {r["config"]["case"]: r for r in of_method(records, "speed") if r.get("sizes")}
    measured = rows(records)
    dense_size = _gzip(sized.get("obert 12 layers dense"))
    made = []
    for printed in tables.paper("obert").to_dict("records"):
        name = _obert_name(printed)
        if name not in sized:
            continue
        own = measured[(measured["case"] == name) & (measured["runtime"] == "deepsparse")]
        batch, speed_found = (own["batch"].iloc[0], own["samples_per_second"].iloc[0]) if len(own) else (None, None)
        dense = _dense_deepsparse(measured, batch)
        size = _gzip(sized[name])
        made.append(
            {"layers": printed["layers"], "zeros": f"{printed['sparsity']}%", "method": printed["method"]}
            | {"batch": _whole(batch), "samples/s": _rounded(speed_found, 1)}
            | {"speed-up": _rounded(_over(speed_found, dense), 2), "paper speed-up": printed["speedup"]}
            | {"MB by gzip": _rounded(size, 1), "paper MB": printed["gzip_mb"]}
            | {"smaller by": _rounded(_over(dense_size, size), 2), "paper smaller by": printed["compression"]}
            | {"note": _note(own)}
        )
    return pd.DataFrame(made)


def text_table(records: list[dict]) -> pd.DataFrame:
    """Real text: sentences and words a second, and the speed-up over ONNX Runtime with all padded to 128."""
    made = []
    for record in of_method(records, "text"):
        for row in record["text"]:
            made.append(
                {"model": record["config"]["model"], "runtime": row["runtime"], "way": row["way"]}
                | {"sentences/s": _rounded(row.get("sentences_per_second"), 1)}
                | {"words/s": _rounded(row.get("words_per_second"), 0)}
                | {"speed-up": _rounded(row.get("ratio"), 2), "note": _note(pd.DataFrame([{"failed": None, **row}]))}
            )
    return pd.DataFrame(made)


def latency_table(records: list[dict]) -> pd.DataFrame:
    """Real text, one sentence at a time: milliseconds from words to tags."""
    made = [
        {"model": record["config"]["model"], "runtime": row["runtime"], "way": row["way"]}
        | {"p50 ms": _rounded(row["milliseconds_p50"], 1), "p95 ms": _rounded(row["milliseconds_p95"], 1)}
        for record in of_method(records, "text")
        for row in record["text"]
        if "milliseconds_p50" in row
    ]
    return pd.DataFrame(made, columns=["model", "runtime", "way", "p50 ms", "p95 ms"])


def trained(records: list[dict]) -> pd.DataFrame:
    """F1 (mean of the languages' test sets) and speed of every trained model in its fastest runtime; `front` or not."""
    made = []
    for record in of_method(records, "trained"):
        speeds = [row for row in record["throughput"] if "failed" not in row]
        if not speeds:
            continue
        best = max(speeds, key=lambda row: row["samples_per_second"])
        scored, f1 = scored_in(record, best)
        made.append(
            {"model": record["config"]["folder"], "notebook": record["config"]["trained_in"]}
            | {"runtime": best["runtime"], "batch": best["batch"], "samples/s": round(best["samples_per_second"], 1)}
            | {"speed-up": round(best["ratio"], 2), "F1 in": scored, "F1": round(sum(f1.values()) / len(f1), 4)}
            | {f"F1 {language}": round(value, 3) for language, value in f1.items()}
        )
    points = pd.DataFrame(made)
    if made:
        points["front"] = front(points["speed-up"].tolist(), points["F1"].tolist())
        points = points.sort_values("speed-up", ascending=False, kind="stable").reset_index(drop=True)
    return points


def scored_in(record: dict, row: dict) -> tuple[str, dict[str, float]]:
    """The runtime that a trained model's F1 is of, and the F1: the row's own where the graph was scored there."""
    runtime = row["runtime"].split(":")[0]
    if runtime in (found := record.get("f1_in", {})):
        return runtime, found[runtime]
    return ("onnxruntime" if record["config"]["trained_in"] in ("05", "06") else "pytorch"), record["f1"]


def front(speeds: list[float], scores: list[float]) -> list[bool]:
    """Which points no other beats: none is at least as fast and as good, and one of the two more so."""
    pairs = list(zip(speeds, scores, strict=True))
    return [not any(a >= s and b >= f and (a, b) != (s, f) for a, b in pairs) for s, f in pairs]


def of_method(records: list[dict], method: str) -> list[dict]:
    """This notebook's records of one kind: "speed", "text" or "trained"."""
    return [r for r in results.of_notebook(records, "07") if r["config"].get("method") == method]


def _best_printed() -> dict:
    printed = pd.concat([tables.paper(number) for number in PRINTED], ignore_index=True)
    return printed.loc[printed["throughput"].idxmax()].to_dict()


def _printed_base() -> float:
    base = tables.paper(2)
    return float(base[base["runtime"] == "onnxruntime"]["throughput"].iloc[0])


def _own(own: pd.DataFrame) -> dict:
    speed_found, ratio = (own[name].iloc[0] if len(own) else None for name in ("samples_per_second", "ratio"))
    return {"samples/s": _rounded(speed_found, 1), "speed-up": _rounded(ratio, 2)}


def _theirs(theirs: pd.DataFrame, runtime: str, batch: float) -> dict:
    same = theirs[theirs["runtime"] == runtime]
    if "batch_size" in same:  # table 2 does not say at which batch
        same = same[same["batch_size"] == batch]
    value = float(same["throughput"].iloc[0]) if len(same) else None
    return {"paper samples/s": value, "paper speed-up": _rounded(_over(value, _printed_base()), 2)}


def _a_batch(row: dict) -> float | None:
    return None if throughput.overlaps(row["runtime"]) else round(row["milliseconds_p50"], 1)


def _note(own: pd.DataFrame) -> str:
    if own.empty:
        return "not measured"
    row = own.iloc[0]
    if isinstance(row.get("failed"), str):
        return f"failed: {_without_folder(row['failed'])}"
    return "busy machine" if row.get("busy") is True or row.get("busy") == 1.0 else ""


def _without_folder(reason: str) -> str:
    """The reason without where the graph lay on the machine that measured it."""
    return re.sub(r"(?<!\w)/(?:[^\s/]+/)+", "", reason)


def _obert_name(printed: dict) -> str:
    kind = {"none": "dense", "4-block+QAT": "80% 4-block int8"}.get(printed["method"])
    return f"obert {printed['layers']} layers {kind or '{:.0f}% unstructured'.format(printed['sparsity'])}"


def _dense_deepsparse(measured: pd.DataFrame, batch: int | None) -> float | None:
    """Speed of the dense model in DeepSparse; XLM-R base has the same layers and stands in where BERT is not there."""
    for name in ("obert 12 layers dense", "base"):
        own = measured[
            (measured["case"] == name) & (measured["runtime"] == "deepsparse") & (measured["batch"] == batch)
        ]
        if len(own) and pd.notna(own["samples_per_second"].iloc[0]):
            return float(own["samples_per_second"].iloc[0])
    return None


def _gzip(record: dict | None) -> float | None:
    return next(iter(record["sizes"].values()))["gzip_megabytes"] if record else None


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None or pd.isna(one) or pd.isna(other) else one / other


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), digits)


def _whole(batch: float | None) -> str:
    return "" if batch is None or pd.isna(batch) else str(int(batch))
