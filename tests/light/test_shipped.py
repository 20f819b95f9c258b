"""What the package carries: unpacked once, checked, found by name; and one clear line where it carries nothing."""

import gzip
import hashlib
import json
import multiprocessing
import shutil

import pytest
from lookup_model import write_model

from mmalib import NER, show
from mmalib.app import cli
from mmalib.model import cache
from mmalib.records import machine
from mmalib.use import shipped
from mmalib.use.show import differing

TEXT = "Angela Merkel besuchte met José Viña het São Paulo van Łódź"


@pytest.fixture
def models(table, tmp_path, monkeypatch):
    """A package with two shipped models, the second one another table, and an empty cache."""
    home = tmp_path / "models"
    for name, logits in (("fast", table), ("faithful", table[::-1])):
        folder = write_model(home / name, logits)
        scores = {"en": {"dev": 0.91, "test": 0.9}, "fr": {"test": 0.7}}
        about = {"run": f"05-{name}", "megabytes": 1.8, "scores": {"before": scores, "after": scores}}
        (folder / "mmalib.json").write_text(json.dumps(about))
        graph = folder / "onnx" / "model_quantized.onnx"
        graph.with_name(graph.name + ".gz").write_bytes(gzip.compress(graph.read_bytes(), 1))
        graph.unlink()
    paths = sorted(path for path in home.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(home)}\n" for path in paths]
    (home / "SHA256SUMS").write_text("".join(sums))
    monkeypatch.setattr(shipped, "MODELS", home)
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path / "cache"))
    return home


def test_the_first_is_the_default_and_names_find_the_others(models, lookup):
    assert shipped.there() == ["fast", "faithful"]
    plain, fast, faithful, same = (NER.load(name)(TEXT) for name in (None, "fast", "faithful", lookup))
    assert plain == fast == same != faithful
    folder = shipped.locate("fast")
    assert (folder / "onnx" / "model_quantized.onnx").read_bytes() == (
        lookup / "onnx" / "model_quantized.onnx"
    ).read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "mmalib.json", "onnx", "tokenizer.json", "tokenizer_config.json")
    }


def test_it_is_unpacked_once(models):
    folder = shipped.locate("fast")
    (folder / "mark").touch()
    assert shipped.locate("fast") == folder and (folder / "mark").exists()
    shutil.rmtree(folder)
    assert shipped.locate("fast") == folder and not (folder / "mark").exists()


def _locate(home):
    shipped.MODELS = home
    return shipped.locate("fast")


def test_several_at_once_all_find_it_whole(models, tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert set(pool.map(_locate, [models] * 6)) == {shipped.locate("fast")}
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_a_damaged_package_is_one_line(models):
    path = models / "fast" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing or damaged: .* Reinstall"):
        NER.load()


def test_nothing_shipped_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "MODELS", tmp_path)
    for arguments in (["predict", "Madrid"], ["predict", "--model", "faithful", "Madrid"]):
        assert cli.main(arguments) == 2
        out, error = capsys.readouterr()
        assert not out and error.count("\n") == 1 and "this copy of mmalib carries: none" in error
    assert cli.main(["models"]) == 0 and "carries no models" in capsys.readouterr().out


def test_the_command_lists_size_f1_and_speed(models, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "speed", lambda tag: len(tag(list(shipped.TEXT))) * 100)
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    about = ("size", "test", "here")
    assert [line.split()[0] for line in lines] == ["fast", *about, "faithful", *about]
    assert "05-fast" in lines[0] and "en 0.900, fr 0.700" in lines[2] and "300 sentences a second" in lines[3]


def test_the_speed_is_of_sentences(monkeypatch):
    def twice(timer):
        timer.timeit(2)
        return 2, 3.0

    tagged = []
    monkeypatch.setattr(shipped.timeit.Timer, "autorange", twice)
    assert shipped.speed(tagged.extend) == 2 * 96 / 3
    assert len(tagged) == 3 * 96 and set(tagged) == set(shipped.TEXT)


def test_what_is_shown_is_the_text_and_its_types(models, ner):
    text = "Angela <Merkel> & José\nViña"
    page = show(text, {"one": ner, "<other>": "faithful"})
    assert page._repr_html_() == page and "&lt;other&gt;" in page and "<Merkel>" not in page
    assert all(f">{one['entity_group']}</small>" in page for one in ner(text))
    import html
    import re

    (row,) = re.findall(r"<th[^>]*>one</th><td[^>]*>(.*?)</td>", page, re.DOTALL)
    without_types = re.sub(r" <small.*?</small>", "", row)
    assert html.unescape(re.sub(r"<[^>]*>", "", without_types)) == text


def test_a_model_that_tags_subwords_is_shown_and_compared_as_well(models, ner, sentences):
    pieces = NER.load("fast", aggregation_strategy="none")
    page = show(TEXT, {"pieces": pieces})
    assert all(f">{one['entity']}</small>" in page for one in pieces(TEXT)) and "#DDDDDD" not in page
    assert differing(sentences[:50], pieces, ner) and differing(sentences[:50], pieces, pieces) == []


def test_two_folders_of_one_name_are_both_shown(models, tmp_path):
    folders = [tmp_path / parent / "faithful" for parent in ("one", "other")]
    for folder in folders:
        shutil.copytree(shipped.locate("faithful"), folder)
    page = show("Angela Merkel", iter(map(str, folders)))
    assert page.count("<tr>") == 2 and all(str(folder) in page for folder in folders)


def test_texts_that_differ_most_come_first(models, ner, sentences):
    other = NER.load("faithful")
    found = differing(sentences[:50], ner, other)
    assert [number for number, _ in found] == sorted((number for number, _ in found), reverse=True)
    text = found[0][1]
    ours, theirs = ({(e["start"], e["end"], e["entity_group"]) for e in one(text)} for one in (ner, other))
    assert len(ours ^ theirs) == found[0][0] > 0 and differing(sentences[:50], ner, ner) == []


@pytest.mark.parametrize("root", [shipped.MODELS, machine.WEIGHTS])
def test_every_file_is_the_one_whose_hash_is_stored(root):
    """A cache of an earlier day would hide that one is not."""
    hashes = cache.sums(root, *sorted(path.name for path in root.iterdir() if path.is_dir()))
    assert hashes and [path for path, total in hashes.items() if cache.hash_of(root / path) != total] == []


@pytest.mark.parametrize("name", shipped.there() or [None])
def test_what_the_package_carries_finds_names_and_is_small(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path))  # unpacked from what is stored now
    if name is None:  # until the models of a study are in the repository
        with pytest.raises(ValueError, match="mmalib carries: none"):
            NER.load()
        return
    found = NER.load(name, runtime="onnxruntime")("Ayer el presidente Pedro Sánchez recibió en Madrid a Mark Rutte.")
    sure = {("Pedro Sánchez", "PER"), ("Madrid", "LOC"), ("Mark Rutte", "PER")}
    assert sure <= {(one["word"], one["entity_group"]) for one in found}
    assert sum(path.stat().st_size for path in shipped.MODELS.rglob("*") if path.is_file()) < 60e6
