"""Scores of one run against those of another: what it lost in the unseen languages, what it keeps."""

from collections.abc import Iterable


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
    pairs = _f1_pairs(scores, base, split)
    return sum((f1 - base_f1 for language, (f1, base_f1) in pairs.items() if language != "en"), 0.0)


def retention(scores: dict, base: dict, split: str) -> dict[str, float]:
    """The percentage of the base's F1 that the model keeps, per language; nan where the base has none."""
    pairs = _f1_pairs(scores, base, split)
    return {name: 100 * f1 / base_f1 if base_f1 else float("nan") for name, (f1, base_f1) in pairs.items()}


def _f1_pairs(scores: dict, base: dict, split: str) -> dict[str, tuple[float, float]]:
    if set(scores) != set(base):
        raise ValueError(
            f"The model is scored on {', '.join(sorted(scores))} and the base on {', '.join(sorted(base))}. "
            "Compare runs that were scored on the same languages."
        )
    for language in scores:
        if split not in scores[language] or split not in base[language]:
            raise ValueError(f"The split {split!r} of {language} is not scored in both runs. Score it in both.")
    return {language: (scores[language][split]["f1"], base[language][split]["f1"]) for language in scores}
