"""Table 1 from records alone, beside the paper's numbers."""

import hashlib

import pandas as pd
import pytest

from mmalib.reports import baselines, tables

DIGESTS = {  # of the files as they were typed from the paper
    "mma_quality.csv": "a4b32704b601bc98",
    "mma_throughput.csv": "c4be801aca99c79e",
    "obert_quality.csv": "95c5ae4bbca7017c",
    "obert_speed.csv": "79719241a73c69f5",
}


def runs(label="e5", corpus="sample", seeds=(1, 2, 3), f1=(0.5, 0.6, 0.7), cells=tables.CELLS):
    records = []
    for seed, score in zip(seeds, f1, strict=True):
        scores = {language: {} for language, _ in cells}
        for language, split in cells:
            scores[language][split] = {"f1": score}
        settings = {"kind": "baseline", "label": label, "corpus": corpus, "seed": seed}
        records.append({"run": f"{label}-{corpus}-{seed}", "settings": settings, "scores": scores})
    return records


def test_the_papers_numbers_are_carried_unchanged():
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in tables.REFERENCE.iterdir()}
    assert digests == DIGESTS
    printed = tables.paper(1).set_index("model")
    assert printed.loc["xlm", "nl_test"] == 0.785 and printed.loc["mlbert", "en_dev"] == 0.958
    assert "mls_dev" not in printed and tables.paper(3).set_index("model").loc["mlbert obs 80", "mls_dev"] == -0.283
    assert len(tables.paper(10)) == 18 and len(tables.paper(2)) == 2 and len(tables.paper("obert")) == 10
    with pytest.raises(ValueError, match="table 7 is not carried here. Choose one of: 1, 3, "):
        tables.paper(7)


def test_mean_and_sample_deviation_over_seeds_in_the_papers_order():
    table = baselines.table_1(runs())
    assert table["model"].tolist() == ["e5", "mlbert", "xlm"]
    assert table["source"].tolist() == ["this study, sample", "paper", "paper"]
    assert table["seeds"].tolist() == [3, pd.NA, pd.NA]
    assert table.loc[0, "es dev mean"] == pytest.approx(0.6)
    assert table.loc[0, "es dev std"] == pytest.approx(0.1)  # over n - 1
    shown = tables.formatted(table)
    assert list(shown.columns) == ["model", "source", "seeds"] + [
        "es dev", "es test", "en dev", "en test", "nl dev", "nl test",
    ]  # fmt: skip
    assert shown.loc[0, "es dev"] == "0.600 ± 0.100"
    assert shown.loc[2].tolist() == ["xlm", "paper", "", "0.777", "0.776", "0.954", "0.922", "0.809", "0.785"]


def test_one_seed_has_no_deviation_and_a_gap_has_a_name():
    table = baselines.table_1(runs(seeds=(1,), f1=(0.5,), cells=[("en", "dev"), ("es", "test")]))
    assert pd.isna(table.loc[0, "en dev std"])
    shown = tables.formatted(table).loc[0]
    assert shown["en dev"] == "0.500" and shown["es test"] == "0.500" and shown["nl dev"] == "not measured"


def test_a_row_per_corpus_and_the_papers_row_right_under_ours():
    table = baselines.table_1([*runs("xlm", "sample"), *runs("xlm", "conll"), *runs("e5", "conll")])
    assert list(zip(table["model"], table["source"], strict=True)) == [
        ("xlm", "this study, sample"),
        ("xlm", "this study, conll"),
        ("xlm", "paper"),
        ("e5", "this study, conll"),
        ("mlbert", "paper"),
    ]


def test_a_bar_in_a_word_is_no_border():
    assert tables.markdown(pd.DataFrame({"word": ["a|b"]})).splitlines()[-1] == "| a\\|b |"


def test_csv_keeps_numbers_and_md_is_for_reading(tmp_path):
    csv, md = tables.write(baselines.table_1(runs()), tmp_path / "tables", "table_1")
    again = pd.read_csv(csv)
    pd.testing.assert_frame_equal(again, baselines.table_1(runs()), check_dtype=False)
    lines = md.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("| model | source | seeds | es dev | es test | en dev |")
    assert lines[1] == "| " + " | ".join(["---"] * 9) + " |"
    assert lines[2].startswith("| e5 | this study, sample | 3 | 0.600 ± 0.100 |")
    assert lines[4] == "| xlm | paper |  | 0.777 | 0.776 | 0.954 | 0.922 | 0.809 | 0.785 |"
    assert sorted(path.name for path in csv.parent.iterdir()) == ["table_1.csv", "table_1.md"]
