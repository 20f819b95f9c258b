"""`figures/` of the repository: taken from a profile's records, drawn, and put into its two pages."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from mmalib import reports
from mmalib.app import publish
from mmalib.model import backbones
from mmalib.records import counts, store

SCORE = {"f1": 0.5, "precision": 0.5, "recall": 0.5, "f1_low": 0.4, "f1_high": 0.6}


@pytest.fixture
def records(tmp_path):
    scores = {language: {"dev": SCORE, "test": SCORE} for language in ("en", "es", "nl")}
    for seed in (1, 2):
        settings = {"kind": "baseline", "method": "baseline", "label": "e5", "corpus": "sample", "seed": seed}
        store.save(tmp_path / "runs" / "quick" / "records", f"e5-{seed}", settings, scores=scores, needs={})
    return tmp_path / "runs"


def test_a_profile_is_published_and_redrawn_without_a_change(records, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("one\n<!-- table_1 -->\nold\n<!-- /table_1 -->\ntwo\n")
    store.save(tmp_path / "benchmarks" / "records", "crosscheck", {}, scores={}, rows=[{"tool": "a", "speed": "1.5"}])
    target = tmp_path / "figures" / "records"
    elsewhere = store.save(target, "of-another-machine", {"corpus": "sample"}, scores={})  # stays
    drawn, page = tmp_path / "figures" / "of_last_time.svg", tmp_path / "figures" / "README.md"
    drawn.touch()
    (tmp_path / "figures" / "notes.txt").touch()
    page.write_text("<!-- answer -->\n<!-- /answer -->\n")
    missing = publish.take("quick", records, tmp_path)
    assert elsewhere.exists() and "03-obs-50-cubic-e5-half-sample-seed1" in missing
    elsewhere.unlink()
    publish.redraw(root=tmp_path)
    assert (tmp_path / "figures" / "notes.txt").exists()
    assert not drawn.exists() and "`e5` finds names with F1 0.50 in English" in page.read_text()
    files = {path: path.read_bytes() for path in (tmp_path / "figures").rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {"table_1.csv", "table_1.md", "baselines.svg", "baselines.png"}
    table = (tmp_path / "figures" / "table_1.md").read_text()
    assert (tmp_path / "figures" / "benchmark_crosscheck.md").read_text().endswith("| a | 1.5 |\n")
    assert readme.read_text() == f"one\n<!-- table_1 -->\n{table}<!-- /table_1 -->\ntwo\n"
    publish.redraw(root=tmp_path)
    assert {path: path.read_bytes() for path in files} == files


def test_records_of_another_corpus_are_not_published_beside_those_there(records, tmp_path):
    target = tmp_path / "figures" / "records"
    there = store.save(target, "01-e5-conll-seed1", {"corpus": "conll"}, scores={})
    with pytest.raises(ValueError, match="other corpora .conll.*Move them away first"):
        publish.take("quick", records, tmp_path)
    assert list(target.iterdir()) == [there]


# What sums up all that there is, or has room for the best alone
SUMMARIES = {"table_best", "table_costs", "table_speed_open"}


def test_what_was_changed_has_rows_of_its_own():
    """Every committed record beside one of a changed profile with other numbers: no row and no mean is another."""
    records = store.read(publish.ROOT / "figures" / "records")
    others = [_varied(record, {record["run"] for record in records}) for record in records]
    alone, beside = (reports.draw(some) for some in (records, sorted([*records, *others], key=lambda one: one["run"])))
    assert alone.keys() == beside.keys()
    for name in alone.keys() - SUMMARIES:
        if isinstance(alone[name], pd.DataFrame):
            before, after = (set(drawn[name].astype(str).itertuples(index=False)) for drawn in (alone, beside))
            assert before <= after, name
    for name in ("figure_2", "figure_3", "heads_removed", "figure_8_9", "crossed_quality", "crossed_removed"):
        if name in alone:
            assert _lines(alone[name]) == _lines(beside[name]), name


def test_where_everything_was_changed_the_figures_of_what_is_planned_are_left_out():
    records = store.read(publish.ROOT / "figures" / "records")
    drawn = reports.draw([_varied(record, {one["run"] for one in records}) for record in records])
    assert "table_crossed" in drawn and not {"crossed_quality", "crossed_removed", "ablations"} & drawn.keys()
    assert publish.planned([_varied(records[0], {records[0]["run"]})]).empty


def _varied(record, names):
    changed = _worse({key: value for key, value in record.items() if key != "settings"})
    settings = record["settings"] | {"varied": {"epochs": 9}, "label": f"{record['settings']['label']}, epochs 9"}
    if settings.get("model") in names:  # what was timed is the changed one as well
        settings |= {"model": f"{settings['model']}+9", "folder": f"{settings['folder']}+9"}
    needs = {part: f"{run}+9" if run in names else run for part, run in record["needs"].items()}
    return changed | {"run": f"{record['run']}+9", "settings": settings, "needs": needs}


def _worse(value, name=""):
    if isinstance(value, dict):
        return {key: _worse(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_worse(one, name) for one in value]
    scaled = ("f1", "pearson", "parameters", "megabytes", "samples", "samples_per_second", "sentences_per_second")
    return 0.9 * value if isinstance(value, float | int) and name.startswith(scaled) else value


def _lines(figure):
    return [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]


def test_for_a_report_there_are_pdf_and_booktabs(records, tmp_path):
    written = reports.write(
        reports.draw(store.read(records / "quick" / "records")), tmp_path / "t", tmp_path / "f", ("pdf", "tex")
    )
    assert {path.name for path in written} == {"table_1.tex", "claims.tex", "verdicts.tex", "baselines.pdf"}
    text = (tmp_path / "t" / "table_1.tex").read_text()
    assert "\\toprule" in text and "\\bottomrule" in text and "0.500 ± 0.000" in text
    assert (tmp_path / "f" / "baselines.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="There is no format 'docx'. Choose from: csv, md, tex, svg, png, pdf"):
        reports.write({}, tmp_path, tmp_path, ("docx",))


def test_a_mark_without_a_file_says_so(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table_9 -->\nold\n<!-- /table_9 -->\n")
    publish.inject(readme, tmp_path)
    assert readme.read_text() == "<!-- table_9 -->\n*Not run yet.*\n<!-- /table_9 -->\n"


def test_without_records_there_is_nothing_to_publish(tmp_path):
    with pytest.raises(ValueError, match="There are no records"):
        publish.redraw(root=tmp_path)
    with pytest.raises(ValueError, match="study --profile small"):
        publish.take("small", tmp_path, tmp_path)


def test_the_shipped_backbones_are_shown_with_the_weights_that_they_have():
    made = reports.backbones.draw(reports.backbones.read())
    assert set(made) == {"table_backbones", "table_subwords", "pretraining", "retrieval"}
    table = made["table_backbones"].set_index("backbone")
    assert list(table.index) == ["e5", "e5-half", "e5-narrow"]
    for name, shown in table["million weights"].items():
        with safe_open(Path(backbones.locate(name)) / "model.safetensors", "pt") as file:
            weights = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        assert shown == f"{weights / 1e6:.1f}"
    assert table["retrieval en to es"].astype(float).is_monotonic_decreasing


def test_every_mark_on_the_pages_is_something_that_is_drawn():
    sources = [*(publish.ROOT / "mmalib" / "reports").glob("*.py"), publish.ROOT / "mmalib" / "app" / "publish.py"]
    drawn = "".join(path.read_text() for path in sources)
    for page in (publish.ROOT / "README.md", publish.ROOT / "figures" / "README.md"):
        for block in publish.BLOCK.finditer(page.read_text()):
            name = block["name"]
            assert name == "answer" or name in publish.benchmarks() or f'"{name}"' in drawn, f"{page}: {name}"


def test_the_answer_says_what_each_way_keeps():
    def found(f1):
        each = np.zeros((100, 4, 3), int)
        each[:, 0, [counts.PREDICTED, counts.GOLD]] = 1
        each[: round(100 * f1), 0, counts.RIGHT] = 1
        return {"f1": f1, "sentences": 100, "counts": counts.written(each)}

    def made(name, kind, en, es, nl, needs=None, **settings):
        scores = {language: {"test": found(f1)} for language, f1 in (("en", en), ("es", es), ("nl", nl))}
        settings = {"kind": kind, "corpus": "conll", "label": "e5", "seed": 1, **settings}
        return {"run": name, "settings": settings, "needs": needs or {}, "scores": scores}

    dense, base = made("01", "baseline", 0.9, 0.7, 0.8), {"base": "01"}
    start = {"sees_target_text": True, "label": "e5-half"}
    records = [
        dense,
        made("05-a", "graph", 0.9, 0.6, 0.6, base, graph="dynamic", int8="dynamic"),
        made("05-b", "graph", 0.45, 0.63, 0.72, base, graph="static", int8="static"),
        made("05-c", "graph", 0.9, 0.1, 0.1, base, graph="float", int8="float"),  # no smaller
        made("03-f", "gradual", 0.9, 0.1, 0.1, base, method="random", share=0.8, schedule="cubic"),  # the control
        made("04-d", "student", 0.9, 0.1, 0.1, base, setting="unlabelled", sees_target_text=True),
        made("06-e", "combination", 0.9, 0.9, 0.9, base, combination="distil-text-q", start=start),
    ]
    said = reports.answer.text(records)
    assert "`e5` finds names with F1 0.90 in English, 0.70 in Spanish and 0.80 in Dutch (mean of 1 seed)" in said
    assert said.partition(". Of ")[2].startswith("2 models of notebooks 03 to 06 made smaller")
    assert "1 keep less of Spanish and Dutch than of English, 1 clearly (95% intervals):" in said
    assert "| int8 alone | 2 | 1 | 50 to 100% | 80 to 90% |" in said
    assert "taught on unlabelled Spanish and Dutch text | 2 | 1 | 100% | 13 to 120% |" in said
    assert "not measured " in said
    assert "has not been run" in reports.answer.text([dense])
