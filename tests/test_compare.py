"""One run's scores against another's: what is lost in the unseen languages, what is kept, which run plays a part."""

import math

import pytest

from mmalib.reports.tables import multilingual_score, of_part, retention

BASE = {
    "en": {"test": {"f1": 0.90}, "dev": {"f1": 0.95}},
    "es": {"test": {"f1": 0.80}, "dev": {"f1": 0.70}},
    "nl": {"test": {"f1": 0.75}, "dev": {"f1": 0.60}},
}
PRUNED = {
    "en": {"test": {"f1": 0.45}, "dev": {"f1": 0.95}},
    "es": {"test": {"f1": 0.82}, "dev": {"f1": 0.35}},
    "nl": {"test": {"f1": 0.70}, "dev": {"f1": 0.60}},
}


def test_multilingual_score_by_hand():
    assert multilingual_score(PRUNED, BASE, "test") == pytest.approx(0.02 - 0.05)  # English's loss does not enter
    assert multilingual_score(PRUNED, BASE, "dev") == pytest.approx(-0.35)
    assert multilingual_score(BASE, BASE, "test") == 0.0


def test_retention_by_hand():
    assert retention(PRUNED, BASE, "test") == pytest.approx({"en": 50.0, "es": 102.5, "nl": 70 / 75 * 100})
    assert retention(PRUNED, BASE, "dev") == pytest.approx({"en": 100.0, "es": 50.0, "nl": 100.0})


def test_retention_of_nothing_is_not_a_number():
    base = {**BASE, "nl": {"test": {"f1": 0.0}}}
    kept = retention(PRUNED, base, "test")
    assert math.isnan(kept.pop("nl"))
    assert kept == pytest.approx({"en": 50.0, "es": 102.5})


def test_the_record_of_a_part_is_found_by_its_run():
    base, other = {"run": "01-a", "needs": {}}, {"run": "02-b", "needs": {"base": "01-a", "start": "01-gone"}}
    assert of_part(other, "base", [other, base]) is base
    assert of_part(other, "start", [other, base]) is None and of_part(base, "base", [other, base]) is None
