"""Numbers with intervals, from records: F1 and its changes, where a curve falls, speed-ups; and how they are written.

A mean over several seeds stands with the lowest and the highest seed; where there is one seed, with the 95% bootstrap
interval over sentences.
"""

import math
from typing import NamedTuple

from mmalib.records import store
from mmalib.reports import figures
from mmalib.reports.structured import knee, knees
from mmalib.reports.unstructured import held

LANGUAGES = tuple(figures.COLOURS)
UNSEEN = tuple(language for language in LANGUAGES if language != "en")
NOTHING = 0.05  # an F1 under this is a model that finds next to nothing: no percentage is taken of it

Seed = dict[str, dict]  # one seed's records by the part that they play; the first is what others are compared with


class Interval(NamedTuple):
    """A mean between its lowest and its highest."""

    mean: float
    low: float
    high: float


def f1(record: dict, language: str) -> Interval:
    """Test F1 of a run, or of the beginning of its curve."""
    found = (record["scores"] or record["curve"][0]["scores"])[language]["test"]
    return Interval(found["f1"], found.get("f1_low", found["f1"]), found.get("f1_high", found["f1"]))


def collapsed(seeds: list[Seed], part: str) -> bool:
    """Whether a part finds next to nothing in English either, in any seed."""
    return any(f1(seed[part], "en").mean < NOTHING for seed in seeds)


def changes(seeds: list[Seed], part: str, against: str, of: str | None = None) -> dict[str, Interval]:
    """Points of F1 that a part has more than another, by language; with `of`, percent of that part's F1."""
    found: dict[str, list[Interval]] = {language: [] for language in LANGUAGES}
    for seed in seeds:
        for language, each in found.items():
            one, other = (f1(seed[name], language) for name in (part, against))
            scale = 100 / (f1(seed[of], language).mean if of else 1)
            each.append(minus(*(Interval(*(scale * value for value in f1)) for f1 in (one, other))))
    return {language: spread(each) for language, each in found.items()}


def kept(seeds: list[Seed], part: str, dense: str) -> dict[str, Interval]:
    """The percentage of the dense F1 that a part keeps, by language."""
    return {
        name: spread([percent_of(*(f1(seed[one], name) for one in (part, dense))) for seed in seeds])
        for name in LANGUAGES
    }


def kept_paired(seeds: list[Seed], graph: str, whole: str) -> dict[str, Interval]:
    """The percentage of the float F1 that a graph keeps, by language; both are of the same drawn sentences."""
    found: dict[str, list[Interval]] = {language: [] for language in LANGUAGES}
    for seed in seeds:
        for language, change in paired([seed], graph).items():
            found[language].append(Interval(*(100 + points / f1(seed[whole], language).mean for points in change)))
    return {language: spread(each) for language, each in found.items()}


def paired(seeds: list[Seed], graph: str) -> dict[str, Interval]:
    """Points of F1 that a graph has more than the float one, by language; both are of the same drawn sentences."""
    found = [seed["changed words"]["changed"][graph] for seed in seeds]
    ends = ("points", "points_low", "points_high")
    return {name: spread([Interval(*(one[name][end] for end in ends)) for one in found]) for name in LANGUAGES}


def more_than_english(seeds: list[Seed], graph: str) -> list[Interval]:
    """Points that each unseen language loses beyond what English loses."""
    of_seeds = [paired([seed], graph) for seed in seeds]
    return [spread([minus(change["en"], change[language]) for change in of_seeds]) for language in UNSEEN]


def unseen(by_language: dict[str, Interval]) -> list[Interval]:
    """The intervals of the languages that were not tuned on."""
    return [by_language[language] for language in UNSEEN]


def falls(trajectories: list[dict]) -> dict[str, Interval]:
    """The share of heads at which F1 falls, as pruned, by language; where it never does, all of them."""
    found = knees(store.curves(trajectories))
    found = found[~found["recovered"]].fillna({"knee": 1.0})
    return {name: spread([exact(at) for at in group["knee"]]) for name, group in found.groupby("language")}


def fall(record: dict, language: str) -> Interval:
    """The sparsity at which F1 falls while a model is pruned and trained on; 1 where it never does."""
    points = held(store.curves([record])).query("language == @language and split == 'test'").sort_values("sparsity")
    at = knee(points["sparsity"].to_numpy(), points["f1"].to_numpy())
    return exact(1.0 if at is None else at)


def times(row: dict, other: dict | None = None) -> Interval:
    """A speed-up with its quartiles, or the quotient of two."""
    mean, low, high = (row.get(name, math.nan) for name in ("ratio", "ratio_low", "ratio_high"))
    if other is None:
        return exact(mean) if math.isnan(low) else Interval(mean, low, high)
    over, under = times(row), times(other)
    return Interval(over.mean / under.mean, over.low / under.high, over.high / under.low)


def exact(value: float) -> Interval:
    """A number that has no interval."""
    return Interval(value, value, value)


def minus(one: Interval, other: Interval) -> Interval:
    """A difference; both are taken as independent, though they are of the same sentences: this is the wider."""
    middle = one.mean - other.mean
    room = math.hypot((one.high - one.low) / 2, (other.high - other.low) / 2)
    return Interval(middle, middle - room, middle + room)


def percent_of(one: Interval, other: Interval) -> Interval:
    """One as a percentage of the other; both are taken as independent, as in `minus`."""
    middle = one.mean / other.mean
    room = math.hypot((one.high - one.low) / 2, middle * (other.high - other.low) / 2) / other.mean
    return Interval(*(100 * value for value in (middle, middle - room, middle + room)))


def spread(each: list[Interval]) -> Interval:
    """The mean over seeds, from the lowest to the highest; of one seed its own interval."""
    means = [one.mean for one in each]
    return each[0] if len(each) == 1 else Interval(sum(means) / len(means), min(means), max(means))


def show(interval: Interval, unit: str = "", digits: int = 0, sign: str = "") -> str:
    """An interval as text."""
    mean, low, high = (f"{round(value, digits) + 0.0:{sign}.{digits}f}" for value in interval)
    return mean + unit + (f" ({low} to {high})" if low != high else "")


def points(by_language: dict[str, Interval]) -> str:
    """Points of every language as text."""
    return ", ".join(f"{name} {show(by_language[name], digits=1, sign='+')}" for name in LANGUAGES)


def percent(by_language: dict[str, Interval], digits: int = 0) -> str:
    """Percentages of every language as text."""
    return ", ".join(f"{name} {show(by_language[name], '%', digits)}" for name in LANGUAGES)


def shares(at: dict[str, Interval]) -> str:
    """Shares of every language as text."""
    return ", ".join(f"{name} {_share(at[name])}" for name in LANGUAGES)


def _share(at: Interval) -> str:
    if at.low >= 1:
        return "never"
    if at.high >= 1:  # a mean of a share and of never says nothing
        return f"{at.low:.0%} to never"
    return show(Interval(*(100 * value for value in at)), "%")
