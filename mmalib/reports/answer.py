"""The study's answer in two sentences, from records: what the dense models find, and what compression leaves of it."""

from collections.abc import Sequence

import pandas as pd

from mmalib.plan import of_kind
from mmalib.reports import figures, intervals, words
from mmalib.reports.compare import of_part, of_the_study
from mmalib.reports.intervals import UNSEEN


def text(records: Sequence[dict]) -> str:
    """Two sentences on the first corpus that is real, else on the sample."""
    mine = of_the_study(records)
    return f"{_dense(mine)} {_compressed(mine)}\n"


def _dense(records: list[dict]) -> str:
    models = pd.DataFrame([_row(record) for record in of_kind(records, "baseline")])
    if models.empty:
        return "No model has been tuned yet."
    best = models.groupby("label")["en"].mean().idxmax()
    mean, seeds = models[models["label"] == best].mean(numeric_only=True), int((models["label"] == best).sum())
    others = " and ".join(f"{mean[name]:.2f} in {figures.LANGUAGE_NAMES[name]}" for name in UNSEEN)
    return (
        f"Tuned on English names alone, `{best}` finds those of English with F1 {mean['en']:.2f}, and those of "
        f"languages it has no labels for with {others} (mean of {seeds} seed{'s' * (seeds > 1)})."
    )


def _compressed(records: list[dict]) -> str:
    rows = []
    for record in of_kind(records, "combination", "gradual", "student", "graph"):
        settings, base = record["settings"], of_part(record, "base", records)
        as_large = settings.get("int8") == "float" or settings.get("setting") == "plain"
        if base and not settings.get("sees_target_text") and not as_large:
            one, dense = _row(record), _row(base)
            unseen = sum(one[name] for name in UNSEEN) / max(sum(dense[name] for name in UNSEEN), intervals.NOTHING)
            rows.append(
                {
                    "what": words.words(settings, record["run"]),
                    "en": one["en"] / max(dense["en"], intervals.NOTHING),
                    "unseen": unseen,
                }
            )
    if not rows:
        return "What pruning, students and int8 leave of that has not been run on it yet."
    made = pd.DataFrame(rows)
    best, worst = made.loc[made["unseen"].idxmax()], made.loc[made["unseen"].idxmin()]
    worse = (made["unseen"] < made["en"]).sum()
    return (
        f"Made smaller or faster, {worse} of {len(made)} models lose more of the unseen languages than of English: the "
        f"most faithful ({best['what']}) keeps {best['unseen']:.0%} of them and {best['en']:.0%} of English, the least "
        f"faithful ({worst['what']}) {worst['unseen']:.0%} and {worst['en']:.0%}."
    )


def _row(record: dict) -> dict:
    f1 = {name: splits["test"]["f1"] for name, splits in record["scores"].items()}
    return {"label": record["settings"]["label"], **f1}
