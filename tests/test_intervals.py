"""Numbers with intervals: against a closed form, numpy's own interpolation, and the bootstrap of a record."""

import math

import numpy as np
import pytest

from mmalib.model.evaluate import difference, entity_scores
from mmalib.reports import intervals
from mmalib.reports.intervals import DRAWS, Curve, Interval

TAGS = (["B-PER", "O"], ["O", "O"])


def test_the_spread_over_seeds_and_sentences_is_that_of_the_closed_form():
    """Normal toy: y = seed + sentence; the variance of the mean is s²/n + t²/m, from what was drawn."""
    draw, number = np.random.default_rng(3), 400
    for seeds in (2, 3, 8):
        of_seed, of_sentence = draw.normal(0, 0.05, seeds), draw.normal(0, 1.0, number)
        weights = intervals._sentences(number)
        means = [one + weights @ of_sentence / weights.sum(axis=1) for one in of_seed]
        found = intervals.over_seeds(means, lambda mean, _: mean, ["en"])["en"]
        wanted = of_seed.var(ddof=1) / seeds + of_sentence.var() / number
        assert found[1:].var() == pytest.approx(wanted, rel=0.12)
        assert found[0] == pytest.approx(of_seed.mean() + of_sentence.mean())
        low, high = intervals.of(found)[1:]
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(wanted), rel=0.12)


def scored(right, sentences=600):
    gold = [TAGS[0]] * sentences
    return entity_scores(gold, [TAGS[0] if number < right else TAGS[1] for number in range(sentences)])


def test_one_seed_has_the_interval_of_its_record_and_pairs_are_paired():
    one, other = scored(300), scored(330)
    interval = intervals.of(intervals.of_scores(one))
    assert interval == pytest.approx((one["f1"], one["f1_low"], one["f1_high"]), abs=0.006)
    records = [{"scores": {name: {"test": scores} for name in intervals.LANGUAGES}} for scores in (one, other)]
    change = intervals.change([dict(zip("ab", records, strict=True))], "b", "a")["en"]
    gold = [TAGS[0]] * 600
    tags = ([TAGS[0] if number < right else TAGS[1] for number in range(600)] for right in (300, 330))
    paired = difference(gold, *tags)
    assert intervals.of(change) == pytest.approx([paired[f"points{end}"] for end in ("", "_low", "_high")], abs=0.4)


def test_falls_and_shares_kept_are_those_of_single_curves():
    draw = np.random.default_rng(0)
    shares = np.array([0.0, 0.1, 0.25, 0.5, 0.8])
    f1 = np.concatenate([[[0.8, 0.8, 0.78, 0.7, 0.1]], draw.uniform(0.2, 0.9, (DRAWS, 5))])
    f1[5] = 0.8  # never falls
    curve = Curve(shares, f1)
    falls = curve.fall()
    assert falls[0] == pytest.approx(np.interp(0.76, [0.7, 0.78], [0.5, 0.25])) and falls[5] == 1
    for row, at in zip(f1[:50], falls, strict=False):
        fine = np.linspace(0, 0.8, 80001)
        below = np.flatnonzero(np.interp(fine, shares, row) < 0.95 * row[0])
        assert at == pytest.approx(fine[below[0]] if len(below) else 1.0, abs=2e-5)
    wanted = [100 * np.interp(at, shares, row) / row[0] for row, at in zip(f1, falls, strict=True)]
    np.testing.assert_allclose(curve.kept_at(falls), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("interval", "least", "most", "between"),
    [
        (Interval(5, 4, 6), True, False, None),
        (Interval(4, 2, 6), None, None, None),
        (Interval(2, 1, 2.5), False, True, True),
        (Interval(9, 8, 10), True, False, False),
        (Interval(3, 3, 3), None, True, True),  # no more and no less settles nothing
    ],
)
def test_an_interval_settles_a_question_or_leaves_it_open(interval, least, most, between):
    assert intervals.within(interval, 3) is least and intervals.within(interval, -math.inf, 3) is most
    assert intervals.within(interval, 0, 5) is between
