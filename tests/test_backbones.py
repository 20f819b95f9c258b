"""Windows score every word once; predictions equal those of one sentence at a time; clear errors."""

import random

import pytest
import torch
from transformers import AutoModel

from mmalib import backbones
from mmalib.corpus import LABELS


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
    found = backbones.windows(given, tokenizer, max_length)
    assert all(len(window.ids) <= max_length for window in found)
    scored = [(window.sentence, word) for window in found for _, word in window.scored]
    assert sorted(scored) == [(s, w) for s, words in enumerate(given) for w in range(len(words))]


def test_a_scored_word_is_its_own_first_subword(tokenizer):
    given = sentences(20, 80, seed=1)
    for window in backbones.windows(given, tokenizer, 32):
        for position, word in window.scored:
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(given[window.sentence][word]))
            assert window.ids[position] == (pieces or [tokenizer.unk_token_id])[0]


def test_a_word_near_a_cut_is_scored_where_it_has_context(tokenizer):
    words = ["de"] * 500  # one subword each
    found = backbones.windows([words], tokenizer, 66)  # room for 64, neighbours share 16
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
        for start, end, first, last in backbones._cuts(lengths, room):
            assert start <= first == after < last <= end
            assert sum(lengths[start:end]) <= room
            after = last
        assert after == len(lengths)


def test_predictions_do_not_depend_on_batching_or_padding(model, tokenizer):
    given = sentences(30, 12, seed=2, words=WORDS)
    predicted = backbones.predict_tags(model, tokenizer, given, max_length=600, batch_tokens=400)
    for words, tags in zip(given, predicted, strict=True):
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        places = encoded.word_ids()
        with torch.inference_mode():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        for number, tag in enumerate(tags):
            assert tag == LABELS[best[places.index(number)]]


def test_a_word_without_subwords_gets_a_tag(model, tokenizer):
    (tags,) = backbones.predict_tags(model, tokenizer, [["a", SOFT_HYPHEN, "b"]], max_length=16)
    assert len(tags) == 3 and set(tags) <= set(LABELS)


def test_labels_sit_on_first_subwords_only(tokenizer):
    words, tags = ["Internationale", "de", "Madrid"], ["B-ORG", "I-ORG", "B-LOC"]
    label2id = {label: i for i, label in enumerate(LABELS)}
    (row,) = backbones.training_rows([words], [tags], tokenizer, label2id, 128)
    assert [LABELS[i] for i in row["labels"] if i != backbones.IGNORED] == tags
    assert row["labels"][0] == row["labels"][-1] == backbones.IGNORED
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])


def test_the_head_comes_from_the_seed_and_the_labels_have_names(tiny_backbone):
    one, same, other = (backbones.load_model(str(tiny_backbone), seed=s) for s in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.config.id2label == dict(enumerate(LABELS)) and one.dtype == torch.float32


def test_freezing_keeps_embeddings_and_lower_layers(tiny_backbone):
    model = backbones.load_model(str(tiny_backbone))
    backbones.freeze_(model, 1)
    assert not any(p.requires_grad for p in model.base_model.embeddings.parameters())
    assert [all(p.requires_grad for p in layer.parameters()) for layer in backbones.layers(model)] == [False, True]


def test_unknown_names_and_incomplete_weights_are_one_clear_line(tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match="'bert-huge' is neither a backbone .*mini.* nor a folder"):
        backbones.locate("bert-huge")
    whole = AutoModel.from_pretrained(tiny_backbone)
    state = {k: v for k, v in whole.state_dict().items() if "layer.1.attention" not in k}
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lack .* tensors"):
        backbones.load_model(str(tmp_path))
    with pytest.raises(ValueError, match="max_length is 2"):
        backbones.windows([["a"]], backbones.load_tokenizer(str(tiny_backbone)), 2)


def test_the_hub_out_of_reach_is_one_clear_line():
    with pytest.raises(ValueError, match="'xlm' .FacebookAI/xlm-roberta-base. could not be fetched"):
        backbones.load_model("xlm")


def test_other_weights_under_the_same_name_are_told_apart(tmp_path, tiny_backbone):
    one = backbones.fingerprint(str(tiny_backbone))
    model = AutoModel.from_pretrained(tiny_backbone)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert one == backbones.fingerprint(str(tiny_backbone)) != backbones.fingerprint(str(tmp_path))
    assert backbones.fingerprint("xlm") is None
