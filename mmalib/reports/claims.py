"""The claims, each with a verdict that code computes from records, its numbers and its runs.

F1 is that of the test sets, with a 95% interval over sentences and seeds; a speed stands with its quartiles over
turns, or the range of few. The rules for F1 are in `verdicts`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import nan

import pandas as pd

from mmalib import plan
from mmalib.plan import CRITERIA, INT8_KINDS, of_kind
from mmalib.records.machine import saturates
from mmalib.reports import combined, compound, crossed, intervals, speed, tables, verdicts
from mmalib.reports.intervals import LANGUAGES, NOTHING, Seed, within
from mmalib.reports.unstructured import NAMES, gradual_runs
from mmalib.reports.verdicts import CONTRADICTED, FAILS, HOLDS, MISSING, UNDECIDED, decided, none_met

NOTHING_LEFT = "next to nothing is found in English either"
SPEEDUP, NEARLY = 11.5, 0.9  # the paper's number; another CPU may miss a tenth of it
SURGEON, ITS_BATCH = 28.75, 32  # the same of the Optimal BERT Surgeon, over its own dense model in DeepSparse
FASTEST = ("base 90% 4-block int8", "base 90% unstructured int8")  # the paper's xlm_90_q; it does not say the pattern
KEPT_AT = {"P": 0.6, "P+A": 0.6, "P+D+A": 0.6, "A": None, "D+A": None}  # rows of claim 13, and the share that goes

Answer = tuple[str, str, list[str]]  # verdict, numbers as text, names of runs
Judge = Callable[[list[Seed]], tuple[str, str]]


def table(records: list[dict]) -> pd.DataFrame:
    """The claims with their verdicts, numbers and records; on CoNLL where any run is on it."""
    judged, rows = tables.of_the_study(records), []
    for number, (claim, answer) in enumerate(CLAIMS if judged else (), start=1):
        verdict, numbers, runs = answer(judged)
        row = {"claim": f"{number}. {claim}", "corpus": _corpus(judged), "verdict": verdict, "numbers": numbers}
        rows.append(row | {"records": ", ".join(dict.fromkeys(runs))})
    return pd.DataFrame(rows)


# ---- From runs to an answer ----


def _judged(
    records: list[dict],
    kind: str,
    wanted: Callable[..., dict],
    judge: Judge,
    needed: Sequence[str] = LANGUAGES,
    dense: int = 1,
) -> Answer:
    """What `judge` says of each model of a notebook, from the runs `wanted(model, corpus, seed)` of every seed."""
    places = {}
    for settings in (record["settings"] for record in of_kind(records, kind)):
        places.setdefault(settings["label"], set()).add((settings["corpus"], settings["seed"]))
    if not places:
        return _without([f"runs of the kind {kind}"])
    runs = {model: [wanted(model, *place) for place in sorted(of_model)] for model, of_model in places.items()}
    return _agreed({model: _of_seeds(records, each, judge, needed, dense) for model, each in runs.items()})


def _of_seeds(
    records: list[dict], wanted: list[dict[str, str]], judge: Judge, needed: Sequence[str] = LANGUAGES, dense: int = 1
) -> Answer:
    """What `judge` says, from every seed of which all runs are there, by the parts that they play.

    The first of these, or the first `dense` ones, must find names in the `needed` languages, or there is nothing to
    compare with.
    """
    there = {record["run"]: record for record in records}
    missing = list(dict.fromkeys(run for parts in wanted for run in parts.values() if run not in there))
    seeds = [{part: there[run] for part, run in parts.items()} for parts in wanted if there.keys() >= {*parts.values()}]
    if not seeds:
        return _without(missing)
    runs = list(dict.fromkeys(record["run"] for seed in seeds for record in seed.values()))
    references = [record for seed in seeds for record in list(seed.values())[:dense]]
    worst = {language: min(_beginning(record, language) for record in references) for language in needed}
    if empty := [f"{language} {f1:.2f}" for language, f1 in worst.items() if f1 < NOTHING]:
        return MISSING, f"F1 of what the others are compared with is {', '.join(empty)}: nothing can be lost", runs
    verdict, text = judge(seeds)
    dead = [run for run in runs if _beginning(there[run], "en") < NOTHING]
    text += f"; {NOTHING_LEFT}: {', '.join(dead)}" if dead else ""
    text += f"; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return verdict, text + (f"; missing: {', '.join(missing)}" if missing else ""), runs


def _agreed(answers: dict[str, Answer], deciding: Sequence[str] = ()) -> Answer:
    """One answer for several models or sparsities: what all say; else what keeps the claim from holding for all."""
    given = {answers[name][0] for name in deciding or answers}
    verdict = next((one for one in (MISSING, UNDECIDED) if one in given), FAILS)
    verdict = given.pop() if len(given) == 1 else FAILS if given & {FAILS, CONTRADICTED} else verdict
    texts = [text if len(answers) == 1 else f"{name}: {text}" for name, (_, text, _) in answers.items()]
    return verdict, ". ".join(texts), [run for _, _, runs in answers.values() for run in runs]


def _without(names: Sequence[str]) -> Answer:
    return MISSING, f"missing: {', '.join(names)}", []


def _beginning(record: dict, language: str) -> float:
    """Test F1 of a run, or of the beginning of its curve."""
    return intervals.f1(record if record["scores"] else record["curve"][0], language)[0]


def _corpus(records: list[dict]) -> str:
    return records[0]["settings"]["corpus"]


# ---- The claims ----


def _heads(method: str, where: tuple[float, float]) -> Callable[[list[dict]], Answer]:
    """From the trajectories that take heads wherever they are, or those that leave every layer as many."""
    judge = partial(verdicts.falls, part=method, where=where)
    return partial(_judged, kind="structured", wanted=lambda *at: {method: plan.named("02", method, *at)}, judge=judge)


def _criteria(records: list[dict]) -> Answer:
    """From the gradual runs of all three criteria, which share one recipe, at each sparsity that has them."""
    pruned = [run["settings"] for run in gradual_runs(records)]
    shares = sorted({run["share"] for run in pruned if run["schedule"] == plan.SCHEDULE[run["method"]]})
    if not shares:
        return _without(["gradual runs of notebook 03"])
    how = {name: (name, plan.SCHEDULE[name]) for name in CRITERIA}
    judged = partial(_judged, records, "gradual", judge=verdicts.criteria)
    answers = {f"{share:.0%} sparse": judged(partial(_pruned, share=share, how=how)) for share in shares}
    return _agreed(answers, [name for name, (verdict, *_) in answers.items() if verdict != MISSING])


def _curves(records: list[dict]) -> Answer:
    """From the second-order runs with the cubic and with the linear curve, at the highest sparsity."""
    shares = [run["settings"]["share"] for run in gradual_runs(records) if run["settings"]["method"] == "obs"]
    if not shares:
        return _without(["gradual runs of notebook 03 by second order"])
    how = {schedule: ("obs", schedule) for schedule in ("cubic", "linear")}
    return _judged(records, "gradual", partial(_pruned, share=max(shares), how=how), verdicts.curves)


def _pruned(*at, share: float, how: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Gradual runs by a criterion and a schedule each, and the dense one that they began with."""
    return {"dense": plan.baseline_name(*at)} | {
        part: plan.gradual_name(criterion, share, schedule, *at) for part, (criterion, schedule) in how.items()
    }


def _student(name: str, *at) -> dict[str, str]:
    """Every student with and without the teacher."""
    return {setting: plan.student_name(name, setting, *at) for setting in ("plain", "teacher")}


def _int8(*at) -> dict[str, str]:
    """The float graphs, as tuned and trained on, and the paper's four kinds of int8."""
    return {graph: plan.named("05", graph, *at) for graph in ("float", "longer", *INT8_KINDS)}


def _upstream(*at) -> dict[str, str]:
    """Pruned to 90% upstream on three languages, on English, and downstream with the same teacher."""
    made = {name: plan.named("08", f"transfer-{name}-90", *at) for name in ("three", "english")}
    downstream = plan.gradual_name("obs", 0.9, plan.SCHEDULE["obs"], *at, taught=True)
    return {"dense": plan.baseline_name(*at), **made, "downstream": downstream}


def _static(records: list[dict]) -> Answer:
    """Static is faster wherever both run; against it: slower everywhere, beyond the quartiles."""
    names = {case: plan.speed_name(case, _corpus(records)) for case in ("base int8", "base dynamic", "base")}
    there = {record["run"] for record in records}
    if missing := [run for case, run in names.items() if case != "base" and run not in there]:
        return _without(missing)
    rows = speed.rows(records).query("case in @names").sort_values(["runtime", "batch"], kind="stable")
    failed = [f"{row.case} in {row.runtime}" for row in rows[rows["ratio"].isna()].itertuples()]
    faster, text, busy = [], [], False
    for runtime, ran in rows.dropna(subset="ratio").groupby("runtime"):
        static, dynamic, whole = (ran[ran["case"] == case].set_index("batch").to_dict("index") for case in names)
        if times := {batch: intervals.times(row, dynamic[batch]) for batch, row in static.items() if batch in dynamic}:
            gains = [intervals.times(row, whole[batch]).value for batch, row in dynamic.items() if batch in whole]
            slow = " (where dynamic is no faster than float)" * bool(gains and max(gains) <= 1)
            shown = [f"{intervals.show(one, digits=2)} at batch {batch:.0f}" for batch, one in times.items()]
            text.append(f"static over dynamic in {runtime}{slow}: {', '.join(shown)}")
            faster += [within(one, 1.0) for one in times.values()]
            busy |= bool(ran["busy"].eq(True).any())
    text += [f"failed: {', '.join(dict.fromkeys(failed))}"] * bool(failed)
    text += ["the machine was busy"] * busy
    verdict = decided(faster, none_met(faster)) if faster else MISSING
    return verdict, "; ".join(text or ["no runtime ran both"]), [run for run in names.values() if run in there]


def _sums(records: list[dict]) -> Answer:
    """From what a combined model's loss and its parts' losses are computed from; what has collapsed decides nothing."""
    wanted: dict[str, list] = {}
    starts = {"smaller, taught", "sparse, taught"}  # the paper has combined both with int8
    for record in of_kind(records, "combination"):
        if parts := combined.parts(record):
            seed = {"float": record["needs"]["float"], "complete": record["run"]}
            for name, part in zip(("start", "int8"), parts, strict=True):
                seed |= {f"against {name}": part["against"], name: part["run"]}
            wanted.setdefault(record["settings"]["combination"], []).append(seed)
            starts.discard(parts[0]["what"])
    if not wanted:
        return _without(["runs of notebook 06"])
    answers = {name: _of_seeds(records, seeds, verdicts.adds_up) for name, seeds in wanted.items()}
    alive = [name for name, (verdict, text, _) in answers.items() if verdict != MISSING and NOTHING_LEFT not in text]
    verdict, text, runs = _agreed(answers, alive)
    if starts:
        text += f". missing: int8 of what is {' and of what is '.join(sorted(starts))}"
    return UNDECIDED if starts and verdict == HOLDS else verdict, text, runs


def _fastest(records: list[dict]) -> Answer:
    """The paper's model in DeepSparse is nearly 11.5 times as fast; against it: it is no faster at all."""
    measured = speed.rows(records, held_out=True)
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
        f"batch {row['batch']:.0f}{', brackets: all turns' * (row.get('turns', nan) < speed.FEW)}"
        f"{', busy machine' * bool(row['busy'])})"
        for name, row in best.items()
    ]
    text += [f"missing: {case} in DeepSparse" for case in FASTEST if case not in set(printed["case"])]
    ours = intervals.times(best["in DeepSparse"]) if "in DeepSparse" in best else None
    verdict = decided([within(ours, NEARLY * SPEEDUP)], ours.high < 1) if ours else MISSING
    return verdict, "; ".join(text), [plan.speed_name(row["case"], _corpus(records)) for row in best.values()]


def _compound(records: list[dict]) -> Answer:
    """A quarter of the layers, 80% in blocks and int8, over the whole dense model, both in DeepSparse."""
    timed = {tuple(r["settings"][name] for name in compound.KEY): r for r in of_kind(records, "compound speed")}
    whole = max((depth for depth, *_ in timed), default=0)
    base, small = timed.get((whole, 0.0, "dense")), timed.get((whole // 4, 0.8, "4-block int8"))
    if not base or not small:
        return _without(["the speeds of notebook 08's dense model and its 4-block int8 one of a quarter of layers"])
    name = small["settings"]["model"]
    dense, ours = (compound.best(record).get("deepsparse") for record in (base, small))
    if not dense or not ours or ours["batch"] != ITS_BATCH:
        return _without([f"{name} and the dense model in DeepSparse at batch {ITS_BATCH}"])
    times, no_vnni = intervals.times(ours, dense), any(saturates(one["machine"]) for one in (base, small))

    def judge(seeds: list[Seed]) -> tuple[str, str]:
        fast = within(times, NEARLY * SURGEON)
        verdict, kept = verdicts.compound(seeds, (fast or None) if no_vnni else fast)
        text = f"{name}: {intervals.show(times, digits=2)} times the dense model in DeepSparse at batch {ITS_BATCH}"
        text += ", busy machine" * bool(dense.get("busy") or ours.get("busy"))
        text += f"; {kept} in ONNX Runtime" + ", on a CPU without VNNI" * no_vnni
        scored = [f"{language} {f1:.3f}" for language, f1 in small.get("f1_in", {}).get("deepsparse", {}).items()]
        return verdict, f"{text}, F1 in DeepSparse: {', '.join(scored) or 'not measured'}"

    parts = {"dense": small["needs"]["base"], "int8": small["needs"]["model"]}
    verdict, text, runs = _of_seeds(records, [parts], judge)
    return verdict, text, runs and [*runs, base["run"], small["run"]]


def _tasks(records: list[dict]) -> Answer:
    """From every way of compressing that both tasks have, on one model."""
    wanted: dict[tuple[str, str], list] = {}  # model and row
    for record in of_kind(records, "crossed", "gated", "crossed sparse"):
        settings = record["settings"]
        if settings["task"] != "similarity" or settings["row"] == "FT":
            continue
        row, *at, share = (settings.get(key) for key in ("row", "backbone", "corpus", "seed", "share"))
        entities, full = plan.crossed_name("entities", row, *at, share=share), _full(records, *at)
        if settings["kind"] == "crossed sparse" and full == plan.baseline_name(*at):  # notebook 03 has pruned it
            entities = plan.gradual_name(row, share, settings["schedule"], *at)
        seed = {"similarity, dense": plan.crossed_name("similarity", "FT", *at)}
        seed |= {"entities, dense": full, "similarity": record["run"], "entities": entities}
        model, name = _on(record), f"{NAMES.get(row, row)} {share:.0%}" if share else row
        wanted.setdefault((model, name), []).append(seed)
    if not wanted:
        return _without(["runs of notebook 09 on similarity"])
    common = model if len({model for model, _ in wanted}) == 1 else ""
    named = {model.removeprefix(common) + name: seeds for (model, name), seeds in wanted.items()}
    answers = {name: _of_seeds(records, seeds, verdicts.tasks, dense=2) for name, seeds in named.items()}
    alive = [name for name, (verdict, *_) in answers.items() if verdict != MISSING]
    verdict, text, runs = _agreed(answers, alive)
    alike, apart = (sum(answers[name][0] == one for name in alive) for one in (HOLDS, FAILS))
    same = f"alike in {alike} of {len(alive)} ways of compressing, not alike in {apart}"
    scale = "points of Pearson's r kept less those of F1, two scales, en not judged"
    return verdict, f"{common}{same}; {scale}: {text}", runs


def _on(record: dict) -> str:
    return f"{record['settings']['label']}, tuned on {crossed.tuned_on(record['settings'])} sentences: "


def _full(records: list[dict], *at) -> str:
    """Full tuning on entities: notebook 09's own, or the baseline."""
    own = plan.crossed_name("entities", "FT", *at)
    return own if any(record["run"] == own for record in records) else plan.baseline_name(*at)


def _crossed(records: list[dict]) -> Answer:
    """From the rows of the truth table at 60%, on entities."""
    milligrams = {r["settings"]["model"]: 1000 * crossed.per_thousand(r)[1] for r in of_kind(records, "use")}

    def wanted(*at) -> dict[str, str]:
        rows = {row: plan.crossed_name("entities", row, *at, share=share) for row, share in KEPT_AT.items()}
        return {"FT": _full(records, *at)} | rows

    def judge(seeds: list[Seed]) -> tuple[str, str]:
        emitted = {row: milligrams[one["run"]] for row, one in seeds[0].items() if one["run"] in milligrams}
        gone = [crossed.gone_by_layer(seed[row]) for seed in seeds for row in ("P", "P+A")]
        verdict, text = verdicts.crossed(seeds, emitted, gone)
        return verdict, _on(seeds[0]["A"]) + text

    return _judged(records, "crossed", wanted, judge, needed=("en",))


CLAIMS = (
    ("About half of the heads can go before F1 falls, alike in every language", _heads("heads", verdicts.HALF)),
    (
        "With equal heads in every layer the fall starts near 30%, alike in every language",
        _heads("uniform", verdicts.THIRTY),
    ),
    ("Second-order pruning keeps more of the unseen languages than magnitude and movement", _criteria),
    ("The first 40% of sparsity is free, and the cubic curve ends better than the linear one", _curves),
    (
        "A teacher changes English little and helps unseen languages",
        partial(_judged, kind="student", wanted=_student, judge=verdicts.taught, needed=("en",)),
    ),
    (
        "Int8 hurts unseen languages no more than English, and QAT keeps 98%",
        partial(_judged, kind="graph", wanted=_int8, judge=verdicts.int8, dense=2),
    ),
    ("Static int8 is faster than dynamic", _static),
    ("The losses and gains of combined techniques are those of the parts", _sums),
    ("End to end, the model is 11.5 times as fast as dense float32 in ONNX Runtime", _fastest),
    (
        "At 28.75 times its own dense model, in DeepSparse at batch 32, English loses at most 7.5% of F1, and the "
        "unseen languages no more",
        _compound,
    ),
    (
        "Pruned upstream on three languages, a model keeps more of the unseen ones than pruned downstream on English, "
        "and than pruned upstream on English text",
        partial(_judged, kind="transfer", wanted=_upstream, judge=verdicts.upstream),
    ),
    ("What compression leaves of unseen languages is the same for similarity and for entities", _tasks),
    ("Adapters equal full tuning, a student on top costs quality, feed-forward and last layers go first", _crossed),
)
OWN = "11 and 12"  # of these, what none of the papers says
