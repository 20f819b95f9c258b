"""The rules for the claims about F1: from the runs of every seed to a verdict and the numbers it rests on.

A claim is a list of conditions, each of which an interval settles as met or as not met, or leaves open. A claim holds
where all are met, does not hold where one is not, and is undecided else. It is contradicted where the other way round
is what the intervals show. What was not measured decides nothing.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mmalib.plan import CRITERIA, INT8_KINDS
from mmalib.reports import intervals
from mmalib.reports.intervals import LANGUAGES, UNSEEN, Seed, above, at_most, of, within
from mmalib.reports.unstructured import NAMES

HOLDS, FAILS, CONTRADICTED = "holds", "does not hold", "contradicted"
UNDECIDED, MISSING = "undecided", "not measured"
HALF, THIRTY = (0.4, 0.6), (0.2, 0.4)  # "about half" and "near 30%" of the heads: one step of 1/12, and a bit, around
ALIKE = 10.0  # points of what languages keep where English has begun to fall
FREE = 0.4  # the sparsity that the paper says costs nothing
POINT = 1.0  # of F1: what counts as little, and as no more than English; the paper's int8 loses about that
QAT_KEEPS = 98.0  # %, the paper's own number
COMPOUND_KEEPS = 92.5  # %, what the Optimal BERT Surgeon's fastest model keeps, and a bit
SAME = 3.0  # points between what two tasks keep of a language
KEEPS = 95.0  # % of the dense F1: what keeps the quality, as where F1 begins to fall

Condition = bool | None


def decided(conditions: Sequence[Condition], opposite: bool = False) -> str:
    """The verdict on a claim; `opposite` where its contrary has been shown."""
    if all(condition is True for condition in conditions):
        return HOLDS
    if opposite:
        return CONTRADICTED
    return FAILS if any(condition is False for condition in conditions) else UNDECIDED


def falls(seeds: list[Seed], part: str, where: tuple[float, float]) -> tuple[str, str]:
    """Every language falls at such a share of heads, and keeps about what English keeps there."""
    curves = [{name: intervals.trajectory(seed[part], name) for name in LANGUAGES} for seed in seeds]
    at = {name: intervals.over_seeds(curves, lambda of_seed, name=name: of_seed[name].fall()) for name in LANGUAGES}

    def more(of_seed: dict[str, intervals.Curve], name: str) -> intervals.Number:
        share = of_seed["en"].fall()
        return of_seed[name].kept_at(share) - of_seed["en"].kept_at(share)

    fewer = {name: intervals.over_seeds(curves, partial(more, name=name)) for name in UNSEEN}
    text = f"F1 falls at {intervals.shares(at)} of the heads, as pruned; where English falls, the share kept is "
    text += f"{intervals.points(fewer)} points from that of English"
    there = [within(of(number), *where) for number in at.values()]
    alike = [within(of(number), -ALIKE, ALIKE) for number in fewer.values()]
    early = all(of(number).high < where[0] for number in at.values())
    return decided([*there, *alike], early or all(met is False for met in alike)), text


def criteria(seeds: list[Seed]) -> tuple[str, str]:
    """Second order keeps more of each unseen language than each rival that has learnt; against it: one keeps more."""
    keeps = {name: intervals.percent(intervals.kept(seeds, name, "dense")) for name in CRITERIA}
    text = "; ".join(f"{NAMES[name]} keeps {percent}" for name, percent in keeps.items())
    rivals = [name for name in CRITERIA if name != "obs" and not intervals.collapsed(seeds, name)]
    if not rivals:
        return UNDECIDED, f"{text}; nothing is left to compare with"
    leads = {name: intervals.change(seeds, "obs", name) for name in rivals}
    text += "; ".join([""] + [f"over {NAMES[name]} {intervals.points(lead)} points" for name, lead in leads.items()])
    return _ahead(leads), text


def _ahead(leads: dict[str, dict[str, intervals.Number]]) -> str:
    """Every unseen language is ahead of every rival; against it: one rival is ahead in both."""
    ahead = [[above(of(lead[language]), 0.0) for language in UNSEEN] for lead in leads.values()]
    behind = any(all(met is False for met in of_rival) for of_rival in ahead)
    return decided([met for of_rival in ahead for met in of_rival], behind)


def curves(seeds: list[Seed]) -> tuple[str, str]:
    """No fall before 40%, a better end in every language; against it: linear ends better in all."""
    better = intervals.change(seeds, "cubic", "linear")
    text = f"cubic ends {intervals.points(better)} points over linear"
    ends = [above(of(number), 0.0) for number in better.values()]
    opposite = all(met is False for met in ends)
    first = max(min(p["sparsity"] for p in seed["cubic"]["curve"] if p["sparsity"] > 0) for seed in seeds)
    if first > FREE:
        text = f"the first {FREE:.0%}: not measured, the curve begins at {first:.0%}; {text}"
        return (decided(ends, opposite) if False in ends else MISSING), text
    at = {
        name: intervals.over_seeds(seeds, lambda seed, name=name: intervals.on_the_way(seed["cubic"], name).fall())
        for name in LANGUAGES
    }
    free = [above(of(number), FREE) for number in at.values()]
    text = f"F1 on the cubic curve falls at {intervals.shares(at)}; {text}"
    return decided([*free, *ends], opposite or all(met is False for met in free)), text


def taught(seeds: list[Seed]) -> tuple[str, str]:
    """English moves little, Spanish and Dutch gain; against it: English moves much, or both lose."""
    gain = intervals.change(seeds, "teacher", "plain")
    little = within(of(gain["en"]), -POINT, POINT)
    helped = [above(of(gain[name]), 0.0) for name in UNSEEN]
    opposite = little is False or all(met is False for met in helped)
    return decided([little, *helped], opposite), f"the teacher adds {intervals.points(gain)} points"


def int8(seeds: list[Seed]) -> tuple[str, str]:
    """No kind costs Spanish or Dutch a point more than English; against it: QAT keeps too little of every language.

    What is trained on is compared with the same training in float, what is not with the model as it was.
    """
    lost, conditions = {}, []
    dead = [kind for kind in INT8_KINDS if intervals.collapsed(seeds, kind)]
    for kind in INT8_KINDS:
        lost[kind] = intervals.change(seeds, kind, "longer" if kind == "qat" else "float")
        if kind not in dead:
            more = [of(lost[kind]["en"] - lost[kind][name]) for name in UNSEEN]
            conditions += [at_most(one, POINT) for one in more]
    kept = intervals.kept(seeds, "qat", "longer")
    keeps = [above(of(number), QAT_KEEPS) for number in kept.values()]
    text = "; ".join(f"{kind} {intervals.points(lost[kind])}" for kind in INT8_KINDS)
    text += f" points (QAT against the same training in float, of which it keeps {intervals.percent(kept, digits=1)}; "
    before = intervals.points(intervals.change(seeds, "qat", "float"))
    text += f"against the model before that training {before} points)"
    return decided([*conditions, *keeps, *[None] * len(dead)], all(met is False for met in keeps)), text


def compound(seeds: list[Seed], fast: Condition) -> tuple[str, str]:
    """Nearly as fast as printed, and no language loses more than printed; against it: all lose more."""
    kept = intervals.kept(seeds, "int8", "dense")
    keeps = [above(of(number), COMPOUND_KEEPS) for number in kept.values()]
    return decided([fast, *keeps], all(met is False for met in keeps)), f"keeps {intervals.percent(kept, digits=1)}"


def upstream(seeds: list[Seed]) -> tuple[str, str]:
    """Each unseen language keeps more than under both rivals; against it: both keep less than under one of them."""
    further = set.intersection(*(set(record.get("further", ())) for seed in seeds for record in seed.values()))
    text, leads = [], {}
    for rival, name in (("downstream", "downstream on English labels"), ("english", "upstream on English text")):
        leads[rival] = intervals.change(seeds, "three", rival, (*LANGUAGES, *sorted(further)))
        text.append(f"over {name} {intervals.points(leads[rival])} points")
    return _ahead(leads), "; ".join(text)


def tasks(seeds: list[Seed]) -> tuple[list[Condition], str]:
    """What one way of compressing leaves of Spanish and Dutch in similarity, against what it leaves in entities."""

    def more(seed: Seed, name: str) -> intervals.Number:
        quality = {part: intervals.quality(record, name) for part, record in seed.items()}
        kept = [100 * quality[part] / quality[f"{part}, dense"] for part in ("similarity", "entities")]
        return kept[0] - kept[1]

    apart = {name: intervals.over_seeds(seeds, partial(more, name=name)) for name in UNSEEN}
    return [within(of(number), -SAME, SAME) for number in apart.values()], intervals.points(apart)


def crossed(seeds: list[Seed], milligrams: dict[str, float], gone: Sequence) -> tuple[str, str]:
    """The third paper's four sentences; `gone` is the share of attention and of feed-forward that went, by layer."""
    adapters = intervals.change(seeds, "A", "FT")["en"]
    kept = intervals.kept(seeds, "P+A", "FT")["en"]
    conditions, text = [above(of(adapters), -POINT)], [f"adapters add {intervals.points({'en': adapters})} points"]
    for more, less in (("D+A", "A"), ("P+D+A", "P+A")):
        lost = intervals.change(seeds, more, less)["en"]
        size = [sum(seed[row]["megabytes"] for seed in seeds) / len(seeds) for row in (more, less)]
        conditions += [above(of(-lost), 0.0), size[0] < size[1]]
        grams = [milligrams.get(row) for row in (more, less)]
        conditions.append(None if None in grams else grams[0] < grams[1])
        told = "emissions not measured" if None in grams else f"{grams[0]:.2f} mg CO2e for {grams[1]:.2f}"
        told = f"{size[0]:.0f} MB for {size[1]:.0f}, {told}"
        text.append(f"{more} for {less}: {intervals.points({'en': lost})} points, {told}")
    third = -(-len(gone[0][0]) // 3)
    went = np.array([[part.mean(), part[:third].mean(), part[-third:].mean()] for of in gone for part in of])
    parts, thirds = (went[0::2, 0].mean(), went[1::2, 0].mean()), went[:, 1:].mean(axis=0)
    conditions += [bool(parts[1] > parts[0]), bool(thirds[1] > thirds[0]), above(of(kept), KEEPS)]
    text.append(f"of the feed-forward parts {parts[1]:.0%} goes, of attention {parts[0]:.0%}")
    text.append(f"of the last third of the layers {thirds[1]:.0%}, of the first {thirds[0]:.0%}")
    text.append(f"P+A keeps {intervals.percent({'en': kept})}")
    return decided(conditions, all(condition is False for condition in conditions)), "; ".join(text)
