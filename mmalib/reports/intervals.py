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

from mmalib.records import counts
from mmalib.reports import figures
from mmalib.reports.structured import knee

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
    """Test F1 of a run, also in a further language; Pearson's r where its task is similarity."""
    scores = (record["scores"].get(language) or record["further"][language])["test"]
    if "values" not in scores:
        return of_scores(scores)
    x, y = (np.array(scores["values"][name]) for name in ("gold", "predicted"))
    mean = _sentences(len(x)).astype(float) @ np.stack([x, y, x * y, x * x, y * y], axis=1) / len(x)
    spread = (mean[:, 3] - mean[:, 0] ** 2) * (mean[:, 4] - mean[:, 1] ** 2)
    return (mean[:, 2] - mean[:, 0] * mean[:, 1]) / np.sqrt(np.maximum(spread, 1e-12))


def of_scores(scores: dict) -> Number:
    """F1 of one set of sentences from what was right, predicted and gold in each."""
    return counts.f1(_sentences(scores["sentences"]) @ _counts(scores["counts"]))


def over_seeds(seeds: Sequence, what: Callable[..., Number], languages: Sequence[str] = LANGUAGES) -> dict[str, Number]:
    """The mean over seeds of `what(seed, language)`, by language."""
    each = {name: np.stack([what(seed, name) for seed in seeds], axis=1) for name in languages}  # [1 + DRAWS, seeds]
    return {name: (_seeds(len(seeds)) * numbers).sum(axis=1) for name, numbers in each.items()}


def change(seeds: Sequence[Seed], part: str, against: str, languages: Sequence[str] = LANGUAGES) -> dict[str, Number]:
    """Points of F1 that a part has more than another, by language."""
    return over_seeds(seeds, lambda seed, name: 100 * (f1(seed[part], name) - f1(seed[against], name)), languages)


def kept(seeds: Sequence[Seed], part: str, dense: str) -> dict[str, Number]:
    """The percentage of the dense F1 that a part keeps, by language."""
    return over_seeds(seeds, lambda seed, name: 100 * f1(seed[part], name) / f1(seed[dense], name))


def collapsed(seeds: Sequence[Seed], *parts: str) -> bool:
    """Whether one of these parts finds next to nothing in English either, in any seed."""
    return any(f1(seed[part], "en")[0] < NOTHING for seed in seeds for part in parts)


class Curve(NamedTuple):
    """F1 of one language along a run, from the dense model on."""

    shares: np.ndarray  # [points], of what is gone
    f1: np.ndarray  # [1 + DRAWS, points]

    def fall(self) -> Number:
        """The share at which F1 first falls under 95% of its start, by a straight line; 1 where it never does."""
        return np.nan_to_num([knee(self.shares, one) for one in self.f1], nan=1.0)

    def kept_at(self, shares: Number) -> Number:
        """The percentage of its start that F1 has at a share of each draw's own, by a straight line."""
        f1 = [np.interp(share, self.shares, one) for share, one in zip(shares, self.f1, strict=True)]
        return 100 * np.array(f1) / np.maximum(self.f1[:, 0], 1e-9)


def curve(points: Sequence[dict], along: str, language: str) -> Curve:
    """F1 at these points of a record against one of their values."""
    f1 = np.stack([of_scores(point["scores"][language]["test"]) for point in points], axis=1)
    return Curve(np.array([point[along] for point in points]), f1)


def times(row: dict, other: dict | None = None) -> Interval:
    """A speed-up with its quartiles over turns, or the quotient of two."""
    own = Interval(*(row.get(name, row["ratio"]) for name in ("ratio", "ratio_low", "ratio_high")))
    if other is None:
        return own
    under = times(other)
    return Interval(own.value / under.value, own.low / under.high, own.high / under.low)


def within(interval: Interval, low: float, high: float = np.inf) -> bool | None:
    """Whether a number is above `low` and at most `high`; None where its interval does not settle it."""
    if low < interval.low and interval.high <= high:
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
    """Shares at which F1 falls as text; a mean of a share and of never says nothing."""
    texts = []
    for name, number in at.items():
        low, high = of(number)[1:]
        shown = f"{low:.0%} to never" if high >= 1 else show(of(100 * number), "%")
        texts.append(f"{name} {'never' if low >= 1 else shown}")
    return ", ".join(texts)


@lru_cache(maxsize=512)
def _counts(text: str) -> np.ndarray:
    return counts.read(text).sum(axis=1).astype(np.float32)  # [sentences, right/predicted/gold]


@lru_cache(maxsize=32)
def _sentences(number: int) -> np.ndarray:
    """How often each sentence is drawn, [1 + DRAWS, sentences]; first every one once."""
    return np.stack([np.ones(number), *counts.draws(number, DRAWS, number)]).astype(np.float32)


@lru_cache(maxsize=32)
def _seeds(number: int) -> np.ndarray:
    """The weight of each seed, [1 + DRAWS, seeds]; first all alike.

    So few seeds vary less when they are drawn from themselves than when others are taken: by (n - 1) / n, which is put
    right here.
    """
    equal = np.full((1 + DRAWS, number), 1 / number)
    if number > 1:
        drawn = np.random.default_rng(number).multinomial(number, [1 / number] * number, size=DRAWS) / number
        equal[1:] += (drawn - 1 / number) * (number / (number - 1)) ** 0.5
    return equal
