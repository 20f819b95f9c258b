"""Numbers with intervals, from records: F1 and what is made of it, where a curve falls, speed-ups; and their text.

A number is an array: first its value, then what it would have been in `DRAWS` other draws (the bootstrap, Efron 1979).
Sums, differences and quotients of such arrays are numbers again, and an interval is read off in the end. A draw takes
as many sentences of every test set as there are, with replacement, and as many seeds: the same for every run, since
all were scored on the same sentences, so that what is hard for two runs takes no part in their difference. So an
interval holds both what other sentences and what other seeds would have changed; of one seed, the sentences alone.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mmalib.records import counts, store
from mmalib.reports import figures
from mmalib.reports.structured import KEPT
from mmalib.reports.unstructured import held

LANGUAGES = tuple(figures.COLOURS)
UNSEEN = tuple(language for language in LANGUAGES if language != "en")
NOTHING = 0.05  # an F1 under this is a model that finds next to nothing: no percentage is taken of it
DRAWS = 1000

Number = np.ndarray  # [1 + DRAWS]
Seed = dict[str, dict]  # one seed's records by the part that they play; the first is what others are compared with


class Interval(NamedTuple):
    """A value between the ends of its 95% interval."""

    value: float
    low: float
    high: float


def of(number: Number) -> Interval:
    """What an array says in the end."""
    return Interval(float(number[0]), *np.percentile(number[1:], [2.5, 97.5]).tolist())


def f1(record: dict, language: str) -> Number:
    """Test F1 of a run."""
    return of_scores(record["scores"][language]["test"])


def of_scores(scores: dict) -> Number:
    """F1 of one set of sentences from what was right, predicted and gold in each."""
    drawn = _sentences(scores["sentences"]) @ _counts(scores["counts"])  # [1 + DRAWS, right/predicted/gold]
    return 2 * drawn[:, counts.RIGHT] / np.maximum(drawn[:, counts.PREDICTED] + drawn[:, counts.GOLD], 1)


def quality(record: dict, language: str) -> Number:
    """Test F1 of a run, or Pearson's r where its task is similarity."""
    scores = record["scores"][language]["test"]
    if "values" not in scores:
        return of_scores(scores)
    x, y = (np.array(scores["values"][name]) for name in ("gold", "predicted"))
    mean = _sentences(len(x)).astype(float) @ np.stack([x, y, x * y, x * x, y * y], axis=1) / len(x)
    spread = (mean[:, 3] - mean[:, 0] ** 2) * (mean[:, 4] - mean[:, 1] ** 2)
    return (mean[:, 2] - mean[:, 0] * mean[:, 1]) / np.sqrt(np.maximum(spread, 1e-12))


def over_seeds(seeds: Sequence[Seed], what: Callable[[Seed], Number]) -> Number:
    """The mean over seeds."""
    each = np.stack([what(seed) for seed in seeds], axis=1)  # [1 + DRAWS, seeds]
    return (_seeds(len(seeds)) * each).sum(axis=1)


def change(seeds: Sequence[Seed], part: str, against: str) -> dict[str, Number]:
    """Points of F1 that a part has more than another, by language."""
    return {
        name: over_seeds(seeds, lambda seed, name=name: 100 * (f1(seed[part], name) - f1(seed[against], name)))
        for name in LANGUAGES
    }


def kept(seeds: Sequence[Seed], part: str, dense: str) -> dict[str, Number]:
    """The percentage of the dense F1 that a part keeps, by language."""
    return {
        name: over_seeds(seeds, lambda seed, name=name: 100 * f1(seed[part], name) / f1(seed[dense], name))
        for name in LANGUAGES
    }


def collapsed(seeds: Sequence[Seed], part: str) -> bool:
    """Whether a part finds next to nothing in English either, in any seed."""
    return any(f1(seed[part], "en")[0] < NOTHING for seed in seeds)


class Curve(NamedTuple):
    """F1 of one language along a run, from the dense model on."""

    shares: np.ndarray  # [points], of what is gone
    f1: np.ndarray  # [1 + DRAWS, points]

    def fall(self) -> Number:
        """The share at which F1 first falls under 95% of its start, by a straight line; 1 where it never does."""
        below = self.f1 < KEPT * self.f1[:, :1]
        after = np.where(below.any(axis=1), below.argmax(axis=1), len(self.shares) - 1)
        rows, wanted = np.arange(len(self.f1)), KEPT * self.f1[:, 0]
        before = np.maximum(after - 1, 0)
        drop = self.f1[rows, before] - self.f1[rows, after]
        part = (self.f1[rows, before] - wanted) / np.where(drop > 0, drop, 1)
        at = self.shares[before] + part * (self.shares[after] - self.shares[before])
        return np.where(below.any(axis=1), at, 1.0)

    def kept_at(self, share: Number) -> Number:
        """The percentage of its start that F1 has at a share of each draw's own, by a straight line."""
        after = np.clip(np.searchsorted(self.shares, share), 1, len(self.shares) - 1)
        rows, width = np.arange(len(self.f1)), self.shares[after] - self.shares[after - 1]
        part = np.clip((share - self.shares[after - 1]) / width, 0, 1)
        values = (1 - part) * self.f1[rows, after - 1] + part * self.f1[rows, after]
        return 100 * values / np.maximum(self.f1[:, 0], 1e-9)


def trajectory(record: dict, language: str) -> Curve:
    """What heads leave behind, as pruned, without recovery."""
    points = [point for point in record["curve"] if not point["recovered"]]
    return _curve(points, [point["share"] for point in points], language)


def on_the_way(record: dict, language: str) -> Curve:
    """What is left while a model is pruned and trained on, right before each mask update."""
    chosen = held(store.curves([record])).query("language == @language and split == 'test'")
    places = sorted({(row.sparsity, row.step, row.stage) for row in chosen.itertuples()})
    by_place = {(point["sparsity"], point["step"], point["stage"]): point for point in record["curve"]}
    return _curve([by_place[place] for place in places], [sparsity for sparsity, *_ in places], language)


def times(row: dict, other: dict | None = None) -> Interval:
    """A speed-up with its quartiles over turns, or the quotient of two."""
    value = row["ratio"]
    own = Interval(value, row.get("ratio_low", value), row.get("ratio_high", value))
    if other is None:
        return own
    under = times(other)
    return Interval(own.value / under.value, own.low / under.high, own.high / under.low)


# ---- What an interval settles ----


def above(interval: Interval, wanted: float) -> bool | None:
    """Whether a number is higher; None where its interval does not settle it."""
    return True if interval.low > wanted else False if interval.high < wanted else None


def at_most(interval: Interval, wanted: float) -> bool | None:
    """Whether a number is no higher; None where its interval does not settle it."""
    return True if interval.high <= wanted else False if interval.low > wanted else None


def within(interval: Interval, low: float, high: float) -> bool | None:
    """Whether a number lies between two; None where its interval does not settle it."""
    if low <= interval.low and interval.high <= high:
        return True
    return False if interval.high < low or interval.low > high else None


# ---- As text ----


def show(interval: Interval, unit: str = "", digits: int = 0, sign: str = "") -> str:
    """An interval as text."""
    value, low, high = (f"{round(value, digits) + 0.0:{sign}.{digits}f}" for value in interval)
    return value + unit + (f" ({low} to {high})" if low != high else "")


def points(by_language: dict[str, Number]) -> str:
    """Points of every language as text."""
    return ", ".join(f"{name} {show(of(number), digits=1, sign='+')}" for name, number in by_language.items())


def percent(by_language: dict[str, Number], digits: int = 0) -> str:
    """Percentages of every language as text."""
    return ", ".join(f"{name} {show(of(number), '%', digits)}" for name, number in by_language.items())


def shares(at: dict[str, Number]) -> str:
    """Shares of every language as text."""
    return ", ".join(f"{name} {_share(of(number))}" for name, number in at.items())


def _share(at: Interval) -> str:
    if at.low >= 1:
        return "never"
    if at.high >= 1:  # a mean of a share and of never says nothing
        return f"{at.low:.0%} to never"
    return show(Interval(*(100 * value for value in at)), "%")


def _curve(chosen: list[dict], at: list[float], language: str) -> Curve:
    return Curve(np.array(at), np.stack([of_scores(point["scores"][language]["test"]) for point in chosen], axis=1))


@lru_cache(maxsize=512)
def _counts(text: str) -> np.ndarray:
    return counts.read(text).sum(axis=1).astype(np.float32)  # [sentences, right/predicted/gold]


@lru_cache(maxsize=32)
def _sentences(number: int) -> np.ndarray:
    """How often each sentence is drawn, [1 + DRAWS, sentences]; first every one once."""
    draw = np.random.default_rng(number)
    drawn = [np.bincount(draw.integers(number, size=number), minlength=number) for _ in range(DRAWS)]
    return np.stack([np.ones(number), *drawn]).astype(np.float32)


@lru_cache(maxsize=32)
def _seeds(number: int) -> np.ndarray:
    """The weight of each seed, [1 + DRAWS, seeds]; first all alike.

    So few seeds vary less when they are drawn from themselves than when others are taken: by (n - 1) / n, which is put
    right here.
    """
    equal = np.full((1 + DRAWS, number), 1 / number)
    if number > 1:
        draw = np.random.default_rng(number)
        drawn = draw.multinomial(number, [1 / number] * number, size=DRAWS) / number
        equal[1:] += (drawn - 1 / number) * (number / (number - 1)) ** 0.5
    return equal
