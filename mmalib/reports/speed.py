"""Notebook 07, from records: speeds of random weights beside the paper's, and sizes; `speed_real` has the rest.

A speed-up is over dense float32 XLM-R base in ONNX Runtime, ours at the same batch and in turns. The paper prints that
baseline once, without a batch size (table 2: 18.7 samples/s); all its speed-ups here are over that number. Tables 7
and 9 are extracts of 11 and 10 and are drawn as such: the fastest batch of each model and runtime.
"""

import math
import re

import numpy as np
import pandas as pd

from mmalib.plan import of_kind
from mmalib.reports import speed_figures, tables
from mmalib.speed import throughput

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
OPEN = ("onnxruntime", "openvino", "torch")
WAYS = {"heads": "figure_6_7", "uniform": "figure_8_9"}


def draw(records: list[dict]) -> dict:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    measured = rows(records)
    drawn: dict = {}
    if not measured.empty:
        drawn |= {f"table_{number}": table(measured, number) for number in sorted([*PRINTED, *EXTRACTS])}
        drawn["table_speed_open"] = fastest(measured)
        drawn["speedups"] = speed_figures.speedups(measured, printed_best())
        for way, name in WAYS.items():
            if (measured["case"].str.startswith(way)).any():
                drawn[name] = speed_figures.shrinking(measured, way)
    if not (sized := table_17(records)).empty:
        drawn["table_17_obert"] = sized
    return drawn


def rows(records: list[dict]) -> pd.DataFrame:
    """One row for every case, runtime and batch, as `reported`; `failed` says why there is no speed."""
    lines = []
    for record in of_kind(records, "shape"):
        settings = record["settings"]
        about = {key: settings[key] for key in ("case", "shape", "depth", "zeros", "heads", "uniform", "int8")}
        for row in record["throughput"]:
            plain = {key: value for key, value in row.items() if not isinstance(value, (list, dict))}
            halves = {} if "failed" in row else {"chosen by": chosen_by(row), **reported(row)}
            lines.append(
                {"failed": None, "samples_per_second": None, "ratio": None, "busy": False, **plain, **halves, **about}
            )
    made = pd.DataFrame(lines)
    # The same case measured beside two corpora: the last one counts.
    return made.drop_duplicates(["case", "runtime", "batch"], keep="last").reset_index(drop=True) if lines else made


def table(measured: pd.DataFrame, number: int) -> pd.DataFrame:
    """One of the paper's tables: samples/s and speed-up, ours and the paper's, side by side."""
    if number in EXTRACTS:
        complete = table(measured, EXTRACTS[number])
        order = complete["samples/s"].fillna(complete["paper samples/s"] - 1e6).fillna(-1e9)  # what ran comes first
        best = complete.loc[order.groupby([complete["measured as"], complete["runtime"]]).idxmax()]
        return best.sort_index().reset_index(drop=True)
    paper = tables.paper(number)
    made = []
    for printed, names in PRINTED[number].items():
        theirs = paper[paper["model"] == printed]
        for name in names:
            ours = measured[measured["case"] == name]
            keys = list(dict.fromkeys(zip(ours["runtime"], ours["batch"], strict=True)))
            if ours.empty:
                sizes = theirs.get("batch_size", [math.nan] * len(theirs))
                keys = list(zip(theirs["runtime"], sizes, strict=True))
            for runtime, batch in keys:
                own = ours[(ours["runtime"] == runtime) & (ours["batch"] == batch)]
                speed, ratio = (own[key].iloc[0] if len(own) else None for key in ("samples_per_second", "ratio"))
                row = {"model": printed, "measured as": name, "runtime": runtime, "batch": _integer(batch)}
                row |= {"samples/s": rounded(speed, 1), "speed-up": rounded(ratio, 2)}
                made.append(row | _theirs(theirs, runtime, batch) | {"note": note(own)})
    return pd.DataFrame(made)


def fastest(measured: pd.DataFrame) -> pd.DataFrame:
    """The fastest cases in maintained open runtimes, each at its best batch and setting, and the paper's best.

    The best is chosen in every second turn and its speed-up read in the others.
    """
    speeds = measured.dropna(subset=["ratio"])
    is_open = speeds["runtime"].map(lambda name: name.split(":")[0] in OPEN)
    lines = []
    for kind, group in (("this study", speeds[is_open]), ("this study, closed runtime", speeds[~is_open])):
        best = group.sort_values("chosen by", ascending=False).drop_duplicates("case")
        for row in best.head(12 if kind == "this study" else 1).to_dict("records"):
            latency = None if throughput.overlaps(row["runtime"]) else round(row["milliseconds_p50"], 1)
            line = {"configuration": row["case"], "source": kind, "runtime": row["runtime"]}
            line |= {"batch": _integer(row["batch"]), "samples/s": round(row["samples_per_second"], 1)}
            line |= {"speed-up": round(row["ratio"], 2), "F1": "no F1: random weights", "p50 ms a batch": latency}
            lines.append(line | {"note": note(pd.DataFrame([row]))})
    printed = _best_printed()
    line = {"configuration": printed["model"], "source": "paper", "runtime": printed["runtime"]}
    line |= {"batch": _integer(printed["batch_size"]), "samples/s": printed["throughput"]}
    line |= {"speed-up": round(printed_best(), 2), "F1": _printed_f1(printed["model"])}
    table = pd.DataFrame([*lines, line | {"p50 ms a batch": None, "note": ""}])
    return table.sort_values("speed-up", ascending=False, kind="stable", ignore_index=True)


def printed_best() -> float:
    """The paper's largest speed-up, over its own dense model in ONNX Runtime."""
    return _best_printed()["throughput"] / printed_base()


def table_17(records: list[dict]) -> pd.DataFrame:
    """The Optimal BERT Surgeon's table 17: speed-up over the dense model in DeepSparse, size by gzip."""
    sized = {r["settings"]["case"]: r for r in of_kind(records, "shape") if r.get("sizes")}
    measured = rows(records)
    dense_size = _gzip(sized.get("obert 12 layers dense"))
    made = []
    for printed in tables.paper("obert").to_dict("records"):
        name = _obert_name(printed)
        if name not in sized:
            continue
        own = measured[(measured["case"] == name) & (measured["runtime"] == "deepsparse")]
        batch, speed = (own["batch"].iloc[0], own["samples_per_second"].iloc[0]) if len(own) else (None, None)
        dense = _dense_deepsparse(measured, batch)
        size = _gzip(sized[name])
        row = {"layers": printed["layers"], "zeros": f"{printed['sparsity']}%", "method": printed["method"]}
        row |= {"batch": _integer(batch), "samples/s": rounded(speed, 1)}
        row |= {"speed-up": rounded(over(speed, dense), 2), "paper speed-up": printed["speedup"]}
        row |= {"MB by gzip": rounded(size, 1), "paper MB": printed["gzip_mb"]}
        row |= {"smaller by": rounded(over(dense_size, size), 2), "paper smaller by": printed["compression"]}
        made.append(row | {"note": note(own)})
    return pd.DataFrame(made)


def _best_printed() -> dict:
    printed = pd.concat([tables.paper(number) for number in PRINTED], ignore_index=True)
    return printed.loc[printed["throughput"].idxmax()].to_dict()


def _printed_f1(model: str) -> str:
    row = tables.paper(8).set_index("model").loc[model]
    return ", ".join(f"{language} {row[f'{language}_test']:.3f}" for language in ("en", "es", "nl"))


def printed_base() -> float:
    base = tables.paper(2)
    return float(base[base["runtime"] == "onnxruntime"]["throughput"].iloc[0])


def _theirs(theirs: pd.DataFrame, runtime: str, batch: float) -> dict:
    same = theirs[theirs["runtime"] == runtime]
    if "batch_size" in same:  # table 2 does not say at which batch
        same = same[same["batch_size"] == batch]
    value = float(same["throughput"].iloc[0]) if len(same) else None
    return {"paper samples/s": value, "paper speed-up": rounded(over(value, printed_base()), 2)}


def note(own: pd.DataFrame) -> str:
    """Why there is no speed, or why it is not to be trusted; usually nothing."""
    if own.empty:
        return "not measured"
    row = own.iloc[0]
    if isinstance(row.get("failed"), str):  # without where the graph lay on the machine that measured it
        return "failed: " + re.sub(r"(?<!\w)/(?:[^\s/]+/)+", "", row["failed"])
    return "busy machine" if row.get("busy") == 1.0 else ""


def _obert_name(printed: dict) -> str:
    kind = {"none": "dense", "4-block+QAT": "80% 4-block int8"}.get(printed["method"])
    return f"obert {printed['layers']} layers {kind or '{:.0f}% unstructured'.format(printed['sparsity'])}"


def _dense_deepsparse(measured: pd.DataFrame, batch: int | None) -> float | None:
    """Speed of the dense model in DeepSparse; XLM-R base has the same layers and stands in where BERT is not there."""
    for name in ("obert 12 layers dense", "base"):
        own = measured[(measured[["case", "runtime", "batch"]] == [name, "deepsparse", batch]).all(axis=1)]
        if len(own) and pd.notna(own["samples_per_second"].iloc[0]):
            return float(own["samples_per_second"].iloc[0])
    return None


def _gzip(record: dict | None) -> float | None:
    return next(iter(record["sizes"].values()))["gzip_megabytes"] if record else None


def over(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None or pd.isna(one) or pd.isna(other) else one / other


def chosen_by(row: dict) -> float:
    """What the fastest way of several is chosen by: the ratio in every second turn."""
    return float(np.median(_ratios(row, slice(0, None, 2)) or row["ratio"]))


def reported(row: dict) -> dict[str, float]:
    """The ratio in the other turns, with its quartiles: what won by luck where it was chosen has no luck here."""
    if not (ratios := _ratios(row, slice(1, None, 2))):
        return {name: value for name, value in row.items() if name.startswith("ratio")}
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    return {"ratio": middle, "ratio_low": low, "ratio_high": high}


def _ratios(row: dict, turns: slice) -> list[float]:
    pairs = list(zip(row.get("samples", ()), row.get("baseline_samples", ()), strict=True))[turns]
    return [ours / base for ours, base in pairs]


def rounded(value: float | None, digits: int) -> float | None:
    """A number of a table; none stays none."""
    return None if value is None or pd.isna(value) else round(float(value), digits)


def _integer(batch: float | None) -> str:
    return "" if batch is None or pd.isna(batch) else str(int(batch))
