"""Windows score every word once; predictions equal those of one sentence at a time; clear errors."""

import random

import pytest
import torch

from mmalib.data import LABELS, subwords
from mmalib.model import backbones


@pytest.fixture(scope="module")
def tokenizer(tiny_backbone):
    return backbones.load_tokenizer(str(tiny_backbone))


@pytest.fixture(scope="module")
def model(tiny_backbone):
    return backbones.load_model(str(tiny_backbone), seed=3)


SOFT_HYPHEN = "\u00ad"  # a word of which the tokenizer leaves nothing
WORDS = ["Madrid", "de", "Internationale", "unbelievably", ",", "José", "x" * 40, "1998", "."]


def sentences(number, longest, seed, words=(*WORDS, SOFT_HYPHEN)):
    draw = random.Random(seed)
    return [[draw.choice(words) for _ in range(draw.randint(1, longest))] for _ in range(number)]


@pytest.mark.parametrize("max_length", [3, 8, 17, 64])
def test_every_word_is_scored_once_and_every_window_fits(tokenizer, max_length):
    given = [*sentences(40, 60, seed=max_length), ["word"] * 1238]
    found = subwords.encode(given, tokenizer, max_length).windows
    assert all(len(window.ids) <= max_length for window in found)
    scored = [(window.sentence, word) for window in found for _, word in window.scored]
    assert sorted(scored) == [(s, w) for s, words in enumerate(given) for w in range(len(words))]


def test_a_scored_word_is_its_own_first_subword(tokenizer):
    given = sentences(20, 80, seed=1)
    for window in subwords.encode(given, tokenizer, 32).windows:
        for position, word in window.scored:
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(given[window.sentence][word]))
            assert window.ids[position] == (pieces or [tokenizer.unk_token_id])[0]


def test_joined_is_encoded_together(tokenizer):
    one, other = sentences(12, 40, seed=2), sentences(9, 40, seed=3)
    tags = [["O"] * len(words) for words in one]
    parts = subwords.encode(one, tokenizer, 16, tags), subwords.encode(other, tokenizer, 16)
    assert subwords.joined(*parts) == subwords.encode([*one, *other], tokenizer, 16, [*tags, *[None] * 9])


def test_a_word_near_a_cut_is_scored_where_it_has_context(tokenizer):
    words = ["de"] * 500  # one subword each
    found = subwords.encode([words], tokenizer, 66).windows  # room for 64, neighbours share 16
    for window in found[:-1]:
        position, _ = window.scored[-1]
        assert len(window.ids) - 2 - position >= 7  # words to the right inside the window
    for window in found[1:]:
        position, _ = window.scored[0]
        assert position - 1 >= 7


def test_cuts_against_brute_force():
    draw = random.Random(5)
    for _ in range(500):
        room = draw.randint(1, 12)
        lengths = [draw.randint(1, room) for _ in range(draw.randint(1, 40))]
        after = 0
        for start, end, first, last in subwords._cuts(lengths, room):
            assert start <= first == after < last <= end
            assert sum(lengths[start:end]) <= room
            after = last
        assert after == len(lengths)


def test_predictions_do_not_depend_on_batching_or_padding(model, tokenizer):
    given = sentences(30, 12, seed=2, words=WORDS)
    said = subwords.word_logits(subwords.run_of(model), subwords.encode(given, tokenizer, 600), batch_tokens=400)
    predicted = subwords.tags(said, LABELS)
    assert predicted == subwords.predict_tags(model, tokenizer, given, max_length=600)
    for words, tags in zip(given, predicted, strict=True):
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        places = encoded.word_ids()
        with torch.inference_mode():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        for number, tag in enumerate(tags):
            assert tag == LABELS[best[places.index(number)]]


def test_a_word_without_subwords_gets_a_tag(model, tokenizer):
    (tags,) = subwords.predict_tags(model, tokenizer, [["a", SOFT_HYPHEN, "b"]], max_length=16)
    assert len(tags) == 3 and set(tags) <= set(LABELS)


def test_labels_sit_on_first_subwords_only(tokenizer):
    words, tags = ["Internationale", "de", "Madrid"], ["B-ORG", "I-ORG", "B-LOC"]
    label2id = {label: i for i, label in enumerate(LABELS)}
    (row,) = subwords.training_rows(subwords.encode([words], tokenizer, 128, [tags]), label2id)
    assert [LABELS[i] for i in row["labels"] if i != subwords.IGNORED] == tags
    assert row["labels"][0] == row["labels"][-1] == subwords.IGNORED
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])


def test_a_window_without_room_is_one_clear_line(tokenizer):
    with pytest.raises(ValueError, match="max_length is 2"):
        subwords.encode([["a"]], tokenizer, 2)


def test_a_sentence_without_words_has_no_tags(model, tokenizer):
    assert subwords.predict_tags(model, tokenizer, [[], ["a", "b"], []], max_length=16)[::2] == [[], []]
    assert subwords.predict_tags(model, tokenizer, [[]], max_length=16) == [[]]
    (none, rows) = subwords.word_logits(subwords.run_of(model), subwords.encode([[], ["a", "b"]], tokenizer, 16))
    assert none.shape == (0, len(LABELS)) and rows.shape == (2, len(LABELS))
