"""Notebook 07, from records: speeds of random weights beside the paper's, and sizes; `speed_real` has the rest.

A speed-up is over dense float32 XLM-R base in ONNX Runtime, ours at the same batch and in turns. The paper prints that
baseline once, without a batch size (table 2: 18.7 samples/s); all its speed-ups here are over that number. Tables 7
and 9 are extracts of 11 and 10 and are drawn as such: the fastest batch of each model and runtime, as in `fastest`.
"""

import re
from functools import cache
from math import nan

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalib import runtimes
from mmalib.plan import of_kind
from mmalib.reports import figures, tables
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
RUNTIMES = {  # name → (how it is written, colour, marker); colours are none of a language's
    "onnxruntime": ("ONNX Runtime", "#CCBB44", "o"),
    "openvino": ("OpenVINO", "#66CCEE", "s"),
    "deepsparse": ("DeepSparse", "#AA3377", "D"),
    "torch": ("PyTorch, int8", "#228833", "^"),
}
SHADES = {1: "#88AACC", 4: "#4477AA", 8: "#223355"}  # batch → colour
FEW = 5  # turns
TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def rows(records: list[dict], held_out: bool = False) -> pd.DataFrame:
    """One row for every case, runtime and batch, of all turns or as `reported`; `failed` says why there is no speed."""
    lines = []
    for record in of_kind(records, "shape"):
        settings = record["settings"]
        about = {key: settings[key] for key in ("case", "shape", "depth", "zeros", "heads", "uniform", "int8")}
        about["case"] = settings["label"]  # which tells what was changed, where something was
        for row in record["throughput"]:
            plain = {key: value for key, value in row.items() if not isinstance(value, (list, dict))}
            plain |= {} if "failed" in row else {"chosen by": chosen_by(row)} | reported(row, held_out)
            lines.append({"failed": None, "samples_per_second": nan, "ratio": nan, "busy": False} | plain | about)
    made = pd.DataFrame(lines)
    # The same case measured beside two corpora: the last one counts.
    return made.drop_duplicates(["case", "runtime", "batch"], keep="last").reset_index(drop=True) if lines else made


def table(records: list[dict], number: int) -> pd.DataFrame:
    """One of the paper's tables: samples/s and speed-up, ours and the paper's, side by side."""
    complete = EXTRACTS.get(number, number)
    measured = rows(records, held_out=number in EXTRACTS)
    paper, made = tables.paper(complete).rename(columns={"batch_size": "batch"}), []
    same = [name for name in ("runtime", "batch") if name in paper]  # table 2 does not say at which batch
    for printed, names in PRINTED[complete].items():
        theirs = paper.loc[paper["model"] == printed, [*same, "throughput"]]
        for name in names:
            ours = measured[measured["case"] == name]
            for own in (theirs if ours.empty else ours.merge(theirs, "left", same)).to_dict("records"):
                row = {"model": printed, "measured as": name, "runtime": own["runtime"], "batch": _integer(own)}
                row |= {"samples/s": round(own.get("samples_per_second", nan), 1), "best": own.get("chosen by", nan)}
                row |= {"speed-up": round(own.get("ratio", nan), 2), "paper samples/s": own["throughput"]}
                made.append(row | {"paper speed-up": round(own["throughput"] / printed_base(), 2), "note": note(own)})
    made = pd.DataFrame(made)
    if number in EXTRACTS:
        order = made["best"].fillna(made["paper samples/s"] - 1e6).fillna(-1e9)  # what ran comes first
        made = made.loc[order.groupby([made["measured as"], made["runtime"]]).idxmax()].sort_index()
    return made.drop(columns="best").reset_index(drop=True)


def fastest(records: list[dict]) -> pd.DataFrame:
    """The fastest cases in maintained open runtimes, each at its best batch and setting, and the paper's best.

    The best is chosen in every second turn and its speed-up read in the others.
    """
    speeds = rows(records, held_out=True).dropna(subset=["ratio"]).sort_values("chosen by", ascending=False)
    is_open = speeds["runtime"].str.split(":").str[0].isin(OPEN)
    lines = []
    for source, group, most in (("", speeds[is_open], 12), (", closed runtime", speeds[~is_open], 1)):
        for row in group.drop_duplicates("case").head(most).to_dict("records"):
            line = {"configuration": row["case"], "source": f"this study{source}", "runtime": row["runtime"]}
            line |= {"batch": _integer(row), "samples/s": round(row["samples_per_second"], 1)}
            line |= {"speed-up": round(row["ratio"], 2), "F1": "no F1: random weights"}
            latency = nan if throughput.overlaps(row["runtime"]) else round(row["milliseconds_p50"], 1)
            lines.append(line | {"p50 ms a batch": latency, "note": note(row)})
    printed = _best_printed()
    f1 = tables.paper(8).set_index("model").loc[printed["model"]]
    line = {"configuration": printed["model"], "source": "paper", "runtime": printed["runtime"]}
    line |= {"batch": _integer({"batch": printed["batch_size"]}), "samples/s": printed["throughput"]}
    line |= {"speed-up": round(printed_best(), 2), "p50 ms a batch": nan, "note": ""}
    line |= {"F1": ", ".join(f"{language} {f1[f'{language}_test']:.3f}" for language in figures.COLOURS)}
    return pd.DataFrame([*lines, line]).sort_values("speed-up", ascending=False, kind="stable", ignore_index=True)


def table_17(records: list[dict]) -> pd.DataFrame:
    """The Optimal BERT Surgeon's table 17: speed-up over the dense model in DeepSparse, size by gzip.

    XLM-R base has the same layers and stands in where the dense BERT was not measured at a batch.
    """
    sizes = {
        record["settings"]["case"]: next(iter(record["sizes"].values()))["gzip_megabytes"]
        for record in of_kind(records, "shape")
        if record.get("sizes")
    }
    measured, made = rows(records), []
    for printed in tables.paper("obert").to_dict("records"):
        if (name := _obert_name(printed)) not in sizes:
            continue
        here = measured[measured["runtime"] == "deepsparse"]
        for own in here[here["case"] == name].to_dict("records") or [{}]:
            alike = here[here["batch"] == own.get("batch")].set_index("case")["samples_per_second"].dropna()
            dense = next((alike[case] for case in ("obert 12 layers dense", "base") if case in alike), nan)
            speed = own.get("samples_per_second", nan)
            row = {"layers": printed["layers"], "zeros": f"{printed['sparsity']}%", "method": printed["method"]}
            row |= {"batch": _integer(own), "samples/s": round(speed, 1)}
            row |= {"speed-up": round(speed / dense, 2), "paper speed-up": printed["speedup"]}
            row |= {"MB by gzip": round(sizes[name], 1), "paper MB": printed["gzip_mb"]}
            row |= {"smaller by": round(sizes.get("obert 12 layers dense", nan) / sizes[name], 2)}
            made.append(row | {"paper smaller by": printed["compression"], "note": note(own)})
    return pd.DataFrame(made)


def speedups(records: list[dict]) -> Figure:
    """Every case at its best batch, as in `fastest`: a dot a runtime, logarithmic; the paper's best as a line."""
    speeds, papers = rows(records, held_out=True).dropna(subset=["ratio"]).sort_values("chosen by"), printed_best()
    speeds = speeds[~speeds["case"].str.startswith("obert")]  # they have a table of their own
    speeds = speeds[~speeds["runtime"].str.contains("precision")]  # which was timed of one case alone
    best = speeds.groupby(["case", speeds["runtime"].str.split(":").str[0]])["ratio"].last().unstack()
    best = best.loc[best.max(axis=1).sort_values().index]
    with figures.drawing(6.9, 0.9 + 0.17 * len(best)) as drawn:
        axes = drawn.subplots()
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.3}
        for family, (name, colour, marker) in RUNTIMES.items():
            if family in best:
                axes.plot(best[family], range(len(best)), marker, color=colour, label=name, **edge)
        axes.axvline(papers, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        text, where = f"the paper's best\n{papers:.1f}×, DeepSparse", ("data", "axes fraction")
        figures.note(axes, text, (papers, 0.01), xycoords=where, va="bottom")
        axes.set_yticks(range(len(best)), best.index)
        axes.set_ylim(-0.7, len(best) - 0.3)
        log_x_(axes, best.stack().tolist() + [papers * 2])
        axes.set_xlabel("speed-up over dense float32 base in ONNX Runtime, at the best batch")
        drawn.legend(loc="outside upper right", ncols=3)
    return drawn


def shrinking(records: list[dict], way: str) -> Figure | None:
    """Samples a second against the share of heads ("heads"), or of heads and neurons ("uniform"), that is gone."""
    measured = rows(tables.planned(records))
    if measured.empty or not (of_way := measured["case"].str.startswith(f"{way} ")).any():
        return None
    kept = measured[of_way | (measured["case"] == "base")].dropna(subset=["ratio"])
    names = [name for name in RUNTIMES if (kept["runtime"] == name).any()]
    markers = dict(zip(sorted(kept["batch"].unique()), "os^DvP*X", strict=False))
    with figures.drawing(6.9, 2.3) as drawn:
        panels = drawn.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            for batch, line in kept[kept["runtime"] == name].sort_values(way).groupby("batch"):
                middle, look = line["samples_per_second"], {"marker": markers[batch], "capsize": 2, "elinewidth": 0.6}
                spread = [middle - line["samples_per_second_low"], line["samples_per_second_high"] - middle]
                colour = SHADES.get(batch, "#4477AA")
                axes.errorbar(line[way], middle, spread, color=colour, label=f"batch {batch}", **look)
            axes.set_title(RUNTIMES[name][0], loc="left")
            axes.set(xlim=(-0.04, 1), xticks=[0, 0.25, 0.5, 0.75, 1])
            axes.xaxis.set_major_formatter("{x:.0%}")
        panels[0].set(ylim=(0, None), ylabel="samples/s, length 128")
        what = {"heads": "all heads, wherever they were", "uniform": "heads and feed-forward neurons, every layer"}[way]
        drawn.supxlabel(f"share removed of {what}", fontsize=8)
        panels[0].legend(loc="upper left")
    return drawn


def _best_printed() -> dict:
    printed = pd.concat([tables.paper(number) for number in PRINTED], ignore_index=True)
    return printed.loc[printed["throughput"].idxmax()].to_dict()


def printed_best() -> float:
    """The paper's largest speed-up, over its own dense model in ONNX Runtime."""
    return _best_printed()["throughput"] / printed_base()


@cache
def printed_base() -> float:
    """Samples a second of the paper's own dense model in ONNX Runtime."""
    return tables.paper(2).set_index("runtime").loc["onnxruntime", "throughput"]


def note(row: dict) -> str:
    """Why there is no speed, or why it is not to be trusted; usually nothing."""
    if isinstance(row.get("failed"), str):  # without where the graph lay on the machine that measured it
        return "failed: " + re.sub(r"(?<!\w)/(?:[^\s/]+/)+", "", row["failed"])
    return ("busy machine" if row.get("busy") else "") if "ratio" in row else "not measured"


def _obert_name(printed: dict) -> str:
    kind = {"none": "dense", "4-block+QAT": "80% 4-block int8"}.get(printed["method"])
    return f"obert {printed['layers']} layers {kind or '{:.0f}% unstructured'.format(printed['sparsity'])}"


def chosen_by(row: dict) -> float:
    """What the fastest way of several is chosen by: the ratio in every second turn."""
    return float(np.median(_ratios(row, slice(0, None, 2)) or row["ratio"]))


def reported(row: dict, held_out: bool = True) -> dict[str, float]:
    """The ratio in the other turns, or in all, with its quartiles: what won by luck has no luck there."""
    if not (ratios := _ratios(row, slice(held_out, None, 1 + held_out))):
        return {name: value for name, value in row.items() if name.startswith("ratio")}
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    if len(ratios) < FEW:  # quartiles of so few say little: the range of all turns
        low, high = min(every := _ratios(row, slice(None))), max(every)
    return {"ratio": middle, "ratio_low": low, "ratio_high": high, "turns": len(ratios)}


def scored_in(record: dict, row: dict) -> tuple[str, dict[str, float]]:
    """The runtime that a trained model's F1 is of, and the F1: the row's own where the graph was scored there."""
    runtime = runtimes.numbers(row["runtime"])
    if runtime in (by_runtime := record.get("f1_in", {})):
        return runtime, by_runtime[runtime]
    return ("onnxruntime" if record["settings"]["trained_in"] in ("05", "06") else "pytorch"), record["f1"]


def _ratios(row: dict, turns: slice) -> list[float]:
    pairs = list(zip(row.get("samples", ()), row.get("baseline_samples", ()), strict=True))[turns]
    return [ours / base for ours, base in pairs]


def _integer(row: dict) -> str:
    """The batch of a row, if it has one."""
    return f"{row['batch']:.0f}" if row.get("batch", nan) > 0 else ""


def log_x_(axes: Axes, values: list[float]) -> None:
    """Speed-ups from left to right, each twice the one before; where they lie close, with one in between."""
    between = [1.5 * tick for tick in TICKS] if max(values) < 4 * min(values) else []
    ticks = sorted([*TICKS, *between])
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(values) * 0.8, max(values) * 1.25)
