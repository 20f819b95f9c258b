"""The rules for the claims about F1: from the runs of every seed to a verdict and the numbers it rests on.

A claim is a list of conditions, each of which an interval settles as met or as not met, or leaves open. A claim holds
where all are met, does not hold where one is not, and is undecided else. It is contradicted where the other way round
is what the intervals show. What was not measured decides nothing.
"""

from collections.abc import Sequence

import numpy as np

from mmalib.plan import CRITERIA, INT8_KINDS
from mmalib.reports import intervals, unstructured
from mmalib.reports.intervals import LANGUAGES, UNSEEN, Number, Seed, of, within

HOLDS, FAILS, CONTRADICTED = "holds", "does not hold", "contradicted"
UNDECIDED, MISSING = "undecided", "not measured"
HALF, THIRTY = (0.4, 0.6), (0.2, 0.4)  # "about half" and "near 30%" of the heads: one step of 1/12, and a bit, around
ALIKE = 10.0  # points of what languages keep where English has begun to fall
FREE = 0.4  # the sparsity that the paper says costs nothing
POINT = 1.0  # of F1: what counts as little, and as no more than English; the paper's int8 loses about that
QAT_KEEPS = 98.0  # %, the paper's own number
ADDS_UP = 2.0  # points between a sum and a loss: half of the interval of one F1 on the complete Spanish test set
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


def none_met(conditions: Sequence[Condition]) -> bool:
    """Whether an interval rules out every one of these."""
    return all(condition is False for condition in conditions)


def between(by_language: dict[str, Number], low: float, high: float = np.inf) -> list[Condition]:
    """Whether the numbers lie there, language by language."""
    return [within(of(number), low, high) for number in by_language.values()]


def falls(seeds: list[Seed], part: str, where: tuple[float, float]) -> tuple[str, str]:
    """Every language falls at such a share of heads, and keeps about what English keeps there."""
    pruned = [[point for point in seed[part]["curve"] if not point["recovered"]] for seed in seeds]  # not recovered
    curves = [{name: intervals.curve(points, "share", name) for name in LANGUAGES} for points in pruned]
    at = intervals.over_seeds(curves, lambda of_seed, name: of_seed[name].fall())

    def more(of_seed: dict[str, intervals.Curve], name: str) -> Number:
        share = of_seed["en"].fall()
        return of_seed[name].kept_at(share) - of_seed["en"].kept_at(share)

    fewer = intervals.over_seeds(curves, more, UNSEEN)
    text = f"F1 falls at {intervals.shares(at)} of the heads, as pruned; where English falls, the share kept is "
    text += f"{intervals.points(fewer)} points from that of English"
    alike = between(fewer, -ALIKE, ALIKE)
    early = all(of(number).high < where[0] for number in at.values())
    return decided([*between(at, *where), *alike], early or none_met(alike)), text


def criteria(seeds: list[Seed]) -> tuple[str, str]:
    """Second order keeps more of each unseen language than each rival that has learnt; against it: one keeps more."""
    keeps = {name: intervals.percent(intervals.kept(seeds, name, "dense")) for name in CRITERIA}
    names = {name: unstructured.called(seeds[0][name]["settings"]) for name in CRITERIA}
    text = "; ".join(f"{names[name]} keeps {percent}" for name, percent in keeps.items())
    rivals = [name for name in CRITERIA if name != "obs" and not intervals.collapsed(seeds, name)]
    if not rivals:
        return UNDECIDED, f"{text}; nothing is left to compare with"
    leads = {names[name]: intervals.change(seeds, "obs", name) for name in rivals}
    return _ahead(leads), f"{text}; {_over(leads)}"


def upstream(seeds: list[Seed]) -> tuple[str, str]:
    """Each unseen language keeps more than under both rivals; against it: both keep less than under one of them."""
    further = set.intersection(*(set(record.get("further", ())) for seed in seeds for record in seed.values()))
    rivals = {"downstream": "downstream on English labels", "english": "upstream on English text"}
    languages = (*LANGUAGES, *sorted(further))
    leads = {name: intervals.change(seeds, "three", rival, languages) for rival, name in rivals.items()}
    return _ahead(leads), _over(leads)


def _ahead(leads: dict[str, dict[str, Number]]) -> str:
    """Every unseen language is ahead of every rival; against it: one rival is ahead in both."""
    ahead = [between({language: lead[language] for language in UNSEEN}, 0.0) for lead in leads.values()]
    return decided(sum(ahead, []), any(map(none_met, ahead)))


def _over(leads: dict[str, dict[str, Number]]) -> str:
    return "; ".join(f"over {rival} {intervals.points(lead)} points" for rival, lead in leads.items())


def curves(seeds: list[Seed]) -> tuple[str, str]:
    """No fall before 40%, a better end in every language; against it: linear ends better in all."""
    better = intervals.change(seeds, "cubic", "linear")
    text, ends = f"cubic ends {intervals.points(better)} points over linear", between(better, 0.0)
    first = max(min(p["sparsity"] for p in seed["cubic"]["curve"] if p["sparsity"] > 0) for seed in seeds)
    if first > FREE:
        text = f"the first {FREE:.0%}: not measured, the curve begins at {first:.0%}; {text}"
        return (decided(ends, none_met(ends)) if False in ends else MISSING), text
    left = {name: min(unstructured.trained_on(seed["cubic"], name) for seed in seeds) for name in LANGUAGES}
    if min(left.values()) < KEEPS / 100:  # a fall that no zero has made
        alone = ", ".join(f"{name} {share:.0%}" for name, share in left.items())
        text = f"the first {FREE:.0%}: not told, training on alone leaves {alone} before a weight goes; {text}"
        return decided([None, *ends], none_met(ends)), text
    held = [unstructured.held(seed["cubic"]) for seed in seeds]
    at = intervals.over_seeds(held, lambda points, name: intervals.curve(points, "sparsity", name).fall())
    free = between(at, FREE)
    text = f"F1 on the cubic curve falls at {intervals.shares(at)}; {text}"
    return decided([*free, *ends], none_met(ends) or none_met(free)), text


def taught(seeds: list[Seed]) -> tuple[str, str]:
    """English moves little, Spanish and Dutch gain; against it: English moves much, or both lose."""
    gain = intervals.change(seeds, "teacher", "plain")
    little, helped = within(of(gain["en"]), -POINT, POINT), [within(of(gain[name]), 0.0) for name in UNSEEN]
    opposite = little is False or none_met(helped)
    return decided([little, *helped], opposite), f"the teacher adds {intervals.points(gain)} points"


def int8(seeds: list[Seed]) -> tuple[str, str]:
    """No kind costs Spanish or Dutch a point more than English; against it: QAT keeps too little of every language.

    What is trained on is compared with the same training in float, what is not with the model as it was.
    """
    lost, conditions = {}, []
    for kind in INT8_KINDS:
        lost[kind] = intervals.change(seeds, kind, "longer" if kind == "qat" else "float")
        more = {name: lost[kind]["en"] - lost[kind][name] for name in UNSEEN}
        conditions += [None] if intervals.collapsed(seeds, kind) else between(more, -np.inf, POINT)
    kept = intervals.kept(seeds, "qat", "longer")
    keeps = between(kept, QAT_KEEPS)
    text = "; ".join(f"{kind} {intervals.points(lost[kind])}" for kind in INT8_KINDS)
    text += f" points (QAT against the same training in float, of which it keeps {intervals.percent(kept, digits=1)}; "
    before = intervals.points(intervals.change(seeds, "qat", "float"))
    text += f"against the model before that training {before} points)"
    return decided([*conditions, *keeps], none_met(keeps)), text


def adds_up(seeds: list[Seed]) -> tuple[str, str]:
    """The loss of a combined model is about the sum of its parts'; against it: of a language it is not."""
    lost = intervals.change(seeds, "float", "complete")
    parts = [intervals.change(seeds, f"against {part}", part) for part in ("start", "int8")]
    off = {name: lost[name] - parts[0][name] - parts[1][name] for name in LANGUAGES}
    means = ", ".join(f"{name} {lost[name][0]:.1f} for {(lost[name] - off[name])[0]:.1f}" for name in LANGUAGES)
    conditions = [None] if intervals.collapsed(seeds, *seeds[0]) else between(off, -ADDS_UP, ADDS_UP)
    text = f"points lost for the sum of the parts (and what lies between): {means} ({intervals.points(off)})"
    return decided(conditions, False in conditions), text


def compound(seeds: list[Seed], fast: Condition) -> tuple[str, str]:
    """Nearly as fast as printed, and no language loses more than printed; against it: all lose more."""
    kept = intervals.kept(seeds, "int8", "dense")
    keeps = between(kept, COMPOUND_KEEPS)
    return decided([fast, *keeps], none_met(keeps)), f"keeps {intervals.percent(kept, digits=1)}"


def tasks(seeds: list[Seed]) -> tuple[str, str]:
    """One way of compressing leaves of Spanish and Dutch in similarity what it leaves in entities."""

    def more(seed: Seed, name: str) -> Number:
        f1 = {part: intervals.f1(record, name) for part, record in seed.items()}
        return 100 * (f1["similarity"] / f1["similarity, dense"] - f1["entities"] / f1["entities, dense"])

    apart = intervals.over_seeds(seeds, more)
    dead = intervals.collapsed(seeds, "similarity", "entities")
    alike = {name: None if dead else within(of(apart[name]), -SAME, SAME) for name in UNSEEN}
    outside = [name for name, one in alike.items() if one is False]
    alone = f"; {''.join(outside)} alone decides" * (len(outside) == 1)
    return decided([*alike.values()]), intervals.points(apart) + alone


def crossed(seeds: list[Seed], milligrams: dict[str, float], gone: Sequence) -> tuple[str, str]:
    """The third paper's four sentences; `gone` is the share of attention and of feed-forward that went, by layer."""
    adapters = intervals.change(seeds, "A", "FT", ["en"])
    kept = {"en": intervals.kept(seeds, "P+A", "FT")["en"]}
    parts = {"adapters equal full tuning": within(of(adapters["en"]), -POINT)}
    parts |= {f"P+A keeps {KEEPS:.0f}%": within(of(kept["en"]), KEEPS)}
    text = [f"adapters add {intervals.points(adapters)} points; P+A keeps {intervals.percent(kept)}"]
    for more, less in (("D+A", "A"), ("P+D+A", "P+A")):
        lost = intervals.change(seeds, more, less, ["en"])
        size = [np.mean([seed[row]["megabytes"] for seed in seeds]) for row in (more, less)]
        grams = [milligrams.get(row) for row in (more, less)]
        parts |= {f"{more} costs quality": within(of(-lost["en"]), 0.0), f"{more} is smaller": bool(size[0] < size[1])}
        parts |= {f"{more} emits less": None if None in grams else grams[0] < grams[1]}
        told = "an estimated {:.2f} mg CO2e for {:.2f} per 1,000 sentences"
        told = "emissions not measured" if None in grams else told.format(*grams)
        text += [f"{more} for {less}: {intervals.points(lost)} points, {size[0]:.0f} MB for {size[1]:.0f}, {told}"]
    third = -(-len(gone[0][0]) // 3)
    went = np.array([[part.mean(), part[:third].mean(), part[-third:].mean()] for of in gone for part in of])
    attention, feed_forward, (first, last) = went[0::2, 0], went[1::2, 0], went[:, 1:].reshape(-1, 2, 2).mean(axis=1).T
    for name, one, other in (("feed-forward goes", feed_forward, attention), ("last layers go", last, first)):
        parts[f"{name} first"] = bool(one[0] > other[0]) if len({*(one > other).tolist()}) == 1 else None  # all alike
    text += [f"of the feed-forward parts {feed_forward.mean():.0%} goes, of attention {attention.mean():.0%}"]
    text += [f"of the last third of the layers {last.mean():.0%}, of the first {first.mean():.0%}"]
    for answer, one in (("met", True), ("undecided", None), ("not met", False)):
        if names := [name for name, met in parts.items() if met is one]:
            text = [f"{answer}: {', '.join(names)}", *text]
    return decided(conditions := [*parts.values()], none_met(conditions)), "; ".join(text)
