"""The generated sample: reproducible, well formed, not to be solved by memory or by capital letters."""

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from functools import cache

import pytest

from mmalib.data import sample

LANGUAGES = ("en", "es", "nl")
SPLITS = {"train": 2000, "dev": 400, "test": 400}
TYPES = {"PER", "ORG", "LOC", "MISC"}
# Changes with the templates, the module, Faker and Babel. Read some sentences before pasting a new value.
PINNED = "ab851a6d4ab2820be03a0b8a73bcdcea36df4ad4937792cc003c81b3cafc1242"

every_language = pytest.mark.parametrize("language", LANGUAGES)
every_split = pytest.mark.parametrize("split", SPLITS)


@cache
def corpus(seed=2024):
    return sample.generate(seed)


@cache
def templates(language):
    return {split: section["templates"] for split, section in sample.read_templates(language).items()}


def spans(tags):
    """{(start, end, type)} of well-formed IOB2 tags."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = start + 1
            while end < len(tags) and tags[end].startswith("I-"):
                end += 1
            found.add((start, end, tag[2:]))
    return found


def fold(text):
    """Without case and accents, so that MADRID, Madrid and Mádrid are one name."""
    letters = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def surfaces(sentences):
    """name -> Counter of its types."""
    found = defaultdict(Counter)
    for words, tags in sentences:
        for start, end, label in spans(tags):
            found[fold(" ".join(words[start:end]))][label] += 1
    return found


def f1(sentences, predict):
    gold = [spans(tags) for _, tags in sentences]
    predicted = [predict(words) for words, _ in sentences]
    right = sum(len(a & b) for a, b in zip(gold, predicted, strict=True))
    return 2 * right / (sum(map(len, gold)) + sum(map(len, predicted)))


def name_memoriser(train):
    """Longest known name wins, with the type it had most often; letter case and accents do not matter."""
    known = {name: types.most_common(1)[0][0] for name, types in surfaces(train).items()}

    def predict(words):
        found, start = set(), 0
        while start < len(words):
            for end in range(len(words), start, -1):
                label = known.get(fold(" ".join(words[start:end])))
                if label:
                    found.add((start, end, label))
                    start = end - 1
                    break
            start += 1
        return found

    return predict


def word_memoriser(train):
    """Every word gets the tag it had most often in training, unknown words O."""
    seen = defaultdict(Counter)
    for words, tags in train:
        for word, tag in zip(words, tags, strict=True):
            seen[fold(word)][tag] += 1
    tag_of = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    return lambda words: spans([tag_of.get(fold(word), "O") for word in words])


def capitals_are(label):
    """Every run of capitalised words is one entity of type `label`."""

    def predict(words):
        tags, inside = [], False
        for word in words:
            capital = word[0].isupper()
            tags.append("O" if not capital else f"I-{label}" if inside else f"B-{label}")
            inside = capital
        return spans(tags)

    return predict


def test_same_seed_same_corpus_other_seed_other_corpus():
    assert sample.generate(2024) == corpus()
    assert sample.generate(7) != corpus()


def test_corpus_is_the_pinned_one():
    text = json.dumps(corpus(), ensure_ascii=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


def test_languages_splits_and_counts():
    assert {
        language: {split: len(sentences) for split, sentences in splits.items()}
        for language, splits in corpus().items()
    } == {language: SPLITS for language in LANGUAGES}


@every_language
@every_split
def test_iob2_is_well_formed(language, split):
    for words, tags in corpus()[language][split]:
        assert len(words) == len(tags) > 0
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert tag == "O" or (tag[:2] in ("B-", "I-") and tag[2:] in TYPES)
            if tag.startswith("I-"):
                assert before in (f"B-{tag[2:]}", tag), (words, tags)


@every_language
@every_split
def test_no_notation_is_left_in_the_words(language, split):
    for words, _ in corpus()[language][split]:
        assert not re.search(r"[\[\]{}<>|^=]", " ".join(words)), words
        assert all(word and word == word.strip() and " " not in word for word in words)
        assert not words[0][0].islower(), words


@every_language
@every_split
def test_density_and_types_are_like_conll(language, split):
    sentences = corpus()[language][split]
    types = Counter(label for _, tags in sentences for *_, label in spans(tags))
    assert 1 <= sum(types.values()) / len(sentences) <= 2
    assert all(types[label] >= 0.08 * sum(types.values()) for label in TYPES), types


@every_language
def test_templates_are_many_and_none_is_in_two_splits(language):
    sections = templates(language)
    assert not sections["all"], "a template stands above the first split"
    everything = [template for section in sections.values() for template in section]
    assert len(everything) >= 60
    assert len(set(everything)) == len(everything)


@every_language
def test_held_out_templates_are_not_light_rewrites(language):
    """Stripped of slots and choices, no dev or test template is the skeleton of a training template."""

    def skeleton(template):
        return " ".join(re.sub(r"\[[^\[\]]*\]|\{[^}]*\}|<[^>]*>", " _ ", template).split())

    sections = {split: {skeleton(t) for t in templates(language)[split]} for split in SPLITS}
    wordy = {s for s in sections["train"] if len(re.findall(r"[^\W_]{3,}", s)) >= 2}
    assert not wordy & (sections["dev"] | sections["test"])


@pytest.mark.parametrize("seed", [2024, 7])
def test_names_of_one_split_occur_in_no_other(seed):
    """Across all languages, whatever the type, the case or the accents."""
    names = {split: set() for split in SPLITS}
    for language in LANGUAGES:
        for split in SPLITS:
            names[split] |= set(surfaces(corpus(seed)[language][split]))
    assert len(names["test"]) > 1000
    assert not names["train"] & names["dev"]
    assert not names["train"] & names["test"]
    assert not names["dev"] & names["test"]


@pytest.mark.parametrize("seed", [2024, 7])
def test_no_part_of_a_persons_name_is_shared_between_splits(seed):
    particles = {"van", "de", "den", "der", "ter", "ten"}
    parts = {split: set() for split in SPLITS}
    for language in LANGUAGES:
        for split in SPLITS:
            for words, tags in corpus(seed)[language][split]:
                for word, tag in zip(words, tags, strict=True):
                    if tag.endswith("PER") and not re.fullmatch(r"[A-Z]\.", word):
                        parts[split].add(fold(word))
    assert not (parts["train"] & (parts["dev"] | parts["test"])) - particles
    assert not (parts["dev"] & parts["test"]) - particles


@every_language
def test_no_sentence_twice(language):
    texts = [" ".join(words) for split in SPLITS for words, _ in corpus()[language][split]]
    assert len(set(texts)) == len(texts)


@every_language
@every_split
def test_plain_sentences_some_with_capitals_that_are_no_name(language, split):
    sentences = corpus()[language][split]
    plain = [words for words, tags in sentences if set(tags) == {"O"}]
    assert 0.1 <= len(plain) / len(sentences) <= 0.3
    assert any(word[0].isupper() for words in plain for word in words[1:])
    assert any(" ".join(words).isupper() for words in plain), "no plain headline"


@every_language
@every_split
def test_entities_at_the_very_start_and_the_very_end(language, split):
    sentences = corpus()[language][split]
    assert sum(tags[0] != "O" for _, tags in sentences) > 0.1 * len(sentences)
    assert sum(tags[-1] != "O" for _, tags in sentences) >= 5


@every_language
@every_split
def test_neighbours_of_the_same_and_of_another_type(language, split):
    same = other = 0
    for _, tags in corpus()[language][split]:
        for before, tag in zip(tags, tags[1:], strict=False):
            if before != "O" and tag.startswith("B-"):
                same += before[2:] == tag[2:]
                other += before[2:] != tag[2:]
    assert same >= 20
    assert other >= 10


@every_language
@every_split
def test_the_same_surface_has_several_types(language, split):
    found = surfaces(corpus()[language][split])
    assert sum(len(types) >= 2 for types in found.values()) >= 20
    pairs = {frozenset(pair) for types in found.values() for pair in zip(types, list(types)[1:], strict=False)}
    assert frozenset(("LOC", "ORG")) in pairs
    assert any("PER" in types and "LOC" in types for types in found.values())
    assert any("PER" in types and "MISC" in types for types in found.values())


@every_language
@every_split
def test_some_first_name_is_also_a_plain_word_there(language, split):
    sentences = corpus()[language][split]
    persons = {w for words, tags in sentences for w, t in zip(words, tags, strict=True) if t == "B-PER"}
    plain = {w for words, tags in sentences for w, t in zip(words, tags, strict=True) if t == "O"}
    kinds = sample.read_templates(language)[split]["kinds"]
    assert set(kinds["wordname"]) & persons & plain


@every_language
def test_nested_organisation_names(language):
    link = {"en": "of", "es": "de", "nl": "van"}[language]
    for split in SPLITS:
        assert any(
            link in words[start:end]
            for words, tags in corpus()[language][split]
            for start, end, label in spans(tags)
            if label == "ORG"
        )


@every_language
@pytest.mark.parametrize("split", ["dev", "test"])
def test_remembering_the_training_names_is_worth_nothing(language, split):
    for source in {"en", language}:
        train = corpus()[source]["train"]
        assert f1(train, name_memoriser(train)) > 0.6  # the baselines themselves work
        assert f1(train, word_memoriser(train)) > 0.6
        assert f1(corpus()[language][split], name_memoriser(train)) < 0.01
        assert f1(corpus()[language][split], word_memoriser(train)) < 0.1


@every_language
@pytest.mark.parametrize("label", sorted(TYPES))
def test_capital_letters_alone_are_not_enough(language, label):
    for split in ("dev", "test"):
        assert f1(corpus()[language][split], capitals_are(label)) < 0.4


def test_spanish_nationalities_are_labelled_like_the_others():
    """The convention of the module docstring: MISC, although in lower case."""
    names = sample.draw_names({language: sample.read_templates(language) for language in LANGUAGES}, 2024)
    nations = set(names["es"]["test"]["nation"])
    tags = Counter(
        tag for words, tags in corpus()["es"]["test"] for word, tag in zip(words, tags, strict=True) if word in nations
    )
    assert tags["B-MISC"] > 10
    assert set(tags) == {"B-MISC"}
