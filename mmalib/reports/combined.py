"""Notebook 06, from records: table 8 beside the paper's, whether losses add up, and the best model for each goal."""

import math

import pandas as pd

from mmalib.plan import COMBINED_STUDENTS, HALVED, OPEN_TEXT, of_kind
from mmalib.reports import figures, speed, tables

PRINTED = {"80-q": "xlm_80_q", "90-q": "xlm_90_q", "distil-q": "distilbert_q"}  # ours → the paper's
KEEPS = 0.9  # of the float model's F1 in the unseen languages: below that, small or fast is no goal come true
FAITHFUL = "most faithful to the unseen languages"
READING = [name for name, setting in COMBINED_STUDENTS.items() if setting in ("unlabelled", OPEN_TEXT)]
READ, OPEN, BY_LABELS = "read, without labels", "open text, without labels", "labelled dev sets chose its maps"
HAS_READ = (READ, OPEN)  # what `target_text` says of models that are no zero-shot ones
GOALS = ("smallest", "fastest", FAITHFUL, f"{FAITHFUL}, zero-shot")


def table_8(records: list[dict]) -> pd.DataFrame:
    """Table 8: F1 of every combined model as an int8 graph, what Spanish and Dutch lose, and the paper's.

    * has read text of the target languages, and is no zero-shot setting.
    """
    rows = [
        {"model": _label(record), "source": f"this study, {record['settings']['corpus']}"}
        | tables.scores_of(record, whole_of(record, records))
        for record in _combinations(records)
    ]
    return tables.beside_paper(tables.over_seeds(rows, ("model", "source", "seeds")), 8)


def contents(records: list[dict]) -> pd.DataFrame:
    """What is in a combined model and what it weighs; its speed-up over the paper's dense baseline, XLM-R base."""
    about, speeds = ["model", "corpus", "format"], ["speed-up", "runtime", "batch"]
    made = pd.DataFrame(
        {"model": _label(record), "corpus": record["settings"]["corpus"], "format": record["settings"]["format"]}
        | {"million parameters": record["parameters"] / 1e6, "zeros before int8": size["sparsity"]}
        | {"zeros in int8": size["sparsity_int8"], "MB": size["megabytes"], "MB by gzip": size["gzip_megabytes"]}
        | _fastest(record, records)
        for record in _combinations(records)
        if (size := record["size"])
    )
    sizes = ["million parameters", "zeros before int8", "zeros in int8", "MB", "MB by gzip"]
    mean = made.groupby(about, sort=False)[sizes].mean().round({"million parameters": 2, "MB": 1, "MB by gzip": 1})
    mean = tables.percent(mean, {"zeros before int8": 1, "zeros in int8": 1})
    return mean.join(made.drop_duplicates(about).set_index(about)[speeds]).reset_index()


def sums(records: list[dict]) -> pd.DataFrame:
    """Points of test F1 that the `parts` of a combined model lose alone, their sum, and what it loses itself."""
    rows, there = [], {record["run"]: record for record in records}
    for record in _combinations(records):
        dense = whole_of(record, records)
        pairs = {part["what"]: (there.get(part["against"]), there.get(part["run"])) for part in parts(record)}
        if dense is None or not pairs or any(None in pair for pair in pairs.values()):
            continue
        row = {"model": _label(record), "corpus": record["settings"]["corpus"]}
        row["combination"] = record["settings"]["combination"]
        for language in figures.COLOURS:
            alone = {what: 100 * (_f1(base, language) - _f1(run, language)) for what, (base, run) in pairs.items()}
            lost = 100 * (_f1(dense, language) - _f1(record, language))
            rows.append(row | {"language": language, "predicted": sum(alone.values()), "measured": lost} | alone)
    return pd.DataFrame(rows)


def sums_table(records: list[dict]) -> pd.DataFrame:
    """The parts' losses, their sum and the measured loss, in points of test F1, in the mean over seeds."""
    if (losses := sums(records)).empty:
        return losses
    mean = losses.groupby(["corpus", "combination", "model", "language"]).mean().reset_index()
    alone = mean.filter(["sparse, taught", "smaller, taught", "int8 (QAT)"])
    parts = [", ".join(f"{what} {lost:+.1f}" for what, lost in row.dropna().items()) for _, row in alone.iterrows()]
    made = mean[["model", "corpus", "language"]].assign(alone=parts)
    made["sum of the parts"], made["measured loss"] = mean["predicted"].round(1), mean["measured"].round(1)
    return made.assign(**{"less than the sum by": (mean["predicted"] - mean["measured"]).round(1)})


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
        row |= {"MB": round(record["size"]["megabytes"], 1), "Spanish and Dutch text": target_text(record["settings"])}
        row |= _fastest(record, records)
        row["unseen F1 kept"] = (row["F1 es"] + row["F1 nl"]) / 2 / (tables.unseen(dense, "test") or math.nan)
        row["kept on dev"] = tables.unseen(record, "dev") / (tables.unseen(dense, "dev") or math.nan)
        rows.append(row | {"unseen": tables.unseen(record, "dev"), "english": _f1(record, "en", "dev")})
    chosen = []
    for corpus, models in pd.DataFrame(rows).groupby("corpus") if rows else ():
        models = models.sort_values("unseen", ascending=False, kind="stable")  # among equals the first is taken
        good, blind = models[models["kept on dev"] >= KEEPS], models[models["Spanish and Dutch text"] == "none"]
        orders = (-good["MB"], good["speed-up"].dropna(), models["unseen"], blind["english"])
        for goal, order in zip(GOALS, orders, strict=True):
            best = {"run": f"none keeps {KEEPS:.0%}, or speeds are not measured"}
            if len(order):
                best = models.loc[order.idxmax()].drop(["unseen", "english", "kept on dev"]).to_dict()
            chosen.append({"goal": goal, "of": len(order), **best, "corpus": corpus})
    return tables.percent(pd.DataFrame(chosen), {"unseen F1 kept": 0})


def whole_of(record: dict, records: list[dict]) -> dict | None:
    """The record of the float graph of the dense baseline: what a graph of notebook 05 or 06 is compared with."""
    return record if record["settings"].get("graph") == "float" else tables.of_part(record, "float", records)


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


def _combinations(records: list[dict]) -> list[dict]:
    """In the order of the table, what is in none of the profiles' last."""
    place = {name: number for number, name in enumerate((*PRINTED, *READING, *HALVED))}
    return sorted(
        of_kind(records, "combination"),
        key=lambda record: (record["settings"]["corpus"], place.get(record["settings"]["combination"], len(place))),
    )


def _label(record: dict) -> str:
    """A combination as the paper writes it; the star: text of the target languages was read, without its labels."""
    name = record["settings"]["combination"]
    return f"{record['settings']['label']}_{name.replace('-', '_')}{'*' * (name in READING)}"


def target_text(settings: dict) -> str:
    """What the model of a run has seen of Spanish and Dutch text since it was pretrained."""
    start = settings.get("start", settings)
    if start.get("sees_target_text") or "es" in start.get("languages", ()):  # the second: while pruned upstream
        return OPEN if start.get("text") == "folder" else READ
    if len(settings.get("floor_languages", ())) > 1:
        return BY_LABELS
    return "to choose subwords" if is_cut(settings) else "none"


def is_cut(settings: dict) -> bool:
    """Whether the vocabulary was cut: by the run itself, or on the way to a combination."""
    return settings.get("method") in ("vocabulary", "halved") or settings.get("combination") in HALVED


def _fastest(record: dict, records: list[dict]) -> dict:
    """The fastest way in which a run's graph was timed; its test F1, in that runtime where it was scored there."""
    made = {"speed-up": math.nan, "runtime": "not measured", "batch": ""}
    scored_in, f1 = "onnxruntime", None
    timed = [other for other in of_kind(records, "trained") if other["settings"]["model"] == record["run"]]
    if rows := [(row, other) for other in timed for row in other["throughput"] if "failed" not in row]:
        row, other = max(rows, key=lambda pair: speed.chosen_by(pair[0]))
        ratio = round(speed.reported(row)["ratio"], 2)
        made = {"speed-up": ratio, "runtime": row["runtime"], "batch": str(row["batch"])}
        scored_in, f1 = speed.scored_in(other, row)
    f1 = f1 or {language: _f1(record, language) for language in figures.COLOURS}
    return made | {"F1 in": scored_in} | {f"F1 {language}": round(value, 3) for language, value in f1.items()}


def _f1(record: dict, language: str, split: str = "test") -> float:
    return record["scores"][language][split]["f1"]
