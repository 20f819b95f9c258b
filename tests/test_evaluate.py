"""Entity scores against the shared task's own counting rules, and the interval against a direct bootstrap."""

import json
import random
import warnings

import numpy as np
import pytest
from seqeval.metrics import classification_report, f1_score

from mmalib.data import LABELS
from mmalib.model.evaluate import TYPES, entity_scores
from mmalib.records import counts

# --- conlleval.pl, written again from its rules: one pass over both columns, boundaries by comparison ---


def split_tag(tag):
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def end_of_chunk(before, tag):
    (last, last_kind), (now, kind) = split_tag(before), split_tag(tag)
    if last in "BI" and now in "BO":
        return True
    return last != "O" and last_kind != kind


def start_of_chunk(before, tag):
    (last, last_kind), (now, kind) = split_tag(before), split_tag(tag)
    if now == "B" or (last == "O" and now == "I"):
        return True
    return now != "O" and last_kind != kind


def conlleval(gold, predicted):
    """(right, predicted, gold) by type, counted word by word, with a boundary after each sentence."""
    found = {name: [0, 0, 0] for name in TYPES}
    last_gold = last_guess = "O"
    inside = None  # the type of a chunk that is right so far
    pairs = []
    for gold_tags, guess_tags in zip(gold, predicted, strict=True):
        pairs += [*zip(gold_tags, guess_tags, strict=True), ("O", "O")]
    for tag, guess in [*pairs, ("O", "O")]:
        if inside:
            ends = end_of_chunk(last_gold, tag), end_of_chunk(last_guess, guess)
            if all(ends):
                found[inside][0] += 1
                inside = None
            elif any(ends) or split_tag(tag)[1] != split_tag(guess)[1]:
                inside = None
        starts = start_of_chunk(last_gold, tag), start_of_chunk(last_guess, guess)
        if all(starts) and split_tag(tag)[1] == split_tag(guess)[1]:
            inside = split_tag(tag)[1]
        if starts[1]:
            found[split_tag(guess)[1]][1] += 1
        if starts[0]:
            found[split_tag(tag)[1]][2] += 1
        last_gold, last_guess = tag, guess
    return found


def ratio(part, whole):
    return part / whole if whole else 0.0


def expected_scores(count):
    right, predicted, gold = count
    precision, recall = ratio(right, predicted), ratio(right, gold)
    return {"f1": ratio(2 * precision * recall, precision + recall), "precision": precision, "recall": recall}


def assert_as_conlleval(gold, predicted):
    scores = entity_scores(gold, predicted, resamples=10)
    by_type = conlleval(gold, predicted)
    total = [sum(column) for column in zip(*by_type.values(), strict=True)]
    assert {key: scores[key] for key in ("f1", "precision", "recall")} == pytest.approx(expected_scores(total))
    assert scores["entities"] == total[2]
    for name, count in by_type.items():
        expected = {**expected_scores(count), "entities": count[2]}
        assert scores["types"][name] == pytest.approx(expected), name


def tags(*lines):
    return [line.split() for line in lines]


@pytest.mark.parametrize(
    ("gold", "predicted", "right", "found", "correct"),
    [
        (["B-PER I-PER O"], ["I-PER I-PER O"], 1, 1, 1),  # I- without B- is an entity
        (["O B-PER I-PER"], ["O I-PER I-PER"], 1, 1, 1),
        (["B-PER B-PER"], ["B-PER B-PER"], 2, 2, 2),  # adjacent, one type
        (["B-PER B-PER"], ["B-PER I-PER"], 2, 1, 0),
        (["B-PER I-PER"], ["B-PER B-PER"], 1, 2, 0),
        (["B-PER B-ORG"], ["B-PER I-ORG"], 2, 2, 2),  # the type changes inside I-
        (["B-PER I-PER I-PER"], ["B-PER I-ORG I-PER"], 1, 3, 0),
        (["B-PER I-PER"], ["B-ORG I-ORG"], 1, 1, 0),  # right ends, wrong type
        (["O B-LOC"], ["O B-LOC"], 1, 1, 1),  # up to the end of the sentence
        (["O B-LOC", "I-LOC O"], ["O B-LOC", "I-LOC O"], 2, 2, 2),  # never over the end of a sentence
        (["B-LOC", "B-LOC"], ["B-LOC", "I-LOC"], 2, 2, 2),
        (["B-LOC O", "O"], ["O O", "O"], 1, 0, 0),
        (["O O", "O"], ["O B-MISC", "O"], 0, 1, 0),
        (["O O", "O"], ["O O", "O"], 0, 0, 0),
        (["", "B-PER"], ["", "B-PER"], 1, 1, 1),  # a sentence without words
    ],
)
def test_edge_cases(gold, predicted, right, found, correct):
    gold, predicted = tags(*gold), tags(*predicted)
    totals = [sum(column) for column in zip(*conlleval(gold, predicted).values(), strict=True)]
    assert totals == [correct, found, right]  # the oracle itself, against numbers by hand
    assert_as_conlleval(gold, predicted)


@pytest.mark.parametrize("seed", range(300))
def test_random_tags_count_as_in_conlleval(seed):
    draw = random.Random(seed)
    weights = draw.choice([[1] * 9, [8, 1, 1, 1, 1, 1, 1, 1, 1], [2, 1, 9, 0, 0, 1, 9, 0, 0]])
    gold = [draw.choices(LABELS, weights, k=draw.randrange(12)) for _ in range(draw.randrange(1, 15))]
    keep = draw.random()
    predicted = [[tag if draw.random() < keep else draw.choices(LABELS, weights)[0] for tag in s] for s in gold]
    assert_as_conlleval(gold, predicted)


def random_corpus(seed, sentences=200):
    draw = random.Random(seed)
    gold = [draw.choices(LABELS, [12] + [1] * 8, k=draw.randrange(1, 25)) for _ in range(sentences)]
    predicted = [[tag if draw.random() < 0.85 else draw.choice(LABELS) for tag in s] for s in gold]
    return gold, predicted


def test_agrees_with_seqeval_as_a_whole():
    gold, predicted = random_corpus(5)
    scores = entity_scores(gold, predicted)
    report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert scores["f1"] == pytest.approx(f1_score(gold, predicted))
    assert scores["precision"] == pytest.approx(report["micro avg"]["precision"])
    assert scores["recall"] == pytest.approx(report["micro avg"]["recall"])
    for name in TYPES:
        assert scores["types"][name]["f1"] == pytest.approx(report[name]["f1-score"])
        assert scores["types"][name]["entities"] == report[name]["support"]


def test_what_the_record_holds():
    scores = entity_scores(tags("B-PER I-PER O", "B-LOC O"), tags("B-PER I-PER O", "O B-LOC"))
    assert list(scores) == [
        "f1", "precision", "recall", "f1_low", "f1_high", "sentences", "words", "entities", "types", "counts",
    ]  # fmt: skip
    assert (scores["sentences"], scores["words"], scores["entities"]) == (2, 5, 2)
    assert scores["f1"] == scores["precision"] == scores["recall"] == 0.5
    assert (scores["f1_low"], scores["f1_high"]) == (0.0, 1.0)
    assert list(scores["types"]) == ["PER", "ORG", "LOC", "MISC"]
    assert scores["types"]["PER"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "entities": 1}
    assert scores["types"]["ORG"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "entities": 0}
    assert json.loads(json.dumps(scores)) == scores


def test_a_score_keeps_what_was_right_predicted_and_gold_in_every_sentence():
    gold, predicted = random_corpus(7)
    scores = entity_scores(gold, predicted)
    by_sentence = counts.read(scores["counts"])
    assert by_sentence.shape == (len(gold), len(TYPES), 3)
    for number in (0, 3, 199):  # one sentence alone is scored the same
        alone = conlleval([gold[number]], [predicted[number]])
        assert {name: by_sentence[number, TYPES.index(name)].tolist() for name in TYPES} == alone
    right, found, there = by_sentence.sum(axis=(0, 1))
    assert scores["f1"] == pytest.approx(2 * right / (found + there))
    assert len(scores["counts"]) < 6 * len(gold)  # bytes
    many = np.full((2, 4, 3), 409)  # every word of a long sentence an entity
    many[0, 1, 2] = 0
    assert np.array_equal(counts.read(counts.written(many)), many)


def test_no_entities_is_zero_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = entity_scores(tags("O O", "O"), tags("O O", "O"))
    assert [scores[key] for key in ("f1", "precision", "recall", "f1_low", "f1_high", "entities")] == [0] * 6


@pytest.mark.parametrize(
    ("gold", "predicted", "problem"),
    [
        ([], [], "no sentences to score"),
        (tags("O", "O"), tags("O"), "differ in number"),
        (tags("O", "O O"), tags("O", "O"), "differ in number"),
        (tags("O", "O", "B-PER"), tags("O", "O", "B-TIME"), "The tag 'B-TIME' is unknown"),
        (tags("O X"), tags("O O"), "The tag 'X' is unknown"),
        ([[0]], tags("O"), "The tag 0 is unknown"),
    ],
)
def test_what_cannot_be_scored_is_refused(gold, predicted, problem):
    with pytest.raises(ValueError, match=problem):
        entity_scores(gold, predicted)


# --- the interval ---


def test_the_interval_is_that_of_a_direct_bootstrap():
    gold, predicted = random_corpus(6, sentences=60)
    scores = entity_scores(gold, predicted, resamples=80, seed=3)
    draw, drawn = np.random.default_rng(3), []
    for _ in range(80):
        chosen = draw.integers(60, size=60)
        drawn.append(f1_score([gold[i] for i in chosen], [predicted[i] for i in chosen]))
    assert (scores["f1_low"], scores["f1_high"]) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert scores["f1_low"] < scores["f1"] < scores["f1_high"]


def test_the_interval_depends_on_the_seed_alone():
    gold, predicted = random_corpus(7)
    once, again, other = (entity_scores(gold, predicted, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert (once["f1_low"], once["f1_high"]) != (other["f1_low"], other["f1_high"])
    assert once["f1"] == other["f1"]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # In this population a sentence has 2 entities on average, each found with probability 0.8, and a wrong
    # one is added to a sentence with probability 0.2: F1 = 2 right / (predicted + gold).
    truth = 2 * (0.8 * 2) / ((0.8 * 2 + 0.2) + 2)
    draw = np.random.default_rng(0)
    covered = 0
    trials = 200
    for trial in range(trials):
        gold, predicted = [], []
        for entities in draw.integers(0, 5, size=120):
            found = draw.random(entities) < 0.8
            wrong = draw.random() < 0.2
            gold.append(["B-PER"] * entities + ["O"])
            predicted.append(["B-PER" if hit else "O" for hit in found] + ["B-LOC" if wrong else "O"])
        scores = entity_scores(gold, predicted, resamples=200, seed=trial)
        covered += scores["f1_low"] <= truth <= scores["f1_high"]
    # 95% of 200 is 190, with a standard error of 3; the percentile interval errs a little on the narrow side
    assert 178 <= covered <= 199
