"""The answers are those of Transformers' own token-classification pipeline, fed with the same logits.

Its postprocessing takes two neighbours without a blank between them for one word, so that "Madrid." is one. Where words
stand apart it is asked as a whole; elsewhere it is told which subwords begin a word, and does all the rest.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from lookup_model import LABELS

from mmalib import NER
from mmalib.use import ner as module

torch = pytest.importorskip("torch")
pipelines = pytest.importorskip("transformers.pipelines.token_classification")


@pytest.fixture
def pipeline(lookup):
    """The real pipeline's methods, with a tokenizer and labels and no model."""
    from transformers import AutoTokenizer

    made = pipelines.TokenClassificationPipeline.__new__(pipelines.TokenClassificationPipeline)
    made.tokenizer = AutoTokenizer.from_pretrained(lookup)
    made.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
    return made


def outputs(ner, text, table):
    """What `_forward` would hand over, and which subwords begin a word."""
    (part,) = module._parts(text, 1)
    ((rows, encoding, of_words),) = ner._read([part])
    ids = [3 if place is None else encoding.ids[place] for word in of_words for place in word]
    assert np.allclose(np.exp(table[ids]) / np.exp(table[ids]).sum(-1, keepdims=True), rows, atol=1e-6)
    begins = [place == 0 for word in of_words for place in range(len(word))]
    spans = module._subwords(part, rows, of_words, encoding).spans
    return {
        "logits": torch.from_numpy(table[[0, *ids, 2]])[None],
        "input_ids": torch.tensor([[0, *ids, 2]]),
        "offset_mapping": torch.tensor([[(0, 0), *spans, (0, 0)]]),
        "special_tokens_mask": torch.tensor([[1, *[0] * len(ids), 1]]),
        "sentence": text,
        "is_last": True,
    }, begins


def same(ours, theirs, strategy):
    key = "entity" if strategy == "none" else "entity_group"
    names = ("index", key, "start", "end")[strategy != "none" :]
    assert [[one[name] for name in names] for one in ours] == [[one[name] for name in names] for one in theirs]
    assert np.allclose([one["score"] for one in ours], [one["score"] for one in theirs], atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert set(one) == set(other)


@pytest.mark.parametrize("strategy", module.STRATEGIES)
def test_words_that_stand_apart(ner, table, pipeline, sentences, strategy):
    compared = 0
    for text in sentences:
        text = " ".join(word.group() for word in module.WORD.finditer(text))
        given, begins = outputs(ner, text, table)
        starts = given["offset_mapping"][0, 1:-1, 0].tolist()
        if 3 in given["input_ids"][0] or len(set(starts)) < len(starts):
            continue  # the pipeline begins a word at an unknown subword, and after a lone ▁
        theirs = pipeline.postprocess([given], pipelines.AggregationStrategy[strategy.upper()])
        same(ner(text, aggregation_strategy=strategy), theirs, strategy)
        compared += len(theirs)
    assert compared > 500


@pytest.mark.parametrize("strategy", module.STRATEGIES)
def test_any_text_once_the_pipeline_knows_its_words(ner, table, pipeline, sentences, strategy):
    asked = pipelines.AggregationStrategy[strategy.upper()]
    for text in sentences:
        given, begins = outputs(ner, text, table)
        scores = torch.softmax(given["logits"][0], -1).numpy()
        entries = (given["input_ids"][0], scores, given["offset_mapping"][0], given["special_tokens_mask"][0].numpy())
        before = pipeline.gather_pre_entities(text, *entries, asked)
        for one, begin in zip(before, begins, strict=True):
            one["is_subword"] = not begin
        theirs = [one for one in pipeline.aggregate(before, asked) if one.get("entity", one.get("entity_group")) != "O"]
        same(ner(text, aggregation_strategy=strategy), theirs, strategy)


def test_the_word_of_a_group_is_the_pipelines_but_for_blanks_and_composition(ner, table, pipeline):
    text = "Angela Merkel besuchte met José Viña de stad São Paulo en Łódź in 2026"
    given, _ = outputs(ner, text, table)
    theirs = pipeline.postprocess([given], pipelines.AggregationStrategy.SIMPLE)
    words = [one["word"] for one in ner(text, aggregation_strategy="simple")]
    assert words == [one["word"].strip() for one in theirs] and len(words) > 5


def test_the_tokenizers_file_alone_gives_the_ids_that_the_study_used(lookup, sentences):
    from mmalib.data.subwords import encode
    from mmalib.model.backbones import load_tokenizer

    ner, tokenizer = NER.load(lookup, runtime="onnxruntime"), load_tokenizer(str(lookup))
    words = [[word.group() for word in module.WORD.finditer(text)] for text in sentences]
    study = [window.ids for window in encode(words, tokenizer, 128).windows]
    assert study == [window.ids for window in encode(words, ner._vocabulary, 128).windows]
    plain = module.Tokenizer.from_file(str(lookup / "tokenizer.json"))  # as anybody reads it, its normalizer untouched
    ids = plain.encode_batch(words, is_pretokenized=True)
    assert study == [one.ids for one in ids] and json.loads(plain.to_str())["model"]["type"] == "Unigram"
