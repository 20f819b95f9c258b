"""Entities in raw text: cut into words and back to characters, from both kinds of folder, and the command."""

import io
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from mmalib import predict
from mmalib.app import cli
from mmalib.data.subwords import predict_tags
from mmalib.graph import export
from mmalib.model import disk
from mmalib.model.backbones import load_model, load_tokenizer


@pytest.fixture(scope="module")
def folders(tiny_backbone, tmp_path_factory):
    """One model twice: as weights, and as an exported graph."""
    home = tmp_path_factory.mktemp("predict")
    model, tokenizer = load_model(str(tiny_backbone), seed=1), load_tokenizer(str(tiny_backbone))
    disk.save(model, tokenizer, home / "weights")
    export.export(model, tokenizer, home / "graph")
    return home / "weights", home / "graph"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela Merkel besuchte Madrid.", ["Angela", "Merkel", "besuchte", "Madrid", "."]),
        ("U.N. troops (3.5 million), O'Neill's", ["U.N.", "troops", "(", "3.5", "million", ")", ",", "O'Neill's"]),
        ("¿Dónde está José-María?", ["¿", "Dónde", "está", "José-María", "?"]),
        ("a  b\tc", ["a", "b", "c"]),
        ("", []),
        ("   ", []),
        ("東京 ...", ["東京", ".", ".", "."]),
        ("Jose\u0301 Vin\u0303a", ["Jose\u0301", "Vin\u0303a"]),
    ],
)
def test_text_is_cut_into_words_and_every_character_is_in_one(text, words):
    found = list(predict.WORD.finditer(text))
    assert [word.group() for word in found] == words
    assert "".join(word.group() for word in found) == "".join(text.split())


def test_entities_are_those_of_the_tags_with_the_places_of_their_characters(folders):
    weights, _ = folders
    model, tokenizer = disk.load(weights)
    texts = ["Angela Merkel  besuchte Madrid.", "", "In  Gent spielt U.N. gegen José-María ."]
    for text, entities in zip(texts, predict.load(weights)(texts), strict=True):
        words = list(predict.WORD.finditer(text))
        (tags,) = predict_tags(model, tokenizer, [[word.group() for word in words]], max_length=128)
        begins = [n for n, tag in enumerate(tags) if tag != "O" and _begins(tags, n)]
        assert [one["start"] for one in entities] == [words[n].start() for n in begins]
        assert [one["type"] for one in entities] == [tags[n][2:] for n in begins]
        for one in entities:
            assert text[one["start"] : one["end"]] == one["text"]
            assert 1 / 9 <= one["score"] <= 1
    assert predict.load(weights)([""]) == [[]]


def test_decomposed_accents_are_read_as_composed_ones(folders):
    find = predict.load(folders[0])
    texts = ["José Viña está en Málaga.", unicodedata.normalize("NFD", "José Viña está en Málaga.")]
    composed, decomposed = find(texts)
    assert [one["type"] for one in composed] == [one["type"] for one in decomposed]
    assert [one["score"] for one in composed] == [one["score"] for one in decomposed]
    for one in decomposed:
        assert texts[1][one["start"] : one["end"]] == one["text"]


def _begins(tags, n):
    """As conlleval has it: B- begins, and so does a type that does not go on."""
    return n == 0 or tags[n][0] == "B" or tags[n - 1] == "O" or tags[n - 1][2:] != tags[n][2:]


def test_weights_and_graph_find_the_same(folders):
    texts = ["Angela Merkel besuchte Madrid.", "word " * 700 + "Gent", ""]  # far longer than a window
    ours, theirs = (predict.load(folder)(texts) for folder in folders)
    assert [[one["text"] for one in entities] for entities in ours] == [[one["text"] for one in e] for e in theirs]
    ours, theirs = ([one["score"] for entities in found for one in entities] for found in (ours, theirs))
    assert np.allclose(ours, theirs, atol=2e-4)


def test_the_command_prints_names_or_json_and_keeps_empty_lines(folders, tmp_path):
    weights, _ = folders
    text = "Angela Merkel\n\nMadrid in\r\n"
    command = [sys.executable, "-m", "mmalib", "predict", str(weights)]
    done = subprocess.run([*command, "--json"], input=text.encode(), capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["Angela Merkel", "", "Madrid in"]
    assert [row["entities"] for row in rows] == predict.load(weights)([row["text"] for row in rows])
    assert not list(tmp_path.iterdir())


def test_plain_lines_have_an_empty_one_after_each_text(folders, capsys):
    weights, _ = folders
    assert cli.main(["predict", str(weights), "Angela Merkel", "", "Madrid"]) == 0
    blocks = capsys.readouterr().out.split("\n")
    entities = [one for found in predict.load(weights)(["Angela Merkel", "", "Madrid"]) for one in found]
    assert blocks.count("") == 3 + 1  # one a text, and the end of the output
    assert [line.split()[0] for line in blocks if line] == [one["type"] for one in entities]


def test_bad_bytes_are_named():
    with pytest.raises(ValueError, match="Line 2 is not UTF-8: byte 0xe9 at place 5"):
        list(predict.lines(io.BytesIO(b"good\nJos\xc3\xa9\nbad".replace(b"\xc3\xa9", b" \xe9"))))
    assert list(predict.lines(io.BytesIO(b"\xef\xbb\xbfa\n\nb"))) == ["a", "", "b"]


def test_the_lines_before_a_bad_one_are_answered(folders):
    weights, _ = folders
    answers, given = [], predict.lines(io.BytesIO(b"Angela Merkel\nMadrid\nbad \xe9\nnever read"))
    with pytest.raises(ValueError, match="Line 3 is not UTF-8"):
        for line in predict.run(weights, given, as_json=True):
            answers.append(json.loads(line)["text"])
    assert answers == ["Angela Merkel", "Madrid"]


def test_a_folder_without_a_model_is_one_line(tmp_path, capsys):
    assert cli.main(["predict", str(tmp_path), "text"]) == 2
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and "holds neither model.onnx nor model.safetensors" in error
