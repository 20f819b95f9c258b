"""Models for the package: chosen from records, made small, scored anew; mistakes; scores on files of one's own."""

import json
import re

import numpy as np
import onnx
import pytest
from huggingface_hub import ModelCard
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from smoke import FILE

from mmalib import NER, runtimes
from mmalib.app import cli, score, ship
from mmalib.data import corpus
from mmalib.graph import export, quantize
from mmalib.model import disk
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.records import store
from mmalib.studies.study import Study
from mmalib.use import shipped

RUN = "01-tiny-sample-seed1"


@pytest.fixture(scope="module")
def graph(tiny_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ship") / "graph"
    export.export(load_model(str(tiny_backbone), seed=1), load_tokenizer(str(tiny_backbone)), folder)
    return folder


def test_the_table_in_bytes_is_the_table(graph, tmp_path, tokenizer):
    (tmp_path / "small").mkdir()
    quantize.table_in_bytes(graph / "model.onnx", tmp_path / "small" / "model.onnx")
    before, after = onnx.load(graph / "model.onnx"), onnx.load(tmp_path / "small" / "model.onnx")
    table = next(t for t in before.graph.initializer if "word_embed" in t.name)
    small = {t.name: onnx.numpy_helper.to_array(t) for t in after.graph.initializer}
    assert table.name not in small and small[f"{table.name}_quantized"].dtype == np.uint8
    levels = small[f"{table.name}_quantized"].astype(int) - small[f"{table.name}_zero_point"]
    back = levels * small[f"{table.name}_scale"]
    assert np.abs(back - onnx.numpy_helper.to_array(table)).max() <= small[f"{table.name}_scale"] * 0.501
    ids = np.array([[2, *range(5, 40), 3]])
    one, other = (runtimes.load(folder, 1)(ids, np.ones_like(ids)) for folder in (graph, tmp_path / "small"))
    assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()
    quantize.table_in_bytes(tmp_path / "small" / "model.onnx", tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx").graph == after.graph


@pytest.fixture
def study(tiny_backbone, tmp_path, monkeypatch):
    """A study with the record and the weights of one tuned model, on a few sentences of the sample."""
    home = tmp_path / "runs" / "smoke"
    model, tokenizer = load_model(str(tiny_backbone), seed=1), load_tokenizer(str(tiny_backbone))
    disk.save(model, tokenizer, home / "models" / RUN)
    settings = {
        "kind": "baseline",
        "notebook": "01",
        "method": "baseline",
        "backbone": "tiny",
        "label": "tiny",
        "weights": "0",
    }
    settings |= {"corpus": "sample", "seed": 1, "train_sentences": None, "max_length": 128}
    scores = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "sentences": 32}
    every = {language: {"dev": scores, "test": scores} for language in corpus.LANGUAGES}
    store.save(home / "records", RUN, settings, scores=every)
    monkeypatch.setattr(shipped, "speed", lambda tag: 100.0)
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


def test_a_run_becomes_a_model_of_the_package(study, tmp_path, monkeypatch):
    models = tmp_path / "models"
    assert ship.run(str(FILE), study, {"fast": None, "faithful": RUN}, models) == 0
    monkeypatch.setattr(shipped, "MODELS", models)
    ner, folder = NER.load(), shipped.locate("fast")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        *("README.md", "config.json", "mmalib.json", "onnx/model_quantized.onnx", "tokenizer.json"),
        "tokenizer_config.json",
    ]
    about = json.loads((folder / "mmalib.json").read_text())
    assert about["run"] == RUN and about["quantization"]["kind"] == "static"
    assert about["scores"]["before"]["es"]["test"] == 0.5
    dev = Study.open(str(FILE), study).corpora["nl"]["dev"]
    counted = precision_recall_fscore_support(list(dev["tags"]), ner.tags(list(dev["words"])), average="micro")
    assert about["scores"]["after"]["nl"]["dev"] == pytest.approx(counted[2])
    data = ModelCard.load(folder / "README.md").data
    assert data.model_name == "fast" and len(data.eval_results) == 12
    text = (folder / "README.md").read_text()
    assert RUN in text and "100 sentences" in text and "- Spanish: " in text
    assert not any(path.suffix == ".onnx" for path in models.rglob("*"))


@pytest.mark.parametrize(
    ("more", "run", "said"),
    [({}, "05-nothing", "no record of '05-nothing'"), ({"sees_target_text": True}, RUN, "CoNLL-2002")],
)
def test_what_may_not_be_shipped_is_one_line_and_leaves_nothing(study, tmp_path, more, run, said, capsys):
    path = study / "smoke" / "records" / f"{RUN}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | more}))
    with pytest.raises(ValueError, match=said):
        ship.run(str(FILE), study, {"fast": run}, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def record(run, kind, es, nl, parameters, seed=1, **settings):
    scores = {name: {"dev": {"f1": f1}, "test": {"f1": 0.0}} for name, f1 in (("en", 0.9), ("es", es), ("nl", nl))}
    settings |= {"kind": kind, "seed": seed, "corpus": "conll"}
    return {"run": run, "settings": settings, "scores": scores, "parameters": parameters}


def test_the_records_choose():
    whole = record("whole", "baseline", 0.70, 0.80, 40)
    small = record("small", "student", 0.66, 0.72, 30)
    smaller = record("smaller", "student", 0.50, 0.60, 20)
    read = record("read", "student", 0.75, 0.85, 10, sees_target_text=True)
    other_seed = record("other seed", "baseline", 0.90, 0.90, 1, seed=2)
    records = [whole, small, smaller, read, other_seed]
    assert ship.best("faithful", records) == "whole" and ship.best("fast", records) == "small"
    of_open_text = record("open", "student", 0.70, 0.79, 29, sees_target_text=True, text="folder")
    assert ship.best("fast", [*records, of_open_text]) == "open"
    with pytest.raises(ValueError, match="no tuned model yet"):
        ship.best("fast", [read])


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", []),
        ("B-PER I-PER O", "O O O", [("PER not found", 0, 1)]),
        ("O O B-ORG", "O O B-LOC", [("ORG taken for LOC", 2, 2)]),
        ("B-LOC I-LOC O", "B-LOC O O", [("LOC with other ends", 0, 1)]),
        ("O O O", "O B-MISC O", [("MISC where there is no name", 1, 1)]),
        ("B-PER I-PER I-PER", "B-PER O B-ORG", [("PER with other ends", 0, 2), ("PER taken for ORG", 0, 2)]),
    ],
)
def test_every_mistake_has_its_name(gold, said, expected):
    assert sorted(ship.of_sentence(gold.split(), said.split())) == sorted(expected)


def test_mistakes_are_counted_where_it_is_scored_and_shown_on_the_sample():
    words, tags = [["Rome", "wins"]] * 3 + [["Ann"]], [["B-ORG", "O"]] * 3 + [["B-PER"]]
    corpora = {language: {"dev": {"words": words, "tags": tags}} for language in ("es", "fr")}

    def as_places(sentences):
        return [["B-LOC"] + ["O"] * (len(sentence) - 1) for sentence in sentences]

    lines = ship.mistakes(as_places, corpora)
    assert lines["fr"] == ["ORG taken for LOC: 3 times", "PER taken for LOC: 1 times"]
    assert [line.split(", as in: ")[0] for line in lines["es"]] == lines["fr"]
    assert all("Rome" not in line and ("as in" not in line or "**" in line) for line in lines["es"])


# ---- The score command ----


def files(tmp_path):
    one, other = tmp_path / "iob1.conll", tmp_path / "mine.txt"
    one.write_text("Anna NN I-PER\nBerg NN I-PER\nin NN O\nGent NN I-LOC\n\nPSV NN I-ORG\nPSV NN B-ORG\n")
    other.write_text("Anna B-PERSON\nLinux B-SOFTWARE\nOslo B-LOC\n")
    return one, other


def test_scores_are_seqevals_with_intervals(graph, tmp_path, capsys):
    one, _ = files(tmp_path)
    many = tmp_path / "many.conll"
    many.write_text((one.read_text() + "\n") * 40)
    assert cli.main(["score", str(graph), str(many)]) == 0
    out = capsys.readouterr().out
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "B-ORG"]] * 40
    said = NER.load(graph).tags([["Anna", "Berg", "in", "Gent"], ["PSV", "PSV"]] * 40)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")][2:]
    by_type = {row[0]: row for row in rows}
    names = sorted({tag[2:] for tags in (*gold, *said) for tag in tags if tag != "O"})
    assert sorted(by_type) == sorted([*names, "all"])
    micro = precision_recall_fscore_support(gold, said, average="micro", zero_division=0)
    each = precision_recall_fscore_support(gold, said, average=None, zero_division=0)
    for row, expected in [(by_type["all"], micro), *((by_type[n], [x[i] for x in each]) for i, n in enumerate(names))]:
        values = [cell.split()[0] for cell in row[3:]]
        assert values == [f"{number:.3f}" for number in expected[:3]]
        for cell in row[3:]:
            value, low, high = (float(part) for part in re.findall(r"[\d.]+", cell))
            assert low <= value <= high


def test_unknown_types_are_named_or_mapped(graph, tmp_path, capsys):
    _, other = files(tmp_path)
    assert cli.main(["score", str(graph), str(other)]) == 0
    assert "does not know them (--map gives them other names): PERSON (1 words), SOFTWARE (1 words)" in (
        capsys.readouterr().out
    )
    assert cli.main(["score", str(graph), str(other), "--map", "PERSON=PER", "--map", "SOFTWARE=O"]) == 0
    out = capsys.readouterr().out
    assert "does not know" not in out and "| PER | 1 |" in out
    renamed, left_out = score.renaming(["MISC=O", "PERSON=PER"])
    assert [renamed(tag) for tag in ("B-MISC", "I-PERSON", "O", "B-LOC", "I-X", "odd")] == [
        *("O", "I-PER", "O", "B-LOC", "O", "odd")
    ]
    assert left_out == {"X": 1}


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("Anna\n", [], "line 1: found columns: 1"),
        ("Anna PERSON\n", [], "unknown tag 'PERSON'"),
        ("Anna B-PER\n", ["--map", "PERSON=HUMAN"], "--map PERSON=HUMAN is no renaming"),
        ("", [], "without any sentence"),
    ],
)
def test_what_cannot_be_scored_is_one_line(graph, tmp_path, text, arguments, said, capsys):
    (tmp_path / "file").write_text(text)
    assert cli.main(["score", str(graph), str(tmp_path / "file"), *arguments]) == 2
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and said in error


def test_the_weights_of_a_study_and_their_graph_find_the_same(graph, tiny_backbone, tmp_path):
    disk.save(load_model(str(tiny_backbone), seed=1), load_tokenizer(str(tiny_backbone)), tmp_path / "weights")
    texts = ["Angela Merkel besuchte Madrid.", "word " * 700 + "Gent", ""]
    ours, theirs = (NER.load(folder)(texts, ignore_labels=()) for folder in (tmp_path / "weights", graph))
    ours, theirs = ([entity for one in found for entity in one] for found in (ours, theirs))
    assert [(one["start"], one["end"]) for one in ours] == [(one["start"], one["end"]) for one in theirs]
    assert np.allclose([one["score"] for one in ours], [one["score"] for one in theirs], atol=2e-4)


def test_a_model_of_a_changed_profile_is_not_shipped():
    whole = record("whole", "baseline", 0.70, 0.80, 40)
    changed = record("changed", "baseline", 0.9, 0.9, 1, varied={"epochs": 9})
    assert ship.best("faithful", [whole, changed]) == "whole"
