"""Tables of the study, ours beside the paper's: DataFrame in, DataFrame out; one function writes the files.

The paper is *MMA: a fight for multilingual models acceleration* (Sukhanovskii and Ryndin, 2024). What it
prints is in `reference/`, but for tables 7 and 9, which are extracts of 11 and 10; `obert_speed.csv` there is
table 17 of *The Optimal BERT Surgeon*.
"""

from pathlib import Path

import pandas as pd

from mmalib import results

REFERENCE = Path(__file__).parent / "reference"
FILES = {
    "mma_quality.csv": (1, 3, 4, 6, 8),
    "mma_throughput.csv": (2, 5, 10, 11),
    "obert_speed.csv": ("obert",),
}
CELLS = [(language, split) for language in ("es", "en", "nl") for split in ("dev", "test")]  # as in the paper


def paper(table: int | str) -> pd.DataFrame:
    """The numbers printed in one of the paper's tables; "obert" is the Optimal BERT Surgeon's table 17."""
    for file, tables in FILES.items():
        if table in tables:
            printed = pd.read_csv(REFERENCE / file)
            if "table" in printed:
                printed = printed[printed["table"] == table].drop(columns="table").reset_index(drop=True)
            return printed.dropna(axis="columns", how="all")
    known = ", ".join(str(name) for tables in FILES.values() for name in tables)
    raise ValueError(f"The paper's table {table!r} is not carried here. Choose one of: {known}.")


def baselines(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1: F1 of the fine-tuned baselines, mean and sample deviation over seeds, and the paper's."""
    runs = _baseline_runs(frame)
    paper_rows = {row["model"]: _paper_row(row) for row in paper(1).to_dict("records")}
    rows = []
    for backbone, of_backbone in runs.groupby("backbone", sort=False):
        for corpus, group in of_backbone.groupby("corpus", sort=False):
            rows.append(_our_row(backbone, corpus, group))
        if backbone in paper_rows:
            rows.append(paper_rows.pop(backbone))
    columns = [f"{language} {split} {value}" for language, split in CELLS for value in ("mean", "std")]
    table = pd.DataFrame([*rows, *paper_rows.values()], columns=["model", "source", "seeds", *columns])
    return table.astype({"seeds": "Int64"})


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for reading: 'x mean' and 'x std' become one column 'x' of text, with gaps named."""
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        name = column.removesuffix(" mean")
        if column.endswith(" mean"):
            shown[name] = [_cell(*pair) for pair in zip(table[column], table[f"{name} std"], strict=True)]
        elif not column.endswith(" std"):
            shown[column] = table[column].astype(object).where(table[column].notna(), "")
    return shown


def write(table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a table as csv (numbers) and md (text), each atomically."""
    texts = {"csv": table.to_csv(index=False), "md": markdown(formatted(table))}
    paths = []
    for suffix, text in texts.items():
        paths.append(Path(folder) / f"{name}.{suffix}")
        results.write_atomic(paths[-1], text)
    return paths


def markdown(shown: pd.DataFrame) -> str:
    """A table of text in Markdown, a line a row."""
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.astype(str).to_numpy()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def redraw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every table of the study into `folder`, from the frame alone."""
    return write(baselines(frame), folder, "table_1")


def gaps(frame: pd.DataFrame, backbones: tuple[str, ...], seeds: tuple[int, ...]) -> list[str]:
    """What the tables lack: a baseline per backbone and seed, on every corpus that the frame knows."""
    runs = _baseline_runs(frame)
    labels = runs["backbone"] + " on " + runs["corpus"] + ", seed " + runs["seed"].astype(str)
    expected = [
        f"{backbone} on {corpus}, seed {seed}"
        for corpus in runs["corpus"].unique()
        for backbone in backbones
        for seed in seeds
    ]
    return results.missing(runs.assign(run=labels), expected)


def _baseline_runs(frame: pd.DataFrame) -> pd.DataFrame:
    needed = ["method", "backbone", "corpus", "seed"]
    if absent := [column for column in needed if column not in frame]:
        raise ValueError(f"Table 1 needs runs that say their {', '.join(absent)}. Run notebook 01 first.")
    runs = frame[frame["method"] == "baseline"]
    if runs.empty:
        raise ValueError("Table 1 needs runs whose method is 'baseline': there are none. Run notebook 01.")
    # Two runs of one seed are no spread over seeds: they differ in a setting that the table does not show.
    twice = runs[runs.duplicated([*needed, "language", "split"], keep=False)]
    if not twice.empty:
        names = ", ".join(twice["run"].unique())
        raise ValueError(f"Table 1 takes one run per backbone, corpus and seed; these share them: {names}.")
    return runs


def _our_row(backbone: str, corpus: str, group: pd.DataFrame) -> dict:
    row = {"model": backbone, "source": f"this study, {corpus}", "seeds": group["seed"].nunique()}
    f1 = group.groupby(["language", "split"])["f1"].agg(["mean", "std"])  # std over n - 1
    for language, split in CELLS:
        if (language, split) in f1.index:
            row[f"{language} {split} mean"], row[f"{language} {split} std"] = f1.loc[(language, split)]
    return row


def _paper_row(printed: dict) -> dict:
    scores = {f"{language} {split} mean": printed[f"{language}_{split}"] for language, split in CELLS}
    return {"model": printed["model"], "source": "paper", **scores}


def _cell(mean: float, std: float) -> str:
    if pd.isna(mean):
        return "not measured"
    return f"{mean:.3f}" if pd.isna(std) else f"{mean:.3f} ± {std:.3f}"
