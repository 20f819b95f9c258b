"""What every table of the study shares: the paper's numbers, one run beside another, the text for reading, the files.

The paper is *MMA: a fight for multilingual models acceleration* (Sukhanovskii and Ryndin, 2024). What it
prints is in `reference/`, but for tables 7 and 9, which are extracts of 11 and 10; `obert_speed.csv` and
`obert_quality.csv` there are table 17 and tables 1 to 6 of *The Optimal BERT Surgeon*.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path

import pandas as pd

from mmalib.records import store

REFERENCE = Path(__file__).parent / "reference"
FILES = {
    "mma_quality.csv": (1, 3, 4, 6, 8),
    "mma_throughput.csv": (2, 5, 10, 11),
    "obert_speed.csv": ("obert",),
    "obert_quality.csv": tuple(f"obert {number}" for number in range(1, 7)),
}
FORMATS = ("csv", "md")  # what every table is written as; tex on demand
CELLS = [(language, split) for language in ("es", "en", "nl") for split in ("dev", "test")]  # as in the paper
F1 = [f"{language} {split}" for language, split in CELLS]
SCORES = [*F1, "mls dev", "mls test"]


def paper(table: int | str) -> pd.DataFrame:
    """The numbers printed in one of the paper's tables; "obert" is table 17 of the other one, "obert 3" its third."""
    for file, tables in FILES.items():
        if table in tables:
            printed = pd.read_csv(REFERENCE / file)
            if "table" in printed:
                number = int(str(table).split()[-1])
                printed = printed[printed["table"] == number].drop(columns="table").reset_index(drop=True)
            return printed.dropna(axis="columns", how="all")
    known = ", ".join(str(name) for tables in FILES.values() for name in tables)
    raise ValueError(f"The paper's table {table!r} is not carried here. Choose one of: {known}.")


def printed_rows(table: int, scores: Sequence[str] = SCORES, **about) -> list[dict]:
    """The rows that the paper prints in a table of scores, in the columns of ours."""
    return [
        {"model": printed["model"], "source": "paper", **about}
        | {f"{score} mean": printed[score.replace(" ", "_")] for score in scores}
        for printed in paper(table).to_dict("records")
    ]


def printed_mls(table: int, base: str, split_of_base: str | None = None) -> pd.DataFrame:
    """Multilingual scores from a printed table and a baseline of table 1, on the same split or a given one."""
    printed, baseline = paper(table), paper(1).set_index("model").loc[base]
    made = printed[["model"]].copy()
    for split in ("dev", "test"):
        f1 = [printed[f"{name}_{split}"] - baseline[f"{name}_{split_of_base or split}"] for name in ("es", "nl")]
        made[f"mls {split}"] = sum(f1)
    return made


def of_part(record: dict, part: str, records: Iterable[dict]) -> dict | None:
    """The record of the run that plays this part in what another needed; None where it is not there."""
    return next((other for other in records if other["run"] == record["needs"].get(part)), None)


def of_the_study(records: Iterable[dict]) -> list[dict]:
    """The records that statements are made from: of CoNLL where any run is on it, with no setting changed."""
    records = list(records)
    corpora = {record["settings"]["corpus"] for record in records}
    corpus = "conll" if "conll" in corpora else min(corpora, default="")
    return planned(r for r in records if r["settings"]["corpus"] == corpus)


def planned(records: Iterable[dict]) -> list[dict]:
    """The records with no setting changed: where a figure has no room to tell what was changed."""
    return [record for record in records if "varied" not in record["settings"]]


def alike(records: Iterable[dict]) -> list[dict]:
    """Those of one backbone on one corpus, the first, with no setting changed: what seeds may be averaged over."""
    own = planned(records)
    about = [tuple(record["settings"][key] for key in ("label", "corpus")) for record in own]
    return [record for record, of in zip(own, about, strict=True) if of == about[0]]


def unseen(record: dict, split: str = "test") -> float:
    """The mean F1 in Spanish and Dutch."""
    return sum(record["scores"][language][split]["f1"] for language in ("es", "nl")) / 2


def multilingual_score(scores: dict, base: dict, split: str) -> float:
    """The model's F1 less the base's, summed over every language but English (negative is a loss)."""
    return sum(scores[name][split]["f1"] - base[name][split]["f1"] for name in scores if name != "en")


def retention(scores: dict, base: dict, split: str) -> dict[str, float]:
    """The percentage of the base's F1 that the model keeps, per language; nan where the base has none."""
    return {name: 100 * scores[name][split]["f1"] / (base[name][split]["f1"] or nan) for name in scores}


def scores_of(record: dict, base: dict | None = None) -> dict[str, float]:
    """`SCORES` of one record, or of a point of its curve; without a base, the multilingual ones are nan."""
    scores = record["scores"]
    f1 = [scores.get(language, {}).get(split, {}).get("f1", nan) for language, split in CELLS]
    mls = [multilingual_score(scores, base["scores"], split) if base else nan for split in ("dev", "test")]
    return dict(zip(SCORES, (*f1, *mls), strict=True))


def over_seeds(
    rows: list[dict] | pd.DataFrame, about: Sequence[str], scores: Sequence[str] = SCORES, means: Mapping | None = None
) -> pd.DataFrame:
    """Mean and deviation of scores over the rows that agree in the columns `about`, where "seeds" is how many they are.

    Of the columns `means` there is the mean alone, rounded to so many digits.
    """
    groups = pd.DataFrame(rows).groupby([name for name in about if name != "seeds"], sort=False)
    made = groups[list(scores)].agg(["mean", "std"]).round(12)  # std over n - 1; the last bit hangs on other rows
    made.columns = [f"{score} {kind}" for score, kind in made]
    if means:
        made = made.join(groups[list(means)].mean().round(means))
    return made.assign(seeds=groups.size()).reset_index()[[*about, *made]]


def beside_paper(ours: pd.DataFrame, table: int, **about) -> pd.DataFrame:
    """Our rows, and below them those that the paper prints in a table of scores."""
    return pd.DataFrame([*ours.to_dict("records"), *printed_rows(table, **about)]).astype({"seeds": "Int64"})


def percent(table: pd.DataFrame, digits: Mapping[str, int]) -> pd.DataFrame:
    """Shares in these columns as text; what there is none of stays empty."""
    texts = {name: [f"{share:.{places}%}" for share in table[name]] for name, places in digits.items() if name in table}
    return table.assign(**texts).replace("nan%", "")


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for reading: 'x mean' and 'x std' become one column 'x' of text, with gaps named."""
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        name = column.removesuffix(" mean")
        if column.endswith(" mean"):
            spread = ["" if pd.isna(std) else f" ± {std:.3f}" for std in table[f"{name} std"]]
            texts = [f"{mean:.3f}{std}" for mean, std in zip(table[column], spread, strict=True)]
            shown[name] = pd.Series(texts, table.index).where(table[column].notna(), "not measured")
        elif not column.endswith(" std"):
            shown[column] = table[column].astype(object).where(table[column].notna(), "")
    return shown


def write(table: pd.DataFrame, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a table as csv (numbers) and md (text), or as tex (text, for booktabs), each atomically."""
    paths = []
    for suffix in formats:
        paths.append(Path(folder) / f"{name}.{suffix}")
        text = table.to_csv(index=False) if suffix == "csv" else WRITERS[suffix](formatted(table))
        store.write_atomic(paths[-1], text)
    return paths


def markdown(shown: pd.DataFrame) -> str:
    """A table of text in Markdown, a line a row."""
    cells = shown.astype(str).map(lambda cell: cell.replace("|", "\\|"))
    lines = [shown.columns, ["---"] * len(shown.columns), *cells.to_numpy()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# LaTeX is ruled by booktabs; what it would read as a command is escaped.
WRITERS = {"md": markdown, "tex": lambda shown: shown.astype(str).to_latex(index=False, escape=True)}
