"""Tagging text by the light install: answers worked out from the table, exact places, streams, mistakes in one line."""

import io
import itertools
import json
import re
import subprocess
import sys
import tracemalloc
import unicodedata

import numpy as np
import pytest
from lookup_model import LABELS, write_model
from tokenizers import Tokenizer

from mmalib import NER
from mmalib.app import cli
from mmalib.records import machine
from mmalib.use import ner as module

HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "datasets",
    "pandas",
    "pyarrow",
    "matplotlib",
    "huggingface_hub",
    "safetensors",
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela Merkel besuchte Madrid.", ["Angela", "Merkel", "besuchte", "Madrid", "."]),
        ("U.N. troops (3.5 million), O'Neill's", ["U.N.", "troops", "(", "3.5", "million", ")", ",", "O'Neill's"]),
        ("En EE.UU., dijo.", ["En", "EE.UU.", ",", "dijo", "."]),
        ("¿Dónde está José-María?", ["¿", "Dónde", "está", "José-María", "?"]),
        ("a  b\tc\u00a0d", ["a", "b", "c", "d"]),
        ("", []),
        ("   ", []),
        ("東京 ...", ["東京", ".", ".", "."]),
        ("Jose\u0301 Vin\u0303a", ["Jose\u0301", "Vin\u0303a"]),
    ],
)
def test_text_is_cut_into_words_and_every_character_is_in_one(text, words):
    found = list(module.WORD.finditer(text))
    assert [word.group() for word in found] == words
    assert "".join(word.group() for word in found) == "".join(text.split())


def by_hand(text, table, tokenizer):
    """Entities by the words' first subwords, one word at a time and straight from the table."""
    entities, before = [], None
    for word in module.WORD.finditer(text):
        composed = unicodedata.normalize("NFC", word.group())
        row = table[(tokenizer.encode([composed], is_pretokenized=True, add_special_tokens=False).ids or [3])[0]]
        label, share = LABELS[row.argmax()], np.exp(row.max()) / np.exp(row).sum()
        kind = label[2:]
        if label != "O" and (label[0] == "B" or kind != before):
            entities.append({"entity_group": kind, "score": [share], "start": word.start(), "end": word.end()})
        elif label != "O":
            entities[-1]["score"].append(share)
            entities[-1]["end"] = word.end()
        before = kind if label != "O" else None
    return [one | {"score": np.mean(one["score"])} for one in entities]


def same(ours, theirs):
    assert [(one["entity_group"], one["start"], one["end"]) for one in ours] == [
        (one["entity_group"], one["start"], one["end"]) for one in theirs
    ]
    assert np.allclose([one["score"] for one in ours], [one["score"] for one in theirs], atol=1e-5)


def test_answers_are_those_worked_out_by_hand(ner, table, lookup, sentences):
    tokenizer = Tokenizer.from_file(str(lookup / "tokenizer.json"))
    answers = ner(sentences)
    assert sum(map(len, answers)) > 1000
    for text, entities in zip(sentences, answers, strict=True):
        same(entities, by_hand(text, table, tokenizer))


@pytest.mark.parametrize("strategy", module.STRATEGIES)
def test_places_are_exact_under_every_strategy(ner, sentences, strategy):
    for text, entities in zip(sentences, ner(sentences, aggregation_strategy=strategy), strict=True):
        for one in entities:
            assert 0 <= one["start"] < one["end"] <= len(text)
            covered = text[one["start"] : one["end"]]
            assert covered == covered.strip()
            if strategy != "none":
                assert covered == one["word"]


def test_decomposed_accents_are_read_as_composed_ones(ner):
    texts = ["José Viña está en Málaga.", unicodedata.normalize("NFD", "José Viña está en Málaga.")]
    for strategy in module.STRATEGIES:
        composed, decomposed = ner(texts, aggregation_strategy=strategy)
        assert len(texts[0]) < len(texts[1]) and [one["score"] for one in composed] == [
            one["score"] for one in decomposed
        ]
        for one, other in zip(composed, decomposed, strict=True):
            there = texts[1][other["start"] : other["end"]]
            assert unicodedata.normalize("NFC", there) == texts[0][one["start"] : one["end"]]


def test_a_string_a_list_a_generator(ner, sentences):
    each = [ner(text) for text in sentences[:20]]
    assert isinstance(each[0], list) and ner(sentences[:20]) == each and ner(tuple(sentences[:20])) == each
    stream = ner(text for text in sentences[:20])
    assert iter(stream) is stream and list(stream) == each
    assert list(ner(iter(sentences[:20]), batch_size=3)) == each
    assert ner([]) == [] and list(ner(iter(()))) == [] and ner("") == [] and ner(["", " "]) == [[], []]


def test_a_generator_is_read_no_further_than_its_batch(ner):
    taken = []
    answers = ner((taken.append(n) or "Madrid" for n in itertools.count()), batch_size=2)
    next(answers)
    assert taken == [0, 1]


def test_ignored_labels_and_keys_are_the_pipelines(ner, sentences):
    text = next(text for text in sentences if {"O", "PER"} <= {e["entity_group"] for e in ner(text, ignore_labels=())})
    assert list(ner(text)[0]) == ["entity_group", "score", "word", "start", "end"]
    assert list(ner(text, aggregation_strategy="none")[0]) == ["entity", "score", "index", "word", "start", "end"]
    json.dumps(ner(text)), json.dumps(ner(text, aggregation_strategy="none"))
    words = list(module.WORD.finditer(text))
    every = ner(text, ignore_labels=[])
    assert every[0]["start"] == words[0].start() and every[-1]["end"] == words[-1].end()
    kinds = {one["entity_group"] for one in every}
    assert all(one["entity_group"] == "O" for one in ner(text, ignore_labels=kinds - {"O"}))


def test_words_that_are_cut_already_get_the_tags_of_the_study(ner, table, lookup):
    tokenizer = Tokenizer.from_file(str(lookup / "tokenizer.json"))
    cut = [["Angela", "Merkel", "zei", "3,5", "%"], [], ["Łódź"] * 300]
    firsts = [
        [tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids[0] for word in one] for one in cut
    ]
    assert ner.tags(cut) == [[LABELS[table[first].argmax()] for first in one] for one in firsts]


def test_a_long_text_is_the_sum_of_its_sentences(ner, table, lookup):
    """Far over a window and over a part; the same where no sentence ends."""
    tokenizer = Tokenizer.from_file(str(lookup / "tokenizer.json"))
    text = "Ayer José Viña vio en Łódź a Mark Rutte y a D’Artagnan . " * 400
    same(ner(text), by_hand(text, table, tokenizer))
    index = [one["index"] for one in ner(text, aggregation_strategy="none", ignore_labels=())]
    assert index == list(range(1, len(index) + 1))
    endless = text.replace(".", "et")
    ours, theirs = ner(endless), by_hand(endless, table, tokenizer)
    covered = [set().union(*(range(one["start"], one["end"]) for one in found)) for found in (ours, theirs)]
    assert len(covered[0] ^ covered[1]) < 100  # the blank inside an entity that the end of a part divides


def test_a_text_four_times_as_long_takes_as_much_memory(lookup):
    ner = NER.load(lookup, runtime="onnxruntime", threads=1)
    peaks = []
    for times in (1, 4):
        text = "ve vio en . " * (2000 * times) + "x" * 20_000 * times
        tracemalloc.start()
        ner(text, ignore_labels=("O", "PER", "ORG", "LOC", "MISC"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_a_stream_of_short_lines_does_not_grow(ner):
    tracemalloc.start()
    sizes = []
    for number, _ in enumerate(ner(f"Angela {n} Madrid" for n in range(8_000))):
        if number % 2_000 == 1_999:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert number == 7_999 and sizes[-1] < 1.5 * min(sizes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"bytes", "The text is bytes, not a string"),
        (None, "The text is NoneType, not a string"),
        (["good", 3], "Text 2 is int, not a string"),
        (["good", "bad \udce9"], "not UTF-8: the character at place 5 of text 2"),
    ],
)
def test_what_is_no_text_is_one_line(ner, given, said):
    with pytest.raises(ValueError, match=said) as raised:
        ner(given)
    assert "\n" not in str(raised.value)


def test_an_unknown_strategy_is_one_line(ner, lookup):
    for call in (lambda: ner("x", aggregation_strategy="best"), lambda: NER.load(lookup, aggregation_strategy="best")):
        with pytest.raises(ValueError, match="no aggregation_strategy 'best'. Choose one of: none, simple, first"):
            call()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "is missing tokenizer.json"),
        (lambda folder: (folder / "onnx" / "model_quantized.onnx").unlink(), "is missing model.onnx or onnx/model_q"),
        (lambda folder: (folder / "onnx" / "model_quantized.onnx").write_bytes(b"half"), "could not be loaded in onnx"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is damaged .*id2label"),
    ],
)
def test_a_folder_half_written_is_one_line(table, tmp_path, damage, said):
    folder = write_model(tmp_path / "model", table)
    damage(folder)
    with pytest.raises(ValueError, match=said) as raised:
        NER.load(folder, runtime="onnxruntime")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("saturates", "wanted"), [(False, "openvino"), (True, "onnxruntime")])
def test_graphs_run_where_they_are_fast(lookup, monkeypatch, saturates, wanted):
    pytest.importorskip("openvino", reason="the light install has no OpenVINO")
    monkeypatch.setattr(machine, "saturates", lambda: saturates)
    assert NER.load(lookup).runtime == wanted and NER.load(lookup, runtime="openvino").runtime == "openvino"


def test_a_folder_that_is_none_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="nowhere is neither a folder nor a shipped model. Give the folder of a model"):
        NER.load(tmp_path / "nowhere")


def test_nothing_heavy_is_loaded(lookup):
    program = (
        "import sys, mmalib; assert 'numpy' not in sys.modules\n"
        f"print(len(mmalib.NER.load({str(lookup)!r}, runtime='onnxruntime')('Angela Merkel besuchte Madrid.')))\n"
        "from mmalib.app import cli; cli._parser()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["[]"], done.stdout + done.stderr


# ---- The command ----


def test_the_command_prints_names_or_json_and_keeps_empty_lines(lookup, ner, tmp_path):
    command = [sys.executable, "-m", "mmalib", "predict", "--model", str(lookup)]
    text = "Angela Merkel\n\nMadrid in\r\n"
    done = subprocess.run([*command, "--json"], input=text.encode(), capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["Angela Merkel", "", "Madrid in"]
    same_places = [[(one["start"], one["end"]) for one in row["entities"]] for row in rows]
    assert same_places == [[(one["start"], one["end"]) for one in ner(row["text"])] for row in rows]
    assert not list(tmp_path.iterdir())


def test_plain_lines_have_an_empty_one_after_each_text(lookup, ner, capsys):
    texts = ["Angela Merkel", "", "Madrid José"]
    assert cli.main(["predict", "--model", str(lookup), *texts]) == 0
    blocks = capsys.readouterr().out.split("\n")
    entities = [one for found in ner(texts) for one in found]
    assert blocks.count("") == 3 + 1  # one a text, and the end of the output
    assert [line.split()[0] for line in blocks if line] == [one["entity_group"] for one in entities]


def test_bad_bytes_are_named():
    with pytest.raises(ValueError, match="Line 2 is not UTF-8: byte 0xe9 at place 5"):
        list(module.lines(io.BytesIO(b"good\nJos\xc3\xa9\nbad".replace(b"\xc3\xa9", b" \xe9"))))
    assert list(module.lines(io.BytesIO(b"\xef\xbb\xbfa\n\nb"))) == ["a", "", "b"]


def test_the_lines_before_a_bad_one_are_answered(lookup, tmp_path):
    command = [sys.executable, "-m", "mmalib", "predict", "--json", "--model", str(lookup)]
    done = subprocess.run(
        command, input=b"Angela Merkel\nMadrid\nbad \xe9\nnever read", capture_output=True, text=False
    )
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["Angela Merkel", "Madrid"]
    assert done.returncode == 2 and re.fullmatch(rb"mmalib: Line 3 is not UTF-8[^\n]*\n", done.stderr)


def test_an_argument_of_stray_bytes_is_one_line(lookup, capsys):
    assert cli.main(["predict", "--model", str(lookup), "caf\udce9"]) == 2
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and "not UTF-8" in error


def test_a_command_of_the_study_says_what_the_light_install_leaves_out(monkeypatch, capsys):
    def study(options):
        """Needs the whole install."""
        import papermill

        return papermill

    monkeypatch.setitem(sys.modules, "papermill", None)
    monkeypatch.setattr(cli, "_study", study)
    assert cli.main(["study"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
