"""A model with a cut vocabulary reads covered text exactly as before, in all three architectures."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForTokenClassification,
    DistilBertTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
    XLMRobertaTokenizer,
)

from mmalib.data import LABELS, subwords
from mmalib.model import backbones
from mmalib.model import disk as folders
from mmalib.prune import vocabulary

ARCHITECTURES = ["bert", "distilbert", "xlm-roberta"]
SHAPE = dict(num_labels=len(LABELS), max_position_embeddings=256)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


@pytest.fixture(params=ARCHITECTURES)
def pair(request, word_pieces, unigram_pieces):
    """A random model of one architecture and its tokenizer."""
    torch.manual_seed(0)
    if request.param == "xlm-roberta":
        tokenizer = XLMRobertaTokenizer(vocab=unigram_pieces)
        config = XLMRobertaConfig(vocab_size=len(tokenizer) + 6, **SMALL, **SHAPE)
        return XLMRobertaForTokenClassification(config).eval(), tokenizer
    if request.param == "bert":
        config = BertConfig(vocab_size=len(word_pieces), **SMALL, **SHAPE)
        return BertForTokenClassification(config).eval(), BertTokenizer(vocab=word_pieces, do_lower_case=False)
    config = DistilBertConfig(vocab_size=len(word_pieces), dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SHAPE)
    tokenizer = DistilBertTokenizer(vocab=word_pieces, do_lower_case=False)
    return DistilBertForTokenClassification(config).eval(), tokenizer


@pytest.fixture(scope="module")
def sentences(sample_lines) -> list[list[str]]:
    lines = [line.split() for language in ("en", "es", "nl") for line in sample_lines[language][:25]]
    return [*lines, ["caf\u00e9", "\u03a9mega", "\u2603", "\u00ad", "x" * 120]]  # some of it unknown to every tokenizer


def logits(model, tokenizer, sentences):
    """Of all sentences in padded batches, windows and all: what the study computes."""
    label2id = {label: i for i, label in enumerate(LABELS)}
    rows = subwords.training_rows(subwords.encode(sentences, tokenizer, 128), label2id)
    with torch.no_grad():
        return [model(**batch).logits for batch in subwords.batches(rows, tokenizer, 8)]


def pieces(tokenizer, words):
    return tokenizer.backend_tokenizer.encode(words, is_pretokenized=True).tokens


@pytest.mark.parametrize("own_scripts", [False, True])
def test_covered_text_gives_the_same_pieces_and_logits(pair, sentences, own_scripts):
    model, tokenizer = pair
    wanted, before = logits(model, tokenizer, sentences), model.num_parameters()
    rows = model.get_input_embeddings().num_embeddings
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, sentences, own_scripts=own_scripts))
    for words in sentences:
        assert pieces(smaller, words) == pieces(tokenizer, words)
        ids, old = smaller(" ".join(words))["input_ids"], tokenizer(" ".join(words))["input_ids"]
        assert smaller.decode(ids) == tokenizer.decode(old)
    for found, value in zip(logits(model, smaller, sentences), wanted, strict=True):
        assert torch.equal(found, value)
    assert len(smaller) < rows and before - model.num_parameters() == 16 * (rows - len(smaller))
    assert model.config.vocab_size == len(smaller) == model.get_input_embeddings().num_embeddings


def test_no_more_is_kept_than_is_needed(pair, sentences):
    """What is kept beside the used ids is special or a single character."""
    _, tokenizer = pair
    ids = vocabulary.keep(tokenizer, sentences, own_scripts=True)
    used = {number for words in sentences for number in tokenizer(words, is_split_into_words=True)["input_ids"]}
    assert used <= set(ids)
    extra = tokenizer.convert_ids_to_tokens(sorted(set(ids) - used - set(tokenizer.all_special_ids)))
    more = [piece for piece in extra if len(piece.removeprefix("##").removeprefix("\u2581")) > 1]
    assert len(more) <= 1  # the least likely piece of Unigram


def test_ids_shrink_to_a_range_and_special_tokens_move_with_the_config(pair, sentences):
    model, tokenizer = pair
    model.config.cls_token_id = tokenizer.cls_token_id
    pad = tokenizer.pad_token_id
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, sentences))
    assert sorted(smaller.get_vocab().values()) == list(range(len(smaller)))
    assert smaller.special_tokens_map == tokenizer.special_tokens_map
    assert smaller.pad_token_id == pad == model.config.pad_token_id == model.get_input_embeddings().padding_idx
    assert model.config.cls_token_id == smaller.cls_token_id
    if model.config.model_type == "xlm-roberta":
        assert (model.config.bos_token_id, model.config.eos_token_id) == (smaller.bos_token_id, smaller.eos_token_id)
        assert smaller.mask_token_id == len(smaller) - 1 < tokenizer.mask_token_id
    else:
        assert smaller.cls_token_id < tokenizer.cls_token_id
    text = smaller("a", "b")["input_ids"]  # with the special tokens of a pair
    assert smaller.convert_ids_to_tokens(text) == tokenizer.convert_ids_to_tokens(tokenizer("a", "b")["input_ids"])


def test_save_and_load_bring_back_ids_and_logits_in_fewer_bytes(pair, sentences, tmp_path):
    model, tokenizer = pair
    folders.save(model, tokenizer, tmp_path / "whole")
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, sentences))
    folders.save(model, smaller, tmp_path / "cut")
    again, its_own = folders.load(tmp_path / "cut")
    other = ["unseen", "Words", "\u4e2d"]
    for words in [*sentences, other]:
        assert (
            its_own(words, is_split_into_words=True)["input_ids"] == smaller(words, is_split_into_words=True).input_ids
        )
    for found, wanted in zip(logits(again, its_own, sentences), logits(model, smaller, sentences), strict=True):
        assert torch.equal(found, wanted)
    assert folders.size_mb(tmp_path / "cut") < folders.size_mb(tmp_path / "whole")
    assert (tmp_path / "cut/tokenizer.json").stat().st_size < (tmp_path / "whole/tokenizer.json").stat().st_size


def test_uncovered_words_are_spelt_and_not_unknown(pair, sample_lines):
    model, tokenizer = pair
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, [["Madrid"]]))
    split = 0
    for line in sample_lines["nl"]:
        for word in line.split():
            if tokenizer.unk_token in pieces(tokenizer, [word]):
                continue
            found = pieces(smaller, [word])
            assert tokenizer.unk_token not in found
            split += len(found) > len(pieces(tokenizer, [word]))
    assert split > 1000
    assert tokenizer.unk_token not in pieces(smaller, ["\u4e2d"])


def test_of_the_scripts_of_the_text_only(pair):
    _, tokenizer = pair
    everything, latin = (set(vocabulary.keep(tokenizer, [["Madrid"]], own_scripts=own)) for own in (False, True))
    assert latin < everything
    vocabulary_ = tokenizer.get_vocab()
    assert vocabulary_["\u4e2d"] in everything - latin
    assert {number for piece, number in vocabulary_.items() if piece in set("zZ0,;")} <= latin


def test_the_price_of_an_unknown_character_stays(unigram_pieces):
    """Without the least likely piece an unknown character would be cheaper, and covered text be cut otherwise."""
    # q has no piece of its own. ▁qu + ax costs 50; ▁ + unknown + uax costs 2 and 10 more than the worst piece of all:
    # 57 while the one at -45 is there, 37 without it.
    scores = [("▁", -1.0), ("uax", -1.0), ("▁qu", -25.0), ("ax", -25.0), ("worst", -45.0)]
    tokenizer = XLMRobertaTokenizer(vocab=[*unigram_pieces[:4], *scores, ("<mask>", 0.0)])
    without = XLMRobertaTokenizer(vocab=[*unigram_pieces[:4], *scores[:-1], ("<mask>", 0.0)])
    assert pieces(tokenizer, ["quax"]) == ["<s>", "▁qu", "ax", "</s>"] != pieces(without, ["quax"])
    model = XLMRobertaForTokenClassification(XLMRobertaConfig(vocab_size=len(tokenizer), **SMALL, **SHAPE))
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, [["quax"], ["uax"]]))
    assert pieces(smaller, ["quax"]) == ["<s>", "▁qu", "ax", "</s>"]


def test_tokens_that_were_added_stay(pair, tmp_path):
    model, tokenizer = pair
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<date>", "covid"])
    with torch.no_grad():
        model.resize_token_embeddings(len(tokenizer))
    text = ["covid", "in", "Madrid", "<date>"]
    wanted = logits(model, tokenizer, [text])
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, [text]))
    assert pieces(smaller, text) == pieces(tokenizer, text)
    assert torch.equal(logits(model, smaller, [text])[0], wanted[0])
    folders.save(model, smaller, tmp_path / "cut")
    assert pieces(folders.load(tmp_path / "cut")[1], text) == pieces(tokenizer, text)


def test_a_tokenizer_without_a_class_of_its_own(unigram_pieces, sentences):
    own = XLMRobertaTokenizer(vocab=unigram_pieces)
    names = {name: token for name, token in own.special_tokens_map.items() if isinstance(token, str)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, **names)
    model = XLMRobertaForTokenClassification(XLMRobertaConfig(vocab_size=len(tokenizer), **SMALL, **SHAPE)).eval()
    wanted = logits(model, tokenizer, sentences)
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, sentences))
    for found, value in zip(logits(model, smaller, sentences), wanted, strict=True):
        assert torch.equal(found, value)


def test_padding_anywhere_and_a_post_processor_that_no_class_rebuilds(word_pieces, sentences):
    """XLM-RoBERTa counts positions from the number of padding, so that number must not move; [CLS] and [SEP] do."""
    order = ["Q", "[unused0]", "[PAD]", *(piece for piece in word_pieces if piece not in ("Q", "[PAD]"))]
    numbers = {piece: number for number, piece in enumerate(order)}
    own = BertTokenizer(vocab=numbers, do_lower_case=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer,
        **{name: token for name, token in own.special_tokens_map.items() if isinstance(token, str)},
    )
    config = XLMRobertaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SMALL, **SHAPE)
    model = XLMRobertaForTokenClassification(config).eval()
    wanted = logits(model, tokenizer, sentences)
    smaller = vocabulary.prune_(model, tokenizer, vocabulary.keep(tokenizer, sentences, own_scripts=True))
    assert smaller.pad_token_id == model.config.pad_token_id == 2
    for found, value in zip(logits(model, smaller, sentences), wanted, strict=True):
        assert torch.equal(found, value)
    for words in sentences:
        ids = smaller(words, is_split_into_words=True)["input_ids"]
        assert (ids[0], ids[-1]) == (smaller.cls_token_id, smaller.sep_token_id)
        assert smaller.convert_ids_to_tokens(ids) == pieces(tokenizer, words)


def test_the_embedding_still_learns_and_a_frozen_one_stays_frozen(pair, sentences):
    model, tokenizer = pair
    frozen = copy.deepcopy(model)
    backbones.freeze_(frozen, 0)
    ids = vocabulary.keep(tokenizer, sentences)
    for own, learns in ((model, True), (frozen, False)):
        vocabulary.prune_(own, tokenizer, ids)
        assert own.get_input_embeddings().weight.requires_grad is learns


def test_cutting_twice_and_cutting_nothing(pair, sentences):
    model, tokenizer = pair
    known = sorted(tokenizer.get_vocab().values())
    wanted = logits(model, tokenizer, sentences[:5])
    same = vocabulary.prune_(model, tokenizer, known)
    assert same.get_vocab() == tokenizer.get_vocab()
    once = vocabulary.prune_(model, same, vocabulary.keep(same, sentences))
    twice = vocabulary.prune_(model, once, vocabulary.keep(once, sentences[:5]))
    assert len(twice) < len(once) < len(same)
    for found, value in zip(logits(model, twice, sentences[:5]), wanted, strict=True):
        assert torch.equal(found, value)


def test_what_cannot_be_cut_says_so(pair):
    with pytest.raises(ValueError, match="no text"):
        vocabulary.keep(pair[1], [])
    bytes_ = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), unk_token="?", pad_token="_")
    with pytest.raises(ValueError, match="of the kind BPE"):
        vocabulary.keep(bytes_, [["a"]])
