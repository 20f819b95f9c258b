"""Scores of one run against those of another: what it lost in the unseen languages, what it keeps."""

from collections.abc import Iterable
from math import nan


def of_part(record: dict, part: str, records: Iterable[dict]) -> dict | None:
    """The record of the run that plays this part in what another needed; None where it is not there."""
    name = record["needs"].get(part)
    return next((other for other in records if other["run"] == name), None)


def of_the_study(records: Iterable[dict]) -> list[dict]:
    """The records that statements are made from: of CoNLL where any run is on it, with no setting changed."""
    records = list(records)
    corpora = {record["settings"]["corpus"] for record in records}
    corpus = "conll" if "conll" in corpora else min(corpora, default="")
    return [r for r in records if r["settings"]["corpus"] == corpus and "varied" not in r["settings"]]


def multilingual_score(scores: dict, base: dict, split: str) -> float:
    """The model's F1 less the base's, summed over every language but English (negative is a loss)."""
    return sum(scores[name][split]["f1"] - base[name][split]["f1"] for name in scores if name != "en")


def retention(scores: dict, base: dict, split: str) -> dict[str, float]:
    """The percentage of the base's F1 that the model keeps, per language; nan where the base has none."""
    return {name: 100 * scores[name][split]["f1"] / (base[name][split]["f1"] or nan) for name in scores}
