"""Model cards: every number is a record's or mmalib.json's, gaps are said, and what the card tells to type works."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard

from mmalib import NER
from mmalib.app import card, cli
from mmalib.graph import export
from mmalib.model import disk
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.records import counts
from mmalib.use.ner import WINDOW

RUN = "05-float-tiny-sample-seed1"
MACHINE = {"cpu": "Some CPU", "cores": 6, "ram_gib": 11.5, "flags": {}, "gpu": None}
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def graph(tiny_backbone, tmp_path_factory):
    """One exported model of the run RUN."""
    folder = tmp_path_factory.mktemp("card") / RUN
    model, tokenizer = load_model(str(tiny_backbone), seed=1), load_tokenizer(str(tiny_backbone))
    export.export(model, tokenizer, folder, provenance={"run": RUN, "corpus": "sample", "seed": 1})
    return folder


@pytest.fixture
def home(graph, tmp_path):
    """A study of its own for every test that writes."""
    shutil.copytree(graph, tmp_path / "models" / RUN)
    return tmp_path


def score(f1):
    return {"f1": f1, "f1_low": f1 - 0.0217, "f1_high": f1 + 0.0191, "sentences": round(3000 * f1), "types": {}}


def record(run=RUN, *, scores=None, size=None, **more):
    """A record as the studies save it, every score another number."""
    settings = {
        "kind": "graph",
        "notebook": "05",
        "method": "quantization",
        "graph": "float",
        "int8": "float",
        "label": "tiny",
        "backbone": "tiny",
        "weights": "0000",
    }
    settings |= {"corpus": "sample", "seed": 1, "train_sentences": None, "epochs": 3, "max_length": 77}
    f1 = {"en": (0.8514, 0.8023), "es": (0.4815, 0.4636), "nl": (0.5177, 0.4998)}
    ours = {name: {"dev": score(dev), "test": score(test)} for name, (dev, test) in f1.items()}
    return {
        "run": run,
        "settings": settings | more,
        "scores": ours if scores is None else scores,
        **({"size": size} if size else {}),
        "machine": MACHINE,
        "versions": {"torch": "9.1.2", "transformers": "8.3.4", "onnxruntime": "7.5.6", "numpy": "6.6.6"},
        "commit": "c0ffee-dirty",
        "finished": "2031-02-03T04:05:06+00:00",
    }


def trained(folder, rows, run="07-trained-x-sample", cpu="Fast CPU"):
    settings = {"notebook": "07", "method": "trained", "folder": folder}
    return {**record(run, scores={}), "settings": settings, "throughput": rows, "machine": MACHINE | {"cpu": cpu}}


def row(runtime="onnxruntime", batch=4, speed=61.84, ratio=3.217, **more):
    about = {"model": "x", "runtime": runtime, "threads": 5, "length": 96, "batch": batch}
    if "failed" in more:
        return about | more
    spread = {"samples_per_second_low": speed - 1, "samples_per_second_high": speed + 1, "milliseconds_p95": 1.0}
    return about | {"samples_per_second": speed, "ratio": ratio, "busy": False} | spread | more


def about_of(folder):
    return json.loads((folder / disk.PROVENANCE).read_text(encoding="utf-8"))


def int8(about, **more):
    """What mmalib.json says of an int8 graph made of another one."""
    of_int8 = {"kind": "qat", "format": "qdq", "quantized": 37, "skip": [], "embeddings": False}
    of_int8 |= {"sparsity": 0.6, "sparsity_int8": 0.6543, "megabytes_float": 41.237}
    return about | {"megabytes": 13.586, "quantization": of_int8 | more}


def rows_of(text, heading):
    """The rows of the table under a heading, as lists of cells."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def line_of(text, name):
    (found,) = [line for line in text.splitlines() if line.startswith(f"- {name}: ")]
    return found.removeprefix(f"- {name}: ")


def test_the_front_matter_is_what_the_hub_reads(graph):
    text = card.text(record(), about_of(graph))
    said, body = ModelCard(text).data.to_dict(), text.split("---\n", 2)[2]
    assert body.strip().startswith(f"# {RUN}\n")
    assert said["language"] == ["en", "es", "nl"] and said["license"] == "apache-2.0"
    assert said["pipeline_tag"] == "token-classification" and said["library_name"] == "onnx"


def test_the_hub_reads_f1_before_and_after_by_language_and_split(graph):
    mine, before = record(corpus="conll", backbone="e5", weights="1"), record()["scores"]
    mine["further"] = {"fr": {"test": score(0.7123)}}
    for splits in before.values():
        for one in splits.values():
            one["f1"] += 0.01
    text = card.text(mine, int8(about_of(graph)), folder="models/fast", before=before)
    card_read = ModelCard(text, ignore_metadata_errors=False)
    data = card_read.data
    assert (data.license, data.base_model, data.datasets) == (
        "mit",
        "intfloat/multilingual-e5-small",
        ["eriktks/conll2003"],
    )
    assert data.model_name == "fast" and data.language == ["en", "es", "nl", "fr"]
    names = ("dataset_type", "dataset_config", "dataset_split", "metric_name")
    found = {tuple(getattr(one, name) for name in names): one.metric_value for one in data.eval_results}
    assert len(found) == len(data.eval_results) == 6 * 2 + 1
    assert found["eriktks/conll2002", "es", "test", "F1 before compression"] == 0.4736
    assert found["eriktks/conll2002", "es", "test", "F1 after compression"] == 0.4636
    assert found["eriktks/conll2003", "en", "validation", "F1 after compression"] == 0.8514
    assert found["Babelscape/wikineural", "fr", "test", "F1"] == 0.7123
    assert ModelCard(f"---\n{data.to_yaml()}\n---\n").data.to_dict() == data.to_dict()
    assert "Not counted" in text and "| English | test | 0.812 | 0.802 |" in text


def test_without_a_list_of_mistakes_the_counts_name_the_types_most_often_wrong(graph):
    mine = record()
    for language, right in {"en": (8, 3, 5, 0), "es": (9, 9, 9, 9)}.items():
        made = np.zeros((2, 4, 3), dtype=np.int64)
        made[0, :, counts.RIGHT], made[1, :, counts.PREDICTED], made[0, :, counts.GOLD] = right, (9, 12, 5, 2), 10
        mine["scores"][language]["dev"]["counts"] = counts.written(made)
    section = card.text(mine, about_of(graph)).split("## What it gets wrong\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("- English")] == [
        "- English: ORG on dev: 7 of 10 not found right, 9 found wrongly",
        "- English: MISC on dev: 10 of 10 not found right, 2 found wrongly",
        "- English: LOC on dev: 5 of 10 not found right, 0 found wrongly",
    ]
    assert section.count("- Spanish: ORG on dev: 1 of 10 not found right, 3 found wrongly") == 1
    assert section.index("English") < section.index("Spanish") and "Dutch" not in section


def test_mistakes_are_listed_by_language(graph):
    wrong = {"es": ["ORG taken for LOC: 7 times, as in: **Madrid** gana", "PER not found: 3 times"], "fr": ["x"]}
    text = card.text(record(), about_of(graph), wrong=wrong)
    section = text.split("## What it gets wrong\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("- ")] == [
        "- Spanish: ORG taken for LOC: 7 times, as in: **Madrid** gana",
        "- Spanish: PER not found: 3 times",
        "- French: x",
    ]


def test_the_table_of_f1_is_the_records_scores(graph):
    mine = record()
    names = {"English": "en", "Spanish": "es", "Dutch": "nl"}
    found = rows_of(card.text(mine, about_of(graph)), "How good it is")
    assert len(found) == 6
    for language, split, *numbers, sentences in found:
        one = mine["scores"][names[language]][split]
        assert numbers == [f"{one[key]:.3f}" for key in ("f1", "f1_low", "f1_high")]
        assert int(sentences) == one["sentences"]


def test_the_table_of_speeds_is_the_rows_of_this_folder_and_says_what_failed(home):
    reason = "DeepSparse is not available | no .venv-deepsparse"
    mine = [row(), row("openvino:precision=bf16", 8, 99.95, 5.5), row("deepsparse", 1, failed=reason)]
    mine += [row("openvino", 1, 12.34, 0.5, busy=True, others_cores=1.25)]
    others = trained("another", [row("openvino", 16, 77.7, 7.7)], "07-trained-another-sample")
    (path,) = card.write_all(home, [record(), trained(RUN, mine), others])
    found = rows_of(path.read_text(encoding="utf-8"), "How fast it is")
    machine = "Fast CPU, cores: 6, threads: 5"
    assert found == [
        ["onnxruntime", "4", "61.8", "3.22", machine, ""],
        ["openvino:precision=bf16", "8", "100.0", "5.50", machine, ""],
        ["deepsparse", "1", "", "", machine, f"failed: {reason}".replace("|", "\\|")],
        ["openvino", "1", "12.3", "0.50", machine, "others took 1.2 cores"],
    ]
    assert "Samples of 96 subwords" in path.read_text(encoding="utf-8")


def test_speeds_and_scores_that_are_missing_are_said(graph):
    text = card.text(record(scores={}), about_of(graph))
    assert text.split("## How fast it is\n")[1].split("##")[0].strip() == "Not measured."
    assert text.split("## How good it is\n")[1].split("##")[0].strip().endswith("\nNot measured.")
    assert "Not measured." not in card.text(
        record(), about_of(graph), card._speed_table([row() | {"machine": MACHINE}])
    )


def test_no_number_is_typed(graph):
    """Every number of the card is one that the inputs hold, as it is shown there."""
    mine = record("a-run", size={"megabytes": 13.586}, train_sentences=4321, qat_epochs=17, qat_sentences=987)
    start = mine["settings"] | {"method": "uniform", "removed": 0.437}
    mine["settings"] |= {"runtime": "onnxruntime", "start": start}
    mine["sparsity"] = {"requested": 0.61, "measured": 0.6089}
    speeds = [row(others_cores=0.1) | {"machine": MACHINE}]
    text = card.text(mine, int8(about_of(graph)), card._speed_table(speeds)).split("---\n", 2)[2]
    allowed = {"13.59", "41.24", "37", "43.7%", "61.0%", "60.9%", "65.4%", "4,321", "17", "987", "77", "6", "5", "4"}
    allowed |= {"96", "61.8", "3.22", str(WINDOW), "9.1.2", "8.3.4", "7.5.6", "2031-02-03T04:05:06+00:00"}
    for one in (one for splits in mine["scores"].values() for one in splits.values()):
        allowed |= {f"{one[key]:.3f}" for key in ("f1", "f1_low", "f1_high")} | {str(one["sentences"])}
    for shown in sorted(allowed, key=len, reverse=True):
        text, number = re.subn(rf"(?<![\w.-]){re.escape(shown)}(?![\d%]|\.\d)", "", text)
        assert number, f"{shown} is not in the card"
    assert NUMBER.findall(text.replace("the 95% interval", "")) == []


@pytest.mark.parametrize(
    ("settings", "labelled", "unlabelled", "teacher"),
    [
        ({"corpus": "conll"}, "CoNLL-2003, all of them", "none", "none"),
        ({"corpus": "sample", "train_sentences": 1200}, "generated sample", "none", "none"),
        ({"corpus": "conll", "train_sentences": 1200}, "CoNLL-2003, at most 1,200", "none", "none"),
        (
            {"corpus": "conll", "sees_target_text": True, "unlabelled_sentences": 500, "teacher": "e5"}
            | {"hardness": 0.5},
            "CoNLL-2003",
            "Spanish and Dutch training sentences of CoNLL-2002 with the teacher's answers, at most 500",
            "`e5`",
        ),
        (
            {"corpus": "sample", "sees_target_text": True, "unlabelled_sentences": None, "hardness": 0.5},
            "generated sample",
            "Spanish and Dutch training sentences of the generated sample",
            "`tiny`",
        ),
        (
            {"corpus": "conll", "sees_target_text": True, "text": "folder", "teacher": "e5", "hardness": 0.5},
            "CoNLL-2003",
            "open text in other languages than English, of none of these corpora",
            "`e5`",
        ),
        # a student tuned without its teacher names it all the same, as what it is compared with
        ({"sees_target_text": False, "teacher": "e5", "hardness": 0.0}, "generated sample", "none", "none"),
    ],
)
def test_what_it_was_trained_on(graph, settings, labelled, unlabelled, teacher):
    text = card.text(record(**settings), about_of(graph))
    assert labelled in line_of(text, "Labelled") and ("CoNLL" in line_of(text, "Labelled")) == ("CoNLL" in labelled)
    assert line_of(text, "Unlabelled").startswith(unlabelled)
    assert line_of(text, "Teacher").startswith(teacher)
    assert ("it has learnt generated text" in text) == (settings.get("corpus", "sample") == "sample")


def test_a_search_over_the_labels_of_other_languages_is_told(graph):
    about = int8(about_of(graph), skip=["bert.encoder.layer.1.output.dense"])
    text = card.text(record(floor_languages=["en", "nl"]), about)
    assert line_of(text, "What stays in float was chosen on labelled dev sentences") == "English, Dutch"
    assert "left in float: bert.encoder.layer.1.output.dense" in line_of(text, "Numbers")
    assert "chosen on labelled dev" not in card.text(record(), about)


def test_a_combination_tells_of_what_it_started_from(graph):
    start = {"method": "uniform", "removed": 0.5, "label": "student"}
    more = {
        "kind": "combination",
        "method": "combination",
        "backbone": "folder/of/student",
        "combination": "halved-q",
        "start": start,
        "hardness": 0.5,
    }
    text = card.text(record(**more), int8(about_of(graph), format="qoperator", embeddings=True))
    assert line_of(text, "Backbone").startswith("`student`")
    assert line_of(text, "Method").startswith("combination (`halved-q`): student, half of heads and neurons")
    assert "50.0% of the heads and neurons" in line_of(text, "Taken out") and "subwords" in line_of(text, "Taken out")
    assert all(
        said in line_of(text, "Numbers") for said in ("int8, qat", "`qoperator`", "37 linear maps", "embeddings")
    )
    assert line_of(text, "Size") == "13.59 MB, 41.24 MB before int8"
    assert "which subwords occur" in line_of(text, "Unlabelled") and "`student`" in line_of(text, "Teacher")
    more["start"] = start | {"start": {"choice": "evenly", "layers": 6}}  # two starts back
    assert "all layers but 6" in line_of(card.text(record(**more), int8(about_of(graph))), "Taken out")
    whole = card.text(record(), about_of(graph))
    assert line_of(whole, "Taken out") == "nothing" and line_of(whole, "Numbers") == "float32"


def test_which_graph_the_f1_is_of(graph):
    about = about_of(graph)
    ours = {"size": {"megabytes": about["megabytes"]}, "runtime": "onnxruntime"}
    assert "measured in onnxruntime on this graph." in card.text(record(**ours), about)
    exported = card.text(record(), about)
    assert "measured in PyTorch on the model that this graph was made from" in exported
    assert f"at most {about['parity']['max_abs_difference']:.1e}" in exported
    # int8 made of a run's graph, by hand, under the name of that run
    later = card.text(record(**ours), int8(about))
    assert "was not scored itself" in later and "on this graph." not in later


def test_the_limits_name_the_weaker_languages(graph):
    text = card.text(record(), about_of(graph))
    assert "Weaker than in English on test: Spanish, Dutch.\n" in text
    mine = record()
    mine["scores"]["es"]["test"]["f1"] = 0.9
    assert "Weaker than in English on test: Dutch.\n" in card.text(mine, about_of(graph))


def test_where_the_backbone_comes_from(graph):
    assert line_of(card.text(record(backbone="e5"), about_of(graph)), "Backbone").startswith(
        "`e5`, from multilingual-e5"
    )
    assert line_of(card.text(record(), about_of(graph)), "Backbone") == "`tiny`, of which its own card tells"


def test_where_it_comes_from(graph):
    text = card.text(record(), about_of(graph))
    assert line_of(text, "Run") == f"`{RUN}`, finished 2031-02-03T04:05:06+00:00"
    assert line_of(text, "Commit") == "c0ffee-dirty"
    assert line_of(text, "Versions") == "torch 9.1.2, transformers 8.3.4, onnxruntime 7.5.6"
    assert line_of(text, "Machine") == "Some CPU, cores: 6, GPU: none"
    assert line_of(card.text(record() | {"commit": None}, about_of(graph)), "Commit") == "not known"


def test_the_same_records_give_the_same_bytes(home):
    records = [record(), trained(RUN, [row()], "07-b", "B"), trained(RUN, [row()], "07-a", "A")]
    (path,) = card.write_all(home, records)
    before = path.read_bytes()
    assert path == home / "models" / RUN / "README.md"
    assert card.write_all(home, copy.deepcopy(records[::-1])) == [path] and path.read_bytes() == before
    records[0]["scores"]["nl"]["test"]["f1"] += 0.01
    card.write_all(home, records)
    assert path.read_bytes() != before
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".")]


def test_only_graphs_with_a_record_get_a_card(home):
    models = home / "models"
    other, nested, pairs = models / "stranger", models / "06-x" / "graph", models / "09-pairs"
    unfinished, weights = models / ".06-x.tmp", models / "01-weights"
    for folder in (other, nested, pairs, unfinished):
        shutil.copytree(models / RUN, folder)
    weights.mkdir()
    for folder, run in ((other, "nobody"), (nested, "06-x"), (unfinished, "06-x"), (pairs, "09-pairs")):
        (folder / disk.PROVENANCE).write_text(json.dumps(about_of(folder) | {"run": run}))
    (other / "README.md").write_text("mine")
    similar = record("09-pairs", scores={"en": {"test": {"pearson": 0.7}}}, task="similarity")
    records = [record(), record("06-x"), similar, record("01-weights")]
    speeds = trained("06-x/graph", [row("openvino", 2)])
    written = card.write_all(home, [*records, speeds])
    assert written == [folder / "README.md" for folder in (models / RUN, nested)]
    assert (other / "README.md").read_text() == "mine"
    assert {path.parent for path in models.rglob("README.md")} == {models / RUN, nested, other}
    assert "`06-x`" in (nested / "README.md").read_text() and "| openvino | 2 |" in (nested / "README.md").read_text()
    assert card.write_all(home / "nothing", records) == []


def test_what_the_card_tells_to_type_runs(home, monkeypatch, capsys):
    (path,) = card.write_all(home, [record()])
    text = path.read_text(encoding="utf-8")
    monkeypatch.chdir(home / "models")
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(lines, "card", "exec"), {})
    (sentence,) = re.findall(r'ner\("(.*?)"\)', lines)
    assert capsys.readouterr().out == f"{NER.load(path.parent)(sentence)}\n"
    (command,) = re.findall(r'^python -m mmalib (\S+) (\S+) (\S+) "(.*)"$', text, re.MULTILINE)
    assert command == ("predict", "--model", RUN, sentence)
    assert cli.main(list(command)) == 0
