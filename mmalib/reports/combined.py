"""Notebook 06, from records: table 8 beside the paper's, whether losses add up, and the best model for each goal."""

import math

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import COMBINED_STUDENTS, HALVED, of_kind
from mmalib.reports import figures, speed, speed_real, tables
from mmalib.reports.compare import of_part

PRINTED = {"80-q": "xlm_80_q", "90-q": "xlm_90_q", "distil-q": "distilbert_q"}  # ours → the paper's
MARKERS = ("o", "s", "^", "D", "v", "P")
KEEPS = 0.9  # of the float model's F1 in the unseen languages: below that, small or fast is no goal come true
FAITHFUL = "most faithful to the unseen languages"
GOALS = ("smallest", "fastest", FAITHFUL, f"{FAITHFUL}, zero-shot")


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    if not of_kind(records, "combination"):
        return {}
    drawn: dict[str, pd.DataFrame | Figure] = {"table_8": table_8(records), "table_combined": contents(records)}
    if not (losses := sums(records)).empty:
        drawn["table_sums"], drawn["sums"] = sums_table(losses), sums_figure(losses)
    if not (best := goals(records)).empty:
        drawn["table_best"] = best
    return drawn


def table_8(records: list[dict]) -> pd.DataFrame:
    """Table 8: F1 of every combined model as an int8 graph, what Spanish and Dutch lose, and the paper's.

    * has read text of the target languages, and is no zero-shot setting.
    """
    made = [_measured(record, whole_of(record, records)) for record in of_kind(records, "combination")]
    rows = []
    for (corpus, name), group in _groups(pd.DataFrame(made)):
        row = {"model": _label(group["label"].iloc[0], name), "source": f"this study, {corpus}", "seeds": len(group)}
        rows.append(row | tables.over_seeds(group))
    return pd.DataFrame([*rows, *tables.printed_rows(8)]).astype({"seeds": "Int64"})


def contents(records: list[dict]) -> pd.DataFrame:
    """What is in a combined model and what it weighs; its speed-up over the dense float baseline in ONNX Runtime."""
    made = [_measured(record, None) | _speed(record, records) for record in of_kind(records, "combination")]
    rows = []
    for (corpus, name), group in _groups(pd.DataFrame(made)):
        first, mean = group.iloc[0], group[["zeros", "zeros int8", "MB", "MB gzip", "parameters"]].mean()
        row = {"model": _label(first["label"], name), "corpus": corpus, "format": first["format"]}
        row |= {"million parameters": round(mean["parameters"] / 1e6, 2), "zeros before int8": f"{mean['zeros']:.1%}"}
        row |= {"zeros in int8": f"{mean['zeros int8']:.1%}", "MB": round(mean["MB"], 1)}
        row |= {"MB by gzip": round(mean["MB gzip"], 1)}
        rows.append(row | {key: first[key] for key in ("speed-up", "runtime", "batch")})
    return pd.DataFrame(rows)


def sums(records: list[dict]) -> pd.DataFrame:
    """Points of test F1 that the `parts` of a combined model lose alone, their sum, and what it loses itself."""
    rows, by_run = [], {record["run"]: record for record in records}
    for record in of_kind(records, "combination"):
        dense = whole_of(record, records)
        pairs = {part["what"]: (by_run.get(part["against"]), by_run.get(part["run"])) for part in parts(record)}
        if dense is None or not pairs or any(None in pair for pair in pairs.values()):
            continue
        for language in figures.COLOURS:
            row = {key: record["settings"][key] for key in ("combination", "label", "corpus", "seed")}
            alone = {what: 100 * (_f1(base, language) - _f1(run, language)) for what, (base, run) in pairs.items()}
            own = 100 * (_f1(dense, language) - _f1(record, language))
            row |= {"language": language, "predicted": sum(alone.values()), "measured": own, "alone": alone}
            rows.append(row)
    return pd.DataFrame(rows)


def sums_table(losses: pd.DataFrame) -> pd.DataFrame:
    """The parts' losses, their sum and the measured loss, in points of test F1, in the mean over seeds."""
    rows = []
    for (corpus, name, language), group in losses.groupby(["corpus", "combination", "language"]):
        alone = pd.DataFrame(list(group["alone"])).mean()
        row = {"model": _label(group["label"].iloc[0], name), "corpus": corpus, "language": language}
        row["alone"] = ", ".join(f"{what} {points:+.1f}" for what, points in alone.items())
        predicted, measured = group["predicted"].mean(), group["measured"].mean()
        row |= {"sum of the parts": round(predicted, 1), "measured loss": round(measured, 1)}
        rows.append(row | {"less than the sum by": round(predicted - measured, 1)})
    return pd.DataFrame(rows)


def sums_figure(losses: pd.DataFrame) -> Figure:
    """The loss that the parts predict against the measured one: a point a combination and language."""
    with figures.drawing(4.4, 3.0) as drawn:
        axes = drawn.subplots()
        names = list(dict.fromkeys(losses["combination"]))
        mean = losses.groupby(["combination", "language"], sort=False)[["predicted", "measured"]].mean()
        low, high = mean.to_numpy().min(), mean.to_numpy().max()
        room = 0.08 * max(1.0, high - low)
        ends = [min(0.0, low) - room, high + room]
        axes.plot(ends, ends, color="#BBBBBB", linewidth=0.8, zorder=0)
        for (name, language), point in mean.iterrows():
            marker = MARKERS[names.index(name) % len(MARKERS)]
            axes.plot(*point, marker, color=figures.COLOURS[language], markersize=5, markeredgecolor="white")
        for number, name in enumerate(names):
            label = _label(losses["label"].iloc[0], name)
            axes.plot([], [], MARKERS[number % len(MARKERS)], color="#555555", label=label)
        for language, colour in figures.COLOURS.items():
            axes.plot([], [], "s", color=colour, label=figures.LANGUAGE_NAMES[language])
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_xlabel("sum of what the parts lose alone (points of test F1)")
        axes.set_ylabel("what the combination loses")
        axes.set_title("Do the losses add up? Below the line: less is lost", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


def goals(records: list[dict]) -> pd.DataFrame:
    """The best int8 model of the study for each goal, chosen on dev sets and shown with its test F1.

    What must keep a language keeps `KEEPS` of the float model's F1 in Spanish and Dutch dev, and what is to be fast has
    been timed. The zero-shot model is chosen on English dev alone. All are of the first seed, which alone is timed.
    """
    rows, graphs = [], [*of_kind(records, "graph"), *of_kind(records, "combination")]
    first = min((record["settings"]["seed"] for record in graphs), default=0)
    for record in graphs:
        dense = whole_of(record, records)
        int8 = record["size"]["quantized"] and not record.get("same_as")
        if dense is None or not int8 or record["settings"]["seed"] != first:
            continue
        row = {"run": record["run"], "corpus": record["settings"]["corpus"]}
        row |= {"MB": round(record["size"]["megabytes"], 1)}
        row |= {"Spanish and Dutch text": target_text(record)} | _speed(record, records) | _scored_in(record, records)
        row["unseen F1 kept"] = _over((row["F1 es"] + row["F1 nl"]) / 2, unseen(dense, "test"))
        row["kept on dev"] = _over(unseen(record, "dev"), unseen(dense, "dev"))
        rows.append(row | {"unseen": unseen(record, "dev"), "english": _f1(record, "en", "dev")})
    if not rows:
        return pd.DataFrame()
    models, chosen = pd.DataFrame(rows), []
    for corpus, all_ in models.groupby("corpus"):
        good, blind = all_[all_["kept on dev"] >= KEEPS], all_[all_["Spanish and Dutch text"] == "none"]
        timed = good.dropna(subset=["speed-up"])
        orders = (-good["MB"], timed["speed-up"], all_["unseen"], blind["english"])
        for goal, candidates, order in zip(GOALS, (good, timed, all_, blind), orders, strict=True):
            best = {"run": f"none keeps {KEEPS:.0%}, or speeds are not measured"}
            if len(candidates):
                best = candidates.loc[order.idxmax()].drop(["unseen", "english", "kept on dev"]).to_dict()
            chosen.append({"goal": goal, "of": len(candidates), **best, "corpus": corpus})
    made = pd.DataFrame(chosen)
    made["unseen F1 kept"] = ["" if pd.isna(share) else f"{share:.0%}" for share in made["unseen F1 kept"]]
    return made


def whole_of(record: dict, records: list[dict]) -> dict | None:
    """The record of the float graph of the dense baseline: what a graph of notebook 05 or 06 is compared with."""
    return record if record["settings"].get("graph") == "float" else of_part(record, "float", records)


def parts(record: dict) -> list[dict[str, str]]:
    """The parts of a combination: each one's run, and the run that it is compared with.

    Nothing for those of `HALVED`: their int8 embedding has no run of its own that could be added up.
    """
    needs, name = record["needs"], record["settings"]["combination"]
    if "int8" not in needs:
        return []
    what = "smaller, taught" if name in COMBINED_STUDENTS else "sparse, taught"
    int8 = {"what": "int8 (QAT)", "run": needs["int8"], "against": needs["float"]}
    return [{"what": what, "run": needs["start"], "against": needs["base"]}, int8]


def _label(backbone: str, name: str) -> str:
    """A combination as the paper writes it; the star: text of the target languages was read, without its labels."""
    return f"{backbone}_{name.replace('-', '_')}{'*' * (name == 'distil-text-q')}"


def target_text(record: dict) -> str:
    """What a model has seen of Spanish and Dutch text since it was pretrained."""
    if record["settings"].get("start", record["settings"]).get("sees_target_text"):
        return "read, without labels"
    if len(record["settings"].get("floor_languages", ())) > 1:
        return "labelled dev sets chose its maps"
    return "for its subwords" if record["settings"].get("combination") in HALVED else "none"


def _measured(record: dict, dense: dict | None) -> dict:
    size = record["size"]
    row = {name: record["settings"][name] for name in ("combination", "label", "corpus", "seed", "format")}
    row |= tables.scores_of(record["scores"], dense and dense["scores"])
    row |= {"zeros": size["sparsity"], "zeros int8": size["sparsity_int8"], "parameters": record["parameters"]}
    return row | {"MB": size["megabytes"], "MB gzip": size["gzip_megabytes"]}


def _speed(record: dict, records: list[dict]) -> dict:
    """The fastest way in which a run's graph was timed; nan where it was not."""
    if not (timed := _timed(record, records)):
        return {"speed-up": math.nan, "runtime": "not measured", "batch": ""}
    row, _ = timed
    return {"speed-up": round(speed.reported(row)["ratio"], 2), "runtime": row["runtime"], "batch": str(row["batch"])}


def _scored_in(record: dict, records: list[dict]) -> dict:
    """Test F1 of a graph, in the runtime that it is fastest in where it was scored there, else in ONNX Runtime."""
    timed = _timed(record, records)
    runtime, f1 = speed_real.scored_in(*reversed(timed)) if timed else ("onnxruntime", None)
    f1 = f1 or {language: _f1(record, language) for language in figures.COLOURS}
    return {"F1 in": runtime, **{f"F1 {language}": round(value, 3) for language, value in f1.items()}}


def _timed(record: dict, records: list[dict]) -> tuple[dict, dict] | None:
    """The fastest row and its record, of those that timed a run's graph."""
    timed = [other for other in of_kind(records, "trained") if other["settings"]["model"] == record["run"]]
    rows = [(row, other) for other in timed for row in other["throughput"] if "failed" not in row]
    return max(rows, key=lambda pair: speed.chosen_by(pair[0])) if rows else None


def _over(one: float, other: float) -> float:
    return one / other if other else math.nan


def _f1(record: dict, language: str, split: str = "test") -> float:
    return record["scores"][language][split]["f1"]


def unseen(record: dict, split: str) -> float:
    """The mean F1 in Spanish and Dutch."""
    return (_f1(record, "es", split) + _f1(record, "nl", split)) / 2


def _groups(frame: pd.DataFrame):
    order = [*PRINTED, "distil-text-q", *HALVED]
    place = [order.index(name) if name in order else len(order) for name in frame["combination"]]
    ordered = frame.assign(place=place).sort_values(["corpus", "place", "seed"])
    return ordered.groupby(["corpus", "combination"], sort=False)
