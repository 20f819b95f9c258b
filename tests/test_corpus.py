"""The corpus reader on invented sentences, both folder layouts, and a stand-in for the hub."""

import json
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, snapshot_download

from mmalib.data import LABELS, corpus, sample
from mmalib.data.corpus import LANGUAGES, corpus_name, load, read_conll, read_parquet, to_iob2
from mmalib.profiles import load_profile

QUICK = load_profile("quick")
FULL = load_profile("small")  # no caps
SPLITS = ("train", "dev", "test")


class Sentence(NamedTuple):
    words: list[str]
    tags: list[str]


@pytest.fixture(autouse=True)
def _no_data_in_the_environment(monkeypatch):
    monkeypatch.delenv("MMALIB_DATA", raising=False)


def written(folder: Path, content: str | bytes, name: str = "some.train") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- the original files ---


def test_four_columns_in_iob1(tmp_path):
    path = written(
        tmp_path,
        "-DOCSTART- -X- O O\n\n"
        "Mirth NNP I-NP I-PER\nOlva NNP I-NP I-PER\nleft VBD I-VP O\nTarn NNP I-NP I-LOC\n\n"
        "Quen NNP I-NP I-LOC\nRost NNP I-NP B-LOC\nUnion NNP I-NP I-ORG\n\n",
    )
    assert read_conll(path) == [
        Sentence(["Mirth", "Olva", "left", "Tarn"], ["B-PER", "I-PER", "O", "B-LOC"]),
        Sentence(["Quen", "Rost", "Union"], ["B-LOC", "B-LOC", "B-ORG"]),
    ]


def test_three_columns_in_iob2_and_docstart_ends_a_sentence(tmp_path):
    path = written(tmp_path, "-DOCSTART- -DOCSTART- O\nTarn N B-LOC\n-DOCSTART- -DOCSTART- O\nQuen N I-LOC\n. P O\n")
    assert read_conll(path) == [Sentence(["Tarn"], ["B-LOC"]), Sentence(["Quen", "."], ["B-LOC", "O"])]


@pytest.mark.parametrize(
    ("tags", "iob2"),
    [
        ("I-PER I-PER", "B-PER I-PER"),  # IOB1: I- at the start
        ("O I-PER", "O B-PER"),  # IOB1: I- after O
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),  # IOB1: adjacent, one type
        ("I-PER I-ORG", "B-PER B-ORG"),  # IOB1: adjacent, another type
        ("B-PER I-ORG I-ORG", "B-PER B-ORG I-ORG"),
        ("B-PER B-PER", "B-PER B-PER"),
        ("I-PER O I-PER", "B-PER O B-PER"),
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),  # IOB2 stays
        ("O O", "O O"),
        ("", ""),
    ],
)
def test_iob2_conversion(tags, iob2):
    assert to_iob2(tags.split()) == iob2.split()
    assert to_iob2(to_iob2(tags.split())) == iob2.split()


def test_neighbours_stay_two_where_their_types_get_one_name(tmp_path):
    path = written(tmp_path, "Tarn N I-CITY\nQuen N I-LAND\nRost N I-LAND\n. P I-DAY\n")
    names = {"I-CITY": "I-LOC", "I-LAND": "I-LOC", "I-DAY": "O"}
    assert read_conll(path, renamed=names.get) == [
        Sentence(["Tarn", "Quen", "Rost", "."], ["B-LOC", "B-LOC", "I-LOC", "O"])
    ]


@pytest.mark.parametrize(
    "content",
    [
        "Tarn N B-LOC\r\n. P O\r\n\r\nOlva N B-PER\r\n",  # CRLF
        "\ufeffTarn N B-LOC\n. P O\n\nOlva N B-PER\n",  # byte order mark
        "\ufeff-DOCSTART- -X- O\nTarn N B-LOC\n. P O\n\nOlva N B-PER\n",
        "Tarn N B-LOC  \n. P O\t\n \t \nOlva N B-PER \n",  # trailing blanks, a separator line of blanks
        "\n\n\nTarn N B-LOC\n. P O\n\n\n\nOlva N B-PER\n\n\n",  # several blank lines
        "Tarn\tN\tB-LOC\n.\tP\tO\n\nOlva  N \t B-PER",  # tabs, runs of blanks, no newline at the end
    ],
)
def test_harmless_differences_read_alike(tmp_path, content):
    expected = [Sentence(["Tarn", "."], ["B-LOC", "O"]), Sentence(["Olva"], ["B-PER"])]
    assert read_conll(written(tmp_path, content)) == expected


@pytest.mark.parametrize("odd", ["\u00a0", "\u0085", "\u2028", "\u2029", "\u3000", "\x0b", "\x0c", "\x1c", "\ufeff"])
def test_only_blanks_tabs_and_newlines_separate(tmp_path, odd):
    words = [f"10{odd}000", odd, f"Tarn{odd}"]
    path = written(tmp_path, "".join(f"{word} N O\n" for word in words))
    assert read_conll(path) == [Sentence(words, ["O", "O", "O"])]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("Tarn N B-LOC\n. O\n", 2, "found columns: 2, expected: 3, word first"),
        ("a A B O\n\nTarn N B-LOC\n", 3, "found columns: 3, expected: 4"),
        ("Tarn B-LOC\n", 1, "found columns: 2, expected: 3 or 4"),
        ("Tarn x N I-NP I-LOC\n", 1, "found columns: 5, expected: 3 or 4"),
        ("Tarn N I-NP\n", 1, "unknown tag 'I-NP'"),
        ("Tarn N B-LOC\r\n\r\nOlva N S-PER\r\n", 3, "unknown tag 'S-PER'"),
        ("Tarn N b-loc\n", 1, "unknown tag 'b-loc'"),
        ("", 1, "without any sentence"),
        ("\n \n\n", 3, "without any sentence"),
        ("-DOCSTART- -X- O O\n\n", 2, "without any sentence"),
        ("Tarn N B-LOC\nCoruña N I-LOC\n".encode("latin-1"), 2, "not UTF-8 (byte 0xf1)"),
        (b"\xef\xbb\xbfa N O\n\xe9 N O\n", 2, "not UTF-8 (byte 0xe9)"),
        ("Tarn N B-LOC\n".encode("utf-16"), 1, "not UTF-8"),
        (b"Tarn N O\nCoru\xc3", 2, "not UTF-8"),  # cut in the middle of a character
    ],
)
def test_a_broken_file_is_one_sentence_naming_file_and_line(tmp_path, content, line, problem):
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        read_conll(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert problem in message
    assert "\n" not in message


# --- folders ---

INVENTED = {
    language: {
        split: [
            Sentence([f"{language}-{split}-{number}", "Olva", "Tarn", "."], ["O", "B-PER", "B-LOC", "O"])
            for number in range(count)
        ]
        for split, count in (("train", 30), ("dev", 20), ("test", 10))
    }
    for language in LANGUAGES
}


def original_folder(folder: Path) -> Path:
    for language, splits in INVENTED.items():
        for split, sentences in splits.items():
            path = folder / corpus.ORIGINAL[language][split]
            path.parent.mkdir(parents=True, exist_ok=True)
            middle = "X Y" if language == "en" else "X"
            rows = ["".join(f"{w} {middle} {t}\n" for w, t in zip(s.words, s.tags, strict=True)) for s in sentences]
            path.write_text("\n".join(rows), encoding="utf-8")
    return folder


def write_parquet(path: Path, sentences: list[Sentence], names: list[str] | None, **options) -> Path:
    """One file as the hub's conversion writes it: labels as numbers, their names in the schema's metadata."""
    order = names or LABELS
    table = pa.table(
        {
            "id": [str(number) for number in range(len(sentences))],
            "tokens": pa.array([s.words for s in sentences], pa.list_(pa.string())),
            "ner_tags": pa.array([[order.index(t) for t in s.tags] for s in sentences], pa.list_(pa.int64())),
        }
    )
    if names:  # the form that datasets 2 and 3 wrote, with which the hub converted these corpora
        string = {"dtype": "string", "_type": "Value"}
        features = {
            "id": string,
            "tokens": {"feature": string, "_type": "Sequence"},
            "ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"},
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def parquet_folder(folder: Path, languages=LANGUAGES) -> Path:
    for language in languages:
        for split, sentences in INVENTED[language].items():
            # another order of labels in each language, and the empty row that ends CoNLL-2002's splits
            names = LABELS if language == "en" else LABELS[::-1]
            rows = sentences if language == "en" else [*sentences, Sentence([], [])]
            write_parquet(folder / corpus.PARQUET[language][split], rows, names)
    return folder


def as_sentences(loaded) -> dict:
    return {
        language: {split: [Sentence(r["words"], r["tags"]) for r in rows] for split, rows in splits.items()}
        for language, splits in loaded.items()
    }


@pytest.mark.parametrize("build", [original_folder, parquet_folder])
def test_both_layouts_give_the_same_corpora(tmp_path, build):
    assert as_sentences(load(FULL, str(build(tmp_path)))) == INVENTED


def test_english_training_and_every_evaluation_set_are_capped(tmp_path):
    folder = str(original_folder(tmp_path))
    small = as_sentences(load(replace(FULL, train_sentences=7, eval_sentences=5), folder))
    assert {(lang, split): len(small[lang][split]) for lang in LANGUAGES for split in SPLITS} == {
        ("en", "train"): 7, ("en", "dev"): 5, ("en", "test"): 5,
        ("es", "train"): 30, ("es", "dev"): 5, ("es", "test"): 5,
        ("nl", "train"): 30, ("nl", "dev"): 5, ("nl", "test"): 5,
    }  # fmt: skip
    whole = INVENTED["en"]["train"]
    positions = [whole.index(sentence) for sentence in small["en"]["train"]]
    assert positions == sorted(positions) and positions != list(range(7))  # the file's order, but not its head
    assert as_sentences(load(replace(FULL, train_sentences=7, eval_sentences=5), folder)) == small
    larger = as_sentences(load(replace(FULL, train_sentences=12, eval_sentences=500), folder))
    assert all(sentence in larger["en"]["train"] for sentence in small["en"]["train"])
    assert larger["nl"]["dev"] == INVENTED["nl"]["dev"]


def test_further_languages_are_test_sets_beside_the_others(tmp_path):
    original_folder(tmp_path)
    further = tmp_path / "wikineural"
    further.mkdir()
    written(further, "La\tO\nFrance\tB-LOC\n.\tO\n\nPaul B-PER\nDoumer I-PER\n", "fr.test")
    written(further, "Madrid B-LOC\n", "es.test")  # one of the study's own
    corpora = load(FULL, str(tmp_path))
    assert list(corpora) == ["en", "es", "nl"] and list(corpora.further) == ["fr"]
    assert corpora.further["fr"]["test"]["words"][1] == ["Paul", "Doumer"]
    assert corpora.further["fr"]["test"]["tags"][0] == ["O", "B-LOC", "O"]
    capped = replace(FULL, eval_sentences=1)
    assert len(load(capped, str(tmp_path)).further["fr"]["test"]) == 1
    described = corpus.describe(corpora).set_index(["language", "split"])
    assert described.loc[("fr", "test"), ["sentences", "words", "LOC", "PER"]].tolist() == [2, 5, 1, 1]
    assert load(FULL, "sample").further == {}
    kept_apart = corpus.evaluation_sentences(tmp_path)
    assert ["Paul", "Doumer"] in kept_apart and ["Madrid"] in kept_apart
    written(further, "O Brasil B-LOC\n", "pt.test")
    with pytest.raises(ValueError, match=r"pt\.test, line 1: found columns: 3, expected: 2, word first"):
        load(FULL, str(tmp_path))


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    folder = original_folder(tmp_path)
    (folder / "conll2002/ned.testb").unlink()
    (folder / "conll2003/eng.train").unlink()
    with pytest.raises(
        ValueError, match="is missing conll2003/eng.train, conll2002/ned.testb. It should hold"
    ) as caught:
        load(FULL, str(folder))
    assert "esp.train" not in str(caught.value)


def test_an_incomplete_parquet_folder_names_what_is_missing(tmp_path):
    folder = parquet_folder(tmp_path)
    (folder / "nl/validation/0000.parquet").unlink()
    with pytest.raises(ValueError, match="is missing nl/validation/0000.parquet. It should hold"):
        load(FULL, str(folder))


def test_a_folder_that_does_not_exist_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="There is no data folder .*nowhere. Point MMALIB_DATA at") as caught:
        load(QUICK)
    assert "\n" not in str(caught.value)


# --- parquet ---


@pytest.mark.parametrize("options", [{}, {"use_compliant_nested_type": False}])
def test_parquet_labels_are_mapped_by_name(tmp_path, options):
    sentences = INVENTED["es"]["dev"]
    names = LABELS[3:] + LABELS[:3]
    assert read_parquet(write_parquet(tmp_path / "0.parquet", sentences, names, **options)) == sentences


def test_parquet_in_iob1_is_converted(tmp_path):
    path = write_parquet(tmp_path / "0.parquet", [Sentence(["Olva", "Tarn"], ["I-PER", "I-LOC"])], LABELS)
    assert read_parquet(path) == [Sentence(["Olva", "Tarn"], ["B-PER", "B-LOC"])]


def test_parquet_with_tags_as_strings(tmp_path):
    table = pa.table({"tokens": [["Olva", "."]], "ner_tags": [["B-PER", "O"]]})
    pq.write_table(table, tmp_path / "0.parquet")
    assert read_parquet(tmp_path / "0.parquet") == [Sentence(["Olva", "."], ["B-PER", "O"])]


def test_parquet_numbers_without_names_are_refused(tmp_path):
    path = write_parquet(tmp_path / "0.parquet", INVENTED["es"]["dev"], None)
    with pytest.raises(ValueError, match="0.parquet, row 0: unknown tag 0"):
        read_parquet(path)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"tokens": [["a"]], "pos_tags": [["N"]]}, "is no readable parquet file with tokens and ner_tags"),
        ({"tokens": [["a"], ["b"]], "ner_tags": [["O"], ["B-TIME"]]}, "row 1: unknown tag 'B-TIME'"),
        ({"tokens": [["a", "b"]], "ner_tags": [["O"]]}, "row 0: 2 words and 1 tags"),
        ({"tokens": [[]], "ner_tags": [[]]}, "not a single sentence"),
    ],
)
def test_broken_parquet(tmp_path, columns, problem):
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=problem):
        read_parquet(tmp_path / "0.parquet")


def test_a_file_that_is_no_parquet(tmp_path):
    with pytest.raises(ValueError, match="some.train is no readable parquet file"):
        read_parquet(written(tmp_path, "version https://git-lfs.example\n"))


# --- the hub ---

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for the two repositories' converted branch, from a folder of that layout."""

    root: Path
    repositories = {"eriktks/conll2003": ["conll2003"], "eriktks/conll2002": ["es", "nl"]}

    def do_GET(self, head=False):
        path = self.path.partition("?")[0].removeprefix("/api").removeprefix("/datasets/")
        owner, name, question, revision, *rest = path.split("/")
        if revision not in ("refs%2Fconvert%2Fparquet", COMMIT) or f"{owner}/{name}" not in self.repositories:
            self.send_error(404)
            return
        tag = "none"
        if question == "revision":
            body = json.dumps({"id": f"{owner}/{name}", "sha": COMMIT}).encode()
        elif question == "tree":
            body = json.dumps(self.tree(f"{owner}/{name}")).encode()
        else:
            body = (self.root / "/".join(rest)).read_bytes()
            tag = "-".join(rest)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def tree(self, repository):
        files = [f for config in self.repositories[repository] for f in (self.root / config).rglob("*.parquet")]
        names = [file.relative_to(self.root).as_posix() for file in files]
        sizes = [file.stat().st_size for file in files]
        return [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in zip(names, sizes, strict=True)]

    def do_HEAD(self):
        self.do_GET(head=True)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of our own on this machine and an empty cache; called with False, it is out of reach."""
    Hub.root = parquet_folder(tmp_path / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests' default; read at every call

    def reach(reachable: bool):
        port = server.server_port if reachable else 9  # nobody answers on port 9
        own = partial(snapshot_download, endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "cache")
        monkeypatch.setattr(corpus, "snapshot_download", own)

    reach(True)
    yield reach
    server.shutdown()
    server.server_close()


def test_the_hub_and_then_its_cache(hub):
    assert as_sentences(load(FULL, "hub")) == INVENTED
    hub(False)
    assert as_sentences(load(FULL, "hub")) == INVENTED


def test_the_hub_out_of_reach_is_one_clear_line(hub):
    hub(False)
    with pytest.raises(ValueError, match="could not be fetched from the hub .* Set MMALIB_DATA") as caught:
        load(FULL, "hub")
    assert "\n" not in str(caught.value) and "'sample'" in str(caught.value)


def test_the_hub_without_one_of_the_files(hub):
    (Hub.root / "nl/test/0000.parquet").unlink()
    with pytest.raises(ValueError, match="no nl/test/0000.parquet.* Set MMALIB_DATA"):
        load(FULL, "hub")


# --- which corpus ---


def test_the_argument_comes_before_the_environment_before_the_profile(tmp_path, monkeypatch):
    folder = str(original_folder(tmp_path))
    assert corpus_name(QUICK) == "sample"
    assert corpus_name(FULL) == "conll"
    monkeypatch.setenv("MMALIB_DATA", folder)
    assert corpus_name(QUICK) == "conll"
    assert as_sentences(load(replace(QUICK, train_sentences=None, eval_sentences=None))) == INVENTED
    assert corpus_name(QUICK, "sample") == "sample"
    assert corpus_name(FULL, "sample") == "sample"
    monkeypatch.setenv("MMALIB_DATA", "sample")
    assert corpus_name(FULL) == "sample"
    assert corpus_name(FULL, folder) == "conll"


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("MMALIB_DATA", "")
    assert corpus_name(QUICK) == "sample"
    assert corpus_name(FULL) == "conll"


def test_the_sample_arrives_whole():
    loaded = as_sentences(load(replace(QUICK, train_sentences=None, eval_sentences=None)))
    generated = sample.generate()
    for language in LANGUAGES:
        assert set(loaded[language]) == set(SPLITS)
        for split in SPLITS:
            assert loaded[language][split] == [Sentence(list(w), list(t)) for w, t in generated[language][split]]


# --- the real files, where they are at hand ---

REAL = os.environ.get("MMALIB_REAL_DATA")
# (sentences, words, entities by type). In CoNLL-2002's Spanish files a sentence's end cuts an entity in two,
# once each in train, testa and testb: the second part starts with I- and is an entity of its own, as it is to
# conlleval.pl. Counting the files' B- tags gives one less, the number often quoted: 339 MISC in testb.
REAL_COUNTS = {
    ("en", "train"): (14041, 203621, {"ORG": 6321, "PER": 6600, "LOC": 7140, "MISC": 3438}),
    ("en", "dev"): (3250, 51362, {"ORG": 1341, "PER": 1842, "LOC": 1837, "MISC": 922}),
    ("en", "test"): (3453, 46435, {"ORG": 1661, "PER": 1617, "LOC": 1668, "MISC": 702}),
    ("es", "train"): (8323, 264715, {"ORG": 7390, "PER": 4321, "LOC": 4913 + 1, "MISC": 2173}),
    ("es", "dev"): (1915, 52923, {"ORG": 1700, "PER": 1222, "LOC": 984 + 1, "MISC": 445}),
    ("es", "test"): (1517, 51533, {"ORG": 1400, "PER": 735, "LOC": 1084, "MISC": 339 + 1}),
    ("nl", "train"): (15806, 202644, {"ORG": 2082, "PER": 4716, "LOC": 3208, "MISC": 3338}),
    ("nl", "dev"): (2895, 37687, {"ORG": 686, "PER": 703, "LOC": 479, "MISC": 748}),
    ("nl", "test"): (5195, 68875, {"ORG": 882, "PER": 1098, "LOC": 774, "MISC": 1187}),
}


@pytest.mark.skipif(not REAL, reason="MMALIB_REAL_DATA names no folder with conll2003 and conll2002")
def test_counts_of_the_real_files():
    loaded = as_sentences(load(FULL, REAL))
    for (language, split), expected in REAL_COUNTS.items():
        sentences = loaded[language][split]
        entities = Counter(tag[2:] for s in sentences for tag in s.tags if tag.startswith("B-"))
        assert (len(sentences), sum(len(s.words) for s in sentences), dict(entities)) == expected, (
            language,
            split,
        )


def test_every_dev_and_test_sentence_is_kept_apart(tmp_path):
    found = {tuple(words) for words in corpus.evaluation_sentences(original_folder(tmp_path))}
    wanted = {tuple(s.words) for of in INVENTED.values() for split in ("dev", "test") for s in of[split]}
    assert found == wanted


def test_what_a_further_language_holds_has_a_fingerprint(tmp_path):
    folder = original_folder(tmp_path)
    before = load(FULL, str(folder)).fingerprints
    (folder / "wikineural").mkdir()
    (folder / "wikineural" / "fr.test").write_text("Paris B-LOC\n")
    one = load(FULL, str(folder)).fingerprints
    (folder / "wikineural" / "fr.test").write_text("Lyon B-LOC\n")
    other = load(FULL, str(folder)).fingerprints
    assert one.keys() == {"", "fr"} and one[""] == other[""] == before[""] and one["fr"] != other["fr"]
