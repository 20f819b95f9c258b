"""The papers' claims, each with a verdict that code computes from records, its numbers and its runs.

F1 is that of the test sets, with a 95% interval over sentences and seeds; a speed stands with its quartiles over turns.
The rules for F1 are in `verdicts`.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from mmalib import plan
from mmalib.plan import CRITERIA, INT8_KINDS, of_kind
from mmalib.reports import combined, compound, crossed, intervals, speed, verdicts
from mmalib.reports.compare import of_the_study
from mmalib.reports.intervals import LANGUAGES, NOTHING, Seed
from mmalib.reports.unstructured import gradual_runs
from mmalib.reports.verdicts import CONTRADICTED, FAILS, MISSING, UNDECIDED, decided

NOTHING_LEFT = "next to nothing is found in English either"
ADDS_UP = 2.0  # points between a sum and a loss: half of the interval of one F1 on the complete Spanish test set
SPEEDUP, NEARLY = 11.5, 0.9  # the paper's number; another CPU may miss a tenth of it
SURGEON, ITS_BATCH = 28.75, 32  # the same of the Optimal BERT Surgeon, over its own dense model in DeepSparse
FASTEST = ("base 90% 4-block int8", "base 90% unstructured int8")  # the paper's xlm_90_q; it does not say the pattern

KEPT_AT = 0.6  # the share at which the third paper says that P+A keeps the quality

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


def _heads(records: list[dict], method: str, where: tuple[float, float]) -> Answer:
    """From the trajectories that take heads wherever they are, or those that leave every layer as many."""
    judge = partial(verdicts.falls, part=method, where=where)
    return _judged(records, "structured", lambda *at: {method: plan.named("02", method, *at)}, judge)


def _claim_3(records: list[dict]) -> Answer:
    """From the gradual runs of all three criteria, which share one recipe, at each sparsity."""
    pruned = [run["settings"] for run in gradual_runs(records)]
    shares = sorted({run["share"] for run in pruned if run["schedule"] == plan.SCHEDULE[run["method"]]})
    if not shares:
        return _without(["gradual runs of notebook 03"])

    def answer(share: float) -> Answer:
        def wanted(*where) -> dict[str, str]:
            names = {name: plan.gradual_name(name, share, plan.SCHEDULE[name], *where) for name in CRITERIA}
            return {"dense": plan.baseline_name(*where)} | names

        return _judged(records, "gradual", wanted, verdicts.criteria)

    return _agreed({f"{share:.0%} sparse": answer(share) for share in shares})


def _claim_4(records: list[dict]) -> Answer:
    """From the second-order runs with the cubic and with the linear curve, at the highest sparsity."""
    shares = [run["settings"]["share"] for run in gradual_runs(records) if run["settings"]["method"] == "obs"]
    if not shares:
        return _without(["gradual runs of notebook 03 by second order"])

    def wanted(*where) -> dict[str, str]:
        names = {name: plan.gradual_name("obs", max(shares), name, *where) for name in ("cubic", "linear")}
        return {"dense": plan.baseline_name(*where)} | names

    return _judged(records, "gradual", wanted, verdicts.curves)


def _claim_5(records: list[dict]) -> Answer:
    """From every student with and without the teacher."""

    def wanted(*where) -> dict[str, str]:
        return {setting: plan.student_name(where[0], setting, *where[1:]) for setting in ("plain", "teacher")}

    return _judged(records, "student", wanted, verdicts.taught, needed=("en",))


def _claim_6(records: list[dict]) -> Answer:
    """From the float graphs, as tuned and trained on, and the paper's four kinds of int8."""

    def wanted(*where) -> dict[str, str]:
        return {graph: plan.named("05", graph, *where) for graph in ("float", "longer", *INT8_KINDS)}

    return _judged(records, "graph", wanted, verdicts.int8)


def _claim_7(records: list[dict]) -> Answer:
    """Static is faster wherever both run; against it: slower everywhere, beyond the quartiles."""
    names = {case: plan.speed_name(case, _corpus(records)) for case in ("base int8", "base dynamic")}
    if missing := [run for run in names.values() if run not in {record["run"] for record in records}]:
        return _without(missing)
    pairs, failed, text, busy = {}, [], [], False
    for (runtime, batch), rows in speed.rows(records).groupby(["runtime", "batch"]):
        by_case = {row["case"]: row for row in rows.to_dict("records") if row["case"] in names}
        if len(by_case) == 2 and all(pd.notna(row["ratio"]) for row in by_case.values()):
            busy |= any(row.get("busy") == 1 for row in by_case.values())
            pairs.setdefault(runtime, {})[batch] = intervals.times(by_case["base int8"], by_case["base dynamic"])
        else:
            failed += [f"{case} in {runtime}" for case, row in by_case.items() if pd.isna(row["ratio"])]
    for runtime, of_runtime in pairs.items():
        shown = [f"{intervals.show(each, digits=2)} at batch {batch:.0f}" for batch, each in of_runtime.items()]
        text.append(f"static over dynamic in {runtime}: {', '.join(shown)}")
    text += [f"failed: {', '.join(dict.fromkeys(failed))}"] * bool(failed)
    text += ["the machine was busy"] * busy
    every = [each for of_runtime in pairs.values() for each in of_runtime.values()]
    faster = [intervals.above(each, 1.0) for each in every]
    verdict = decided(faster, all(met is False for met in faster))
    return (verdict if every else MISSING), "; ".join(text or ["no runtime ran both"]), list(names.values())


def _claim_8(records: list[dict]) -> Answer:
    """Each loss is about its parts' sum; against it: no combination's is, in any seed."""
    made = [record for record in of_kind(records, "combination") if combined.parts(record)]
    there = {record["run"]: record for record in records}
    if not made:
        return _without(["runs of notebook 06"])
    needed = {run["run"]: _needed(run) for run in made}
    missing = sorted({name for names in needed.values() for name in names if name not in there})
    complete = [record for record in made if set(needed[record["run"]]) <= set(there)]
    if not complete:
        return _without(missing)
    of_whole = {name for record in complete for name in (record["run"], *needed[record["run"]])}
    runs = [name for name in there if name in of_whole]
    if empty := _finding_nothing([combined.whole_of(record, records) for record in complete], LANGUAGES):
        return MISSING, empty, runs
    dead = [name for name in runs if there[name]["scores"] and intervals.f1(there[name], "en")[0] < NOTHING]
    text, conditions = [], {}
    for combination in dict.fromkeys(record["settings"]["combination"] for record in complete):
        seeds = [_parts(record, there) for record in complete if record["settings"]["combination"] == combination]
        lost = intervals.change(seeds, "float", "complete")
        off = {}
        for language in LANGUAGES:
            alone = [intervals.change(seeds, f"against {part}", part)[language] for part in ("start", "int8")]
            off[language] = lost[language] - sum(alone)
        means = [f"{name} {lost[name][0]:.1f} for {(lost[name] - off[name])[0]:.1f}" for name in off]
        text.append(f"{combination} loses {', '.join(means)} ({intervals.points(off)})")
        if not set(dead) & {record["run"] for seed in seeds for record in seed.values()}:
            conditions[combination] = [intervals.within(intervals.of(each), -ADDS_UP, ADDS_UP) for each in off.values()]
    text = ["points lost for the sum of the parts (and what lies between): " + "; ".join(text)]
    text += [f"{NOTHING_LEFT}: {', '.join(dead)}"] * bool(dead) + [f"missing: {', '.join(missing)}"] * bool(missing)
    every = [met for of_name in conditions.values() for met in of_name] or [None]
    opposite = bool(conditions) and all(False in of_name for of_name in conditions.values())
    return decided(every, opposite), "; ".join(text), runs


def _claim_9(records: list[dict]) -> Answer:
    """The paper's model in DeepSparse is nearly 11.5 times as fast; against it: it is no faster at all."""
    measured = speed.rows(records)
    if measured.empty:
        return _without([plan.speed_name(case, _corpus(records)) for case in FASTEST])
    ran = measured.dropna(subset="ratio")
    is_open, is_printed = ran["runtime"].str.split(":").str[0].isin(speed.OPEN), ran["case"].isin(FASTEST)
    printed = ran[is_printed & (ran["runtime"] == "deepsparse")]
    wanted = {"in DeepSparse": printed, "the same in an open runtime": ran[is_printed & is_open]}
    wanted |= {"any in an open runtime": ran[is_open]}
    best = {name: rows.loc[rows["chosen by"].idxmax()].to_dict() for name, rows in wanted.items() if len(rows)}
    text = [
        f"{name} {intervals.show(intervals.times(row), digits=2)} times ({row['case']}, {row['runtime']}, "
        f"batch {row['batch']:.0f}{', busy machine' if row.get('busy') == 1 else ''})"
        for name, row in best.items()
    ]
    runs = [plan.speed_name(row["case"], _corpus(records)) for row in best.values()]
    missing = [f"{case} in DeepSparse" for case in FASTEST if case not in set(printed["case"])]
    text += [f"missing: {', '.join(missing)}"] * bool(missing)
    if "in DeepSparse" not in best:
        return MISSING, "; ".join(text), runs
    ours = intervals.times(best["in DeepSparse"])
    return decided([intervals.above(ours, NEARLY * SPEEDUP)], ours.high < 1), "; ".join(text), runs


def _claim_10(records: list[dict]) -> Answer:
    """A quarter of the layers, 80% in blocks and int8, over the whole dense model, both in DeepSparse."""
    key, timed = ("layers", "share", "form"), of_kind(records, "compound speed")
    timed = {tuple(record["settings"][name] for name in key): record for record in timed}
    whole = max((depth for depth, *_ in timed), default=0)
    base, small = timed.get((whole, 0.0, "dense")), timed.get((whole // 4, 0.8, "4-block int8"))
    if not base or not small:
        two = "notebook 08's dense model and of its 80% 4-block int8 one of a quarter of layers"
        return _without([f"the speeds of {two}"])
    there, name = {record["run"]: record for record in records}, small["settings"]["model"]
    runs = [small["needs"]["base"], small["needs"]["model"], base["run"], small["run"]]
    if missing := [run for run in runs if run not in there]:
        return _without(missing)
    dense, ours = (compound.best(record).get("deepsparse") for record in (base, small))
    if not dense or not ours or ours["batch"] != ITS_BATCH:
        return _without([f"{name} and the dense model in DeepSparse at batch {ITS_BATCH}"])
    if empty := _finding_nothing([there[runs[0]]], LANGUAGES):
        return MISSING, empty, runs
    times, pair = intervals.times(ours, dense), {"dense": there[runs[0]], "int8": there[runs[1]]}
    verdict, kept = verdicts.compound([pair], intervals.above(times, NEARLY * SURGEON))
    text = f"{name}: {intervals.show(times, digits=2)} times the dense model in DeepSparse at batch {ITS_BATCH}"
    text += ", busy machine" * bool(dense.get("busy") or ours.get("busy")) + f"; {kept} in ONNX Runtime"
    scored = [f"{language} {f1:.3f}" for language, f1 in small.get("f1_in", {}).get("deepsparse", {}).items()]
    return verdict, f"{text}, F1 in DeepSparse: {', '.join(scored) or 'not measured'}; 1 seed", runs


def _claim_11(records: list[dict]) -> Answer:
    """From what was pruned to 90% upstream on three languages, on English, and downstream with the same teacher."""

    def wanted(*where) -> dict[str, str]:
        names = {"three": "three-90", "english": "english-90"}
        made = {part: plan.named("08", f"transfer-{name}", *where) for part, name in names.items()}
        downstream = plan.gradual_name("obs", 0.9, plan.SCHEDULE["obs"], *where, taught=True)
        return {"dense": plan.baseline_name(*where), **made, "downstream": downstream}

    return _judged(records, "transfer", wanted, verdicts.upstream)


def _claim_12(records: list[dict]) -> Answer:
    """From every way of compressing that both tasks have, on one model."""
    there = {record["run"]: record for record in records}
    answers, missing = {}, []
    for record in of_kind(records, "crossed", "gated", "pairs sparse"):
        settings = record["settings"]
        if settings["task"] != "similarity" or settings["row"] == "FT":
            continue
        where, share = (settings["backbone"], settings["corpus"], settings["seed"]), settings.get("share")
        if settings["kind"] == "pairs sparse":
            other = plan.gradual_name(settings["row"], share, settings["schedule"], *where)
        else:
            other = plan.crossed_name("entities", settings["row"], *where, share=share)
        dense = plan.crossed_name("similarity", "FT", *where), plan.baseline_name(*where)
        if absent := [run for run in (other, *dense) if run not in there]:
            missing += absent
            continue
        parts = ("similarity", "entities", "similarity, dense", "entities, dense")
        seed = dict(zip(parts, (record, *(there[run] for run in (other, *dense))), strict=True))
        if any(intervals.quality(each, name)[0] < NOTHING for each in list(seed.values())[2:] for name in LANGUAGES):
            return MISSING, f"{dense[0]} or {dense[1]} finds nothing that could be lost", []
        name = f"{settings['row']}{f' {share:.0%}' if share else ''}"
        dead = any(intervals.quality(seed[part], "en")[0] < NOTHING for part in parts[:2])
        conditions, text = ([None], NOTHING_LEFT) if dead else verdicts.tasks([seed])
        answers[name] = decided(conditions, False), f"{text} points kept", [record["run"], other]
    if not answers:
        return _without(missing or ["runs of notebook 09 on similarity"])
    verdict, text, runs = _agreed(answers)
    return verdict, text + (f". missing: {', '.join(dict.fromkeys(missing))}" if missing else ""), runs


def _claim_13(records: list[dict]) -> Answer:
    """From the rows of the truth table at 60%, on entities."""
    used = {record["settings"]["model"]: record for record in of_kind(records, "use")}

    def wanted(*where) -> dict[str, str]:
        shares = {"P": KEPT_AT, "P+A": KEPT_AT, "P+D+A": KEPT_AT}
        rows = {row: plan.crossed_name("entities", row, *where, share=shares.get(row)) for row in (*shares, "A", "D+A")}
        return {"FT": plan.baseline_name(*where)} | rows

    def judge(seeds: list[Seed]) -> tuple[str, str]:
        read = {row: used[one["run"]] for row, one in seeds[0].items() if one["run"] in used}
        grams = {row: 1000 * crossed.per_thousand(one)[1] for row, one in read.items()}
        gone = [crossed.gone_by_layer(seed[row]) for seed in seeds for row in ("P", "P+A")]
        return verdicts.crossed(seeds, grams, gone)

    return _judged(records, "crossed", wanted, judge, needed=("en",))


CLAIMS = (
    (
        "About half of the heads can go before F1 falls, alike in every language",
        partial(_heads, method="heads", where=verdicts.HALF),
    ),
    (
        "With equal heads in every layer the fall starts near 30%, alike in every language",
        partial(_heads, method="uniform", where=verdicts.THIRTY),
    ),
    ("Second-order pruning keeps more of the unseen languages than magnitude and movement", _claim_3),
    ("The first 40% of sparsity is free, and the cubic curve ends better than the linear one", _claim_4),
    ("A teacher changes English little and helps unseen languages", _claim_5),
    ("Int8 hurts unseen languages no more than English, and QAT keeps 98%", _claim_6),
    ("Static int8 is faster than dynamic", _claim_7),
    ("The losses and gains of combined techniques are those of the parts", _claim_8),
    ("End to end, the model is 11.5 times as fast as dense float32 in ONNX Runtime", _claim_9),
    (
        "At 28.75 times its own dense model, in DeepSparse at batch 32, English loses at most 7.5% of F1, and the "
        "unseen languages no more",
        _claim_10,
    ),
    (
        "Pruned upstream on three languages, a model keeps more of the unseen ones than pruned downstream on English, "
        "and than pruned upstream on English text",
        _claim_11,
    ),
    ("What compression leaves of unseen languages is the same for similarity and for entities", _claim_12),
    ("Adapters equal full tuning, a student on top costs quality, feed-forward and last layers go first", _claim_13),
)


def _judged(
    records: list[dict],
    kind: str,
    wanted: Callable[..., dict[str, str]],
    judge: Callable[[list[Seed]], tuple[str, str]],
    needed: tuple[str, ...] = LANGUAGES,
) -> Answer:
    """What `judge` says of each model of a notebook, from every seed with all runs of `wanted(model, corpus, seed)`.

    The first of these runs must find names in the `needed` languages, or there is nothing to compare with.
    """
    there, places, answers = {record["run"]: record for record in records}, {}, {}
    for settings in (record["settings"] for record in of_kind(records, kind)):
        places.setdefault(settings["label"], set()).add((settings["corpus"], settings["seed"]))
    for model, of_model in places.items():
        names = [wanted(model, *place) for place in sorted(of_model)]
        missing = [run for parts in names for run in parts.values() if run not in there]
        complete = [parts for parts in names if set(parts.values()) <= set(there)]
        seeds = [{part: there[run] for part, run in parts.items()} for parts in complete]
        runs = [run for parts in complete for run in parts.values()]
        if not seeds:
            answers[model] = _without(missing)
        elif empty := _finding_nothing([next(iter(seed.values())) for seed in seeds], needed):
            answers[model] = MISSING, empty, runs
        else:
            verdict, text = judge(seeds)
            scored = [run for run in runs if there[run]["scores"] or there[run].get("curve")]
            dead = [run for run in scored if _beginning(there[run], "en") < NOTHING]
            text += f"; {NOTHING_LEFT}: {', '.join(dead)}" if dead else ""
            text += f"; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
            answers[model] = verdict, text + (f"; missing: {', '.join(missing)}" if missing else ""), runs
    return _agreed(answers) if answers else _without([f"runs of the kind {kind}"])


def _agreed(answers: dict[str, Answer]) -> Answer:
    """One answer for several models or sparsities: what all say; else what keeps the claim from holding for all."""
    given = {verdict for verdict, _, _ in answers.values()}
    verdict = next((one for one in (MISSING, UNDECIDED) if one in given), FAILS)
    verdict = given.pop() if len(given) == 1 else FAILS if given & {FAILS, CONTRADICTED} else verdict
    texts = [text if len(answers) == 1 else f"{name}: {text}" for name, (_, text, _) in answers.items()]
    return verdict, ". ".join(texts), [run for _, _, runs in answers.values() for run in runs]


def _without(names: list[str]) -> Answer:
    return MISSING, f"missing: {', '.join(names)}", []


def _finding_nothing(references: list[dict], languages: tuple[str, ...]) -> str:
    """What the runs that others are compared with do not find; empty where they find names in all languages."""
    worst = {language: min(_beginning(record, language) for record in references) for language in languages}
    empty = [f"{language} {f1:.2f}" for language, f1 in worst.items() if f1 < NOTHING]
    return f"F1 of what the others are compared with is {', '.join(empty)}: nothing can be lost" if empty else ""


def _beginning(record: dict, language: str) -> float:
    """Test F1 of a run, or of the beginning of its curve."""
    return (record["scores"] or record["curve"][0]["scores"])[language]["test"]["f1"]


def _parts(record: dict, there: dict[str, dict]) -> Seed:
    """A combined model, the float graph that it is compared with, its parts, and what each of them is compared with."""
    start, int8 = combined.parts(record)
    seed = {"complete": record, "float": there[record["needs"]["float"]]}
    for name, part in (("start", start), ("int8", int8)):
        seed |= {name: there[part["run"]], f"against {name}": there[part["against"]]}
    return seed


def _needed(record: dict) -> list[str]:
    """The runs that a combined model's loss and its parts' losses are computed from."""
    return [record["needs"]["float"], *(part[name] for part in combined.parts(record) for name in ("run", "against"))]


def _corpus(records: list[dict]) -> str:
    return records[0]["settings"]["corpus"]
