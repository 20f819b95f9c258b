"""The rules for the claims about F1: from the runs of every seed to a verdict and the numbers it rests on.

Each takes the records of a claim's parts, seed by seed, and says when it holds and when it is contradicted; where
neither is so, it does not hold at this scale. What one seed has no interval for contradicts nothing.
"""

from mmalib.plan import CRITERIA, INT8_KINDS
from mmalib.reports import intervals
from mmalib.reports.intervals import LANGUAGES, Seed
from mmalib.reports.unstructured import NAMES

HOLDS, FAILS, CONTRADICTED, MISSING = "holds", "does not hold at this scale", "contradicted", "not measured"
HALF, THIRTY = (0.4, 0.6), (0.2, 0.4)  # "about half" and "near 30%" of the heads: one step of 1/12, and a bit, around
ALIKE = 0.1  # how far apart the languages' falls may lie: again about one step
FREE = 0.4  # the sparsity that the paper says costs nothing
KEEPS = 70.0  # % of F1: the paper's second order keeps 75 to 86% of Spanish and Dutch
AHEAD = 10.0  # % of the dense F1: the paper's smallest lead of second order in an unseen language is 14
POINT = 1.0  # of F1: what counts as little, and as no more than English; the paper's int8 loses about that
QAT_KEEPS = 98.0  # %, the paper's own number


def half_of_heads(seeds: list[Seed]) -> tuple[str, str]:
    """Every language falls at about half; against it: all fall earlier, or two far apart, in every seed."""
    at = intervals.falls([seed["heads"] for seed in seeds])
    means, lows, highs = zip(*at.values(), strict=True)
    text = f"F1 falls at {intervals.shares(at)} of the heads, as pruned"
    if HALF[0] <= min(means) and max(means) <= HALF[1] and max(means) - min(means) <= ALIKE:
        return HOLDS, text
    unlike, early = max(lows) - min(highs) > ALIKE, max(highs) < HALF[0]
    return (CONTRADICTED if len(seeds) > 1 and (unlike or early) else FAILS), text


def equal_heads(seeds: list[Seed]) -> tuple[str, str]:
    """Every language falls near 30%; against it: none does, in any seed."""
    at = intervals.falls([seed["uniform"] for seed in seeds])
    means, lows, highs = zip(*at.values(), strict=True)
    text = f"F1 falls at {intervals.shares(at)} of the heads, as pruned"
    if THIRTY[0] <= min(means) and max(means) <= THIRTY[1]:
        return HOLDS, text
    elsewhere = min(lows) > THIRTY[1] or max(highs) < THIRTY[0]  # in every language and seed
    return (CONTRADICTED if len(seeds) > 1 and elsewhere else FAILS), text


def criteria(seeds: list[Seed]) -> tuple[str, str]:
    """Second order keeps enough and leads by enough; against it: another that has learnt leads in both languages."""
    kept = {name: intervals.kept(seeds, name, "dense") for name in CRITERIA}
    text = "; ".join(f"{NAMES[name]} keeps {intervals.percent(kept[name])}" for name in kept)
    others = [name for name in kept if name != "obs" and not intervals.collapsed(seeds, name)]
    if not others:
        return FAILS, f"{text}; nothing is left to compare with"
    leads = [intervals.unseen(intervals.changes(seeds, "obs", name, of="dense")) for name in others]
    ahead = all(lead.mean >= AHEAD and lead.low > 0 for of_one in leads for lead in of_one)
    if ahead and all(each.mean >= KEEPS for each in intervals.unseen(kept["obs"])):
        return HOLDS, text
    return (CONTRADICTED if any(all(lead.high < 0 for lead in of_one) for of_one in leads) else FAILS), text


def curves(seeds: list[Seed]) -> tuple[str, str]:
    """No fall before 40%, a better end in every language; against it: an early fall, or linear ends better in all."""
    at = {
        language: intervals.spread([intervals.fall(seed["cubic"], language) for seed in seeds])
        for language in LANGUAGES
    }
    better = intervals.changes(seeds, "cubic", "linear")
    first = min(point["sparsity"] for point in seeds[0]["cubic"]["curve"] if point["sparsity"] > 0)
    text = f"F1 on the cubic curve falls at {intervals.shares(at)} (first measured at {first:.0%} sparsity)"
    text += f"; cubic ends {intervals.points(better)} points over linear"
    free = all(each.mean >= FREE for each in at.values())
    if free and all(each.mean > 0 for each in better.values()) and any(each.low > 0 for each in better.values()):
        return HOLDS, text
    early = len(seeds) > 1 and first <= FREE and any(each.high < FREE for each in at.values())
    return (CONTRADICTED if early or all(each.high < 0 for each in better.values()) else FAILS), text


def taught(seeds: list[Seed]) -> tuple[str, str]:
    """English moves little, Spanish and Dutch gain; against it: English moves much, or both lose."""
    gain = intervals.changes(seeds, "teacher", "plain")
    text, unseen = f"the teacher adds {intervals.points(gain)} points", intervals.unseen(gain)
    if abs(gain["en"].mean) <= POINT and all(each.low > 0 for each in unseen):
        return HOLDS, text
    much = gain["en"].low > POINT or gain["en"].high < -POINT
    return (CONTRADICTED if much or all(each.high < 0 for each in unseen) else FAILS), text


def int8(seeds: list[Seed]) -> tuple[str, str]:
    """No kind costs Spanish or Dutch a point more than English; against it: one does, or QAT keeps too little."""
    whole = [graph for graph in INT8_KINDS if not intervals.collapsed(seeds, graph)]
    more = [each for graph in whole for each in intervals.more_than_english(seeds, graph)]
    kept = intervals.kept_paired(seeds, "qat", "float")
    text = "; ".join(f"{graph} {intervals.points(intervals.paired(seeds, graph))}" for graph in INT8_KINDS)
    text += f" points; QAT keeps {intervals.percent(kept, digits=1)}"
    alike = len(whole) == len(INT8_KINDS) and all(each.mean <= POINT for each in more)
    if alike and all(each.mean >= QAT_KEEPS for each in kept.values()):
        return HOLDS, text
    worse = any(each.low > POINT for each in more) or any(each.high < QAT_KEEPS for each in kept.values())
    return (CONTRADICTED if worse else FAILS), text
