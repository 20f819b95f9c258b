"""Which words carry a difference in F1, and the paired interval, by hand and against the single scores."""

import random

import pytest

from mmalib.model.evaluate import changed_words, difference, entity_scores

WORDS = [["on", "Friday", "Ann", "left"], ["Friday", "came"], ["Ann", "and", "Bob"]]
GOLD = [["O", "O", "B-PER", "O"], ["O", "O"], ["B-PER", "O", "B-PER"]]
BEFORE = [["O", "O", "B-PER", "O"], ["O", "O"], ["B-PER", "O", "O"]]  # 2 right of 2, 3 in gold: F1 0.8
AFTER = [["O", "B-LOC", "B-PER", "O"], ["B-LOC", "O"], ["B-PER", "O", "B-PER"]]  # 3 of 5: F1 0.75


def test_one_frequent_word_carries_the_loss():
    found = changed_words(WORDS, GOLD, BEFORE, AFTER)
    assert found["points"] == pytest.approx(-5.0)
    assert (found["words"], found["changed"]) == (9, 3)
    assert found["most"][0] == {"word": "Friday", "times": 2, "how": "O to B-LOC"}
    assert found["points_without_first"] == pytest.approx(20.0)  # Bob alone: F1 1.0


def test_nothing_changed_is_no_difference():
    found = changed_words(WORDS, GOLD, BEFORE, BEFORE)
    assert found["most"] == [] and "points_without_first" not in found
    assert [found[f"points{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]


def test_the_paired_interval_is_that_of_the_difference():
    draw = random.Random(0)
    gold = [[draw.choice(["O", "B-PER", "B-LOC"]) for _ in range(6)] for _ in range(300)]
    noisy = [[tag if draw.random() < 0.7 else "O" for tag in tags] for tags in gold]  # both miss these
    worse = [[tag if draw.random() < 0.95 else "O" for tag in tags] for tags in noisy]
    found = difference(gold, noisy, worse)
    one, other = (entity_scores(gold, tags) for tags in (noisy, worse))
    assert found["points"] == pytest.approx(100 * (other["f1"] - one["f1"]))
    assert found["points_low"] < found["points"] < found["points_high"] < 0
    single = 100 * (one["f1_high"] - one["f1_low"])
    assert found["points_high"] - found["points_low"] < single  # what is hard for both takes no part
    assert difference(gold, noisy, worse) == found  # same seed, same numbers
