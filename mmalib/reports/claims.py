"""The paper's nine claims, each with a verdict that code computes from records, the numbers, and the runs they are of.

F1 is that of the test sets. A mean over several seeds stands with the lowest and the highest seed; where there is one
seed, with the 95% bootstrap interval over sentences. A speed stands with its quartiles over turns. A claim is
contradicted where such an interval lies wholly on the other side. What one seed has no interval for (where a curve
falls, sums of losses) contradicts nothing. The rules for F1 are in `verdicts`.
"""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from mmalib import plan
from mmalib.plan import CRITERIA, INT8_KINDS, of_kind
from mmalib.reports import combined, intervals, speed, verdicts
from mmalib.reports.compare import of_the_study
from mmalib.reports.intervals import LANGUAGES, NOTHING, Seed
from mmalib.reports.unstructured import gradual_runs
from mmalib.reports.verdicts import CONTRADICTED, FAILS, HOLDS, MISSING

NOTHING_LEFT = "next to nothing is found in English either"
ADDS_UP = 2.0  # points between a sum and a loss: half of the interval of one F1 on the whole Spanish test set
SPEEDUP, NEARLY = 11.5, 0.9  # the paper's number; another CPU may miss a tenth of it
FASTEST = ("base 90% 4-block int8", "base 90% unstructured int8")  # the paper's xlm_90_q; it does not say the pattern

Answer = tuple[str, str, list[str]]  # verdict, numbers as text, names of runs


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """The claims with their numbers and records, and the verdicts alone; on CoNLL where any run is on it."""
    judged = of_the_study(records)
    if not judged:
        return {}
    corpus = _corpus(judged)
    rows = []
    for number, (claim, answer) in enumerate(CLAIMS, start=1):
        verdict, numbers, runs = answer(judged)
        row = {"claim": f"{number}. {claim}", "corpus": corpus, "verdict": verdict, "numbers": numbers}
        rows.append(row | {"records": ", ".join(dict.fromkeys(runs))})
    claims = pd.DataFrame(rows)
    return {"claims": claims, "verdicts": claims[["claim", "verdict"]]}


def _claim_1(records: list[dict]) -> Answer:
    """From the trajectories that take heads wherever they are."""
    return _judged(
        records,
        ("structured",),
        lambda *where: {"heads": plan.structured_name("heads", *where)},
        verdicts.half_of_heads,
    )


def _claim_2(records: list[dict]) -> Answer:
    """From the trajectories that leave every layer as many heads."""
    return _judged(
        records,
        ("structured",),
        lambda *where: {"uniform": plan.structured_name("uniform", *where)},
        verdicts.equal_heads,
    )


def _claim_3(records: list[dict]) -> Answer:
    """From the gradual runs of all three criteria, at each sparsity."""
    shares = sorted(
        {run["settings"]["share"] for run in gradual_runs(records) if run["settings"]["schedule"] == "cubic"}
    )
    if not shares:
        return _lacking(["gradual runs of notebook 03"])

    def answer(share: float) -> Answer:
        def wanted(*where) -> dict[str, str]:
            names = {name: plan.gradual_name(name, share, "cubic", *where) for name in CRITERIA}
            return {"dense": plan.baseline_name(*where)} | names

        return _judged(records, ("gradual",), wanted, verdicts.criteria)

    return _agreed({f"{share:.0%} sparse": answer(share) for share in shares})


def _claim_4(records: list[dict]) -> Answer:
    """From the second-order runs with the cubic and with the linear curve, at the highest sparsity."""
    shares = [run["settings"]["share"] for run in gradual_runs(records) if run["settings"]["method"] == "obs"]
    if not shares:
        return _lacking(["gradual runs of notebook 03 by second order"])

    def wanted(*where) -> dict[str, str]:
        names = {name: plan.gradual_name("obs", max(shares), name, *where) for name in ("cubic", "linear")}
        return {"dense": plan.baseline_name(*where)} | names

    return _judged(records, ("gradual",), wanted, verdicts.curves)


def _claim_5(records: list[dict]) -> Answer:
    """From every student with and without the teacher."""

    def wanted(*where) -> dict[str, str]:
        return {setting: plan.student_name(where[0], setting, *where[1:]) for setting in ("plain", "teacher")}

    return _judged(records, ("student",), wanted, verdicts.taught, needed=("en",))


def _claim_6(records: list[dict]) -> Answer:
    """From the float graph, the paper's four kinds of int8, and their paired differences."""

    def wanted(*where) -> dict[str, str]:
        graphs = {graph: plan.graph_name(graph, *where) for graph in ("float", *INT8_KINDS)}
        return graphs | {"changed words": plan.changed_words_name(*where)}

    return _judged(records, ("graph",), wanted, verdicts.int8)


def _claim_7(records: list[dict]) -> Answer:
    """Static is faster wherever both run; against it: slower everywhere, beyond the quartiles."""
    names = {case: plan.speed_name(case, _corpus(records)) for case in ("base int8", "base dynamic")}
    if lacking := [run for run in names.values() if run not in {record["run"] for record in records}]:
        return _lacking(lacking)
    pairs, failed, text, busy = {}, [], [], False
    for (runtime, batch), rows in speed.rows(records).groupby(["runtime", "batch"]):
        found = {row["case"]: row for row in rows.to_dict("records") if row["case"] in names}
        if len(found) == 2 and all(pd.notna(row["ratio"]) for row in found.values()):
            busy |= any(row.get("busy") == 1 for row in found.values())
            pairs.setdefault(runtime, {})[batch] = intervals.times(found["base int8"], found["base dynamic"])
        else:
            failed += [f"{case} in {runtime}" for case, row in found.items() if pd.isna(row["ratio"])]
    for runtime, of_runtime in pairs.items():
        batches = ", ".join(
            f"{intervals.show(each, digits=2)} at batch {batch:.0f}" for batch, each in of_runtime.items()
        )
        text.append(f"static over dynamic in {runtime}: {batches}")
    text += [f"failed: {', '.join(dict.fromkeys(failed))}"] * bool(failed)
    text += ["the machine was busy"] * busy
    every = [each for of_runtime in pairs.values() for each in of_runtime.values()]
    verdict = HOLDS if all(each.mean > 1 for each in every) else FAILS
    verdict = CONTRADICTED if all(each.high < 1 for each in every) else verdict
    return (verdict if every else MISSING), "; ".join(text or ["no runtime ran both"]), list(names.values())


def _claim_8(records: list[dict]) -> Answer:
    """Each loss is about its parts' sum; against it: no combination's is, in any seed."""
    made = [record for record in of_kind(records, "combination") if combined.parts(record)]
    there = {record["run"]: record for record in records}
    if not made:
        return _lacking(["runs of notebook 06"])
    needed = {run["run"]: _needed(run) for run in made}
    lacking = sorted({name for names in needed.values() for name in names if name not in there})
    whole = [record for record in made if set(needed[record["run"]]) <= set(there)]
    if not whole:
        return _lacking(lacking)
    of_whole = {name for record in whole for name in (record["run"], *needed[record["run"]])}
    runs = [name for name in there if name in of_whole]
    if empty := _finding_nothing([combined.whole_of(record, records) for record in whole], LANGUAGES):
        return MISSING, empty, runs
    dead = [name for name in runs if there[name]["scores"] and intervals.f1(there[name], "en").mean < NOTHING]
    found, lost, off = combined.sums(records), {}, {}
    for (name, language), group in found.groupby(["combination", "language"], sort=False):
        means = f"{language} {group['measured'].mean():.1f} for {group['predicted'].mean():.1f}"
        lost.setdefault(name, []).append(means)
        apart = group["measured"] - group["predicted"]
        off.setdefault(name, {})[language] = intervals.spread([intervals.exact(points) for points in apart])
    text = [f"{name} loses {', '.join(each)} ({intervals.points(off[name])})" for name, each in lost.items()]
    text = ["points lost for the sum of the parts (and what lies between): " + "; ".join(text)]
    text += [f"{NOTHING_LEFT}: {', '.join(dead)}"] * bool(dead) + [f"lacks {', '.join(lacking)}"] * bool(lacking)
    beyond = [any(max(each.low, -each.high) > ADDS_UP for each in of_name.values()) for of_name in off.values()]
    if not dead and all(abs(each.mean) <= ADDS_UP for of_name in off.values() for each in of_name.values()):
        return HOLDS, "; ".join(text), runs
    several = found.groupby("combination")["seed"].nunique().min() > 1
    return (CONTRADICTED if several and all(beyond) else FAILS), "; ".join(text), runs


def _claim_9(records: list[dict]) -> Answer:
    """The paper's model in DeepSparse is nearly 11.5 times as fast; against it: it is no faster at all."""
    measured = speed.rows(records)
    if measured.empty:
        return _lacking([plan.speed_name(case, _corpus(records)) for case in FASTEST])
    ran = measured.dropna(subset="ratio")
    is_open, is_printed = ran["runtime"].str.split(":").str[0].isin(speed.OPEN), ran["case"].isin(FASTEST)
    printed = ran[is_printed & (ran["runtime"] == "deepsparse")]
    wanted = {
        "in DeepSparse": printed,
        "the same in an open runtime": ran[is_printed & is_open],
        "any in an open runtime": ran[is_open],
    }
    best = {name: some.loc[some["ratio"].idxmax()].to_dict() for name, some in wanted.items() if len(some)}
    text = [
        f"{name} {intervals.show(intervals.times(row), digits=2)} times ({row['case']}, {row['runtime']}, "
        f"batch {row['batch']:.0f}{', busy machine' if row.get('busy') == 1 else ''})"
        for name, row in best.items()
    ]
    runs = [plan.speed_name(row["case"], _corpus(records)) for row in best.values()]
    lacking = [f"{case} in DeepSparse" for case in FASTEST if case not in set(printed["case"])]
    text += [f"lacks {', '.join(lacking)}"] * bool(lacking)
    if "in DeepSparse" not in best:
        return MISSING, "; ".join(text), runs
    ours = intervals.times(best["in DeepSparse"])
    verdict = HOLDS if ours.mean >= NEARLY * SPEEDUP else CONTRADICTED if ours.high < 1 else FAILS
    return verdict, "; ".join(text), runs


CLAIMS = (
    ("About half of the heads can go before F1 falls, alike in every language", _claim_1),
    ("With equal heads in every layer the fall starts near 30%", _claim_2),
    ("Second-order pruning keeps unseen languages where magnitude and movement lose them", _claim_3),
    ("The first 40% of sparsity is free, and the cubic curve ends better than the linear one", _claim_4),
    ("A teacher changes English little and helps unseen languages", _claim_5),
    ("Int8 hurts unseen languages no more than English, and QAT keeps 98%", _claim_6),
    ("Static int8 is faster than dynamic", _claim_7),
    ("The losses and gains of combined techniques are those of the parts", _claim_8),
    ("End to end, the model is 11.5 times as fast as dense float32 in ONNX Runtime", _claim_9),
)


def _judged(
    records: list[dict],
    kinds: tuple[str, ...],
    wanted: Callable[..., dict[str, str]],
    judge: Callable[[list[Seed]], tuple[str, str]],
    needed: tuple[str, ...] = LANGUAGES,
) -> Answer:
    """What `judge` says of each model of a notebook, from every seed with all runs of `wanted(model, corpus, seed)`.

    The first of these runs must find names in the `needed` languages, or there is nothing to compare with.
    """
    there, places, answers = {record["run"]: record for record in records}, {}, {}
    for settings in (record["settings"] for record in of_kind(records, *kinds)):
        places.setdefault(settings["label"], set()).add((settings["corpus"], settings["seed"]))
    for model, of_model in places.items():
        names = [wanted(model, *place) for place in sorted(of_model)]
        lacking = [run for parts in names for run in parts.values() if run not in there]
        whole = [parts for parts in names if set(parts.values()) <= set(there)]
        seeds = [{part: there[run] for part, run in parts.items()} for parts in whole]
        runs = [run for parts in whole for run in parts.values()]
        if not seeds:
            answers[model] = _lacking(lacking)
        elif empty := _finding_nothing([next(iter(seed.values())) for seed in seeds], needed):
            answers[model] = MISSING, empty, runs
        else:
            verdict, text = judge(seeds)
            scored = [run for run in runs if there[run]["scores"] or there[run].get("curve")]
            dead = [run for run in scored if intervals.f1(there[run], "en").mean < NOTHING]
            text += f"; {NOTHING_LEFT}: {', '.join(dead)}" if dead else ""
            text += f"; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
            answers[model] = verdict, text + (f"; lacks {', '.join(lacking)}" if lacking else ""), runs
    return _agreed(answers) if answers else _lacking([f"runs of the kind {' or '.join(kinds)}"])


def _agreed(answers: dict[str, Answer]) -> Answer:
    """One answer for several models or sparsities: what all say; else it does not hold, or is not measured in all."""
    said = {verdict for verdict, _, _ in answers.values()}
    verdict = said.pop() if len(said) == 1 else MISSING if MISSING in said else FAILS
    texts = [text if len(answers) == 1 else f"{name}: {text}" for name, (_, text, _) in answers.items()]
    return verdict, ". ".join(texts), [run for _, _, runs in answers.values() for run in runs]


def _lacking(names: list[str]) -> Answer:
    return MISSING, f"lacks {', '.join(names)}", []


def _finding_nothing(references: list[dict], languages: tuple[str, ...]) -> str:
    """What the runs that others are compared with do not find; empty where they find names in all languages."""
    worst = {language: min(intervals.f1(record, language).mean for record in references) for language in languages}
    found = [f"{language} {f1:.2f}" for language, f1 in worst.items() if f1 < NOTHING]
    return f"F1 of what the others are compared with is {', '.join(found)}: nothing can be lost" if found else ""


def _needed(record: dict) -> list[str]:
    """The runs that a combined model's loss and its parts' losses are computed from."""
    return [record["needs"]["float"], *(part[name] for part in combined.parts(record) for name in ("run", "against"))]


def _corpus(records: list[dict]) -> str:
    return records[0]["settings"]["corpus"]
