"""The study's answer in two sentences, from records: what the dense models find, and what compression leaves of it."""

from collections.abc import Sequence

import pandas as pd

from mmalib.plan import of_kind
from mmalib.reports import combined, figures, tables, words
from mmalib.reports.intervals import NOTHING, UNSEEN


def text(records: Sequence[dict]) -> str:
    """Two sentences on the first corpus that is real, else on the sample."""
    mine = tables.of_the_study(records)
    return f"{_dense(mine)} {_compressed(mine)}\n"


def _dense(records: list[dict]) -> str:
    rows = [{"label": record["settings"]["label"], **_f1(record)} for record in of_kind(records, "baseline")]
    if not rows:
        return "No model has been tuned yet."
    models = pd.DataFrame(rows).groupby("label")
    best = models["en"].mean().idxmax()
    mean, seeds = models.mean().loc[best], int(models.size()[best])
    others = " and ".join(f"{mean[name]:.2f} in {figures.LANGUAGE_NAMES[name]}" for name in UNSEEN)
    return (
        f"Tuned on English names alone, `{best}` finds those of English with F1 {mean['en']:.2f}, and those of "
        f"languages it has no labels for with {others} (mean of {seeds} seed{'s' * (seeds > 1)})."
    )


def _compressed(records: list[dict]) -> str:
    rows = []
    for record in of_kind(records, "combination", "gradual", "student", "graph"):
        base, settings = tables.of_part(record, "base", records), record["settings"]
        as_large = settings.get("int8") == "float" or settings.get("setting") == "plain"
        if base and not as_large and combined.target_text(record) not in combined.HAS_READ:
            f1, dense = _f1(record), _f1(base)
            unseen = sum(f1[name] for name in UNSEEN) / max(sum(dense[name] for name in UNSEEN), NOTHING)
            about = {"model": words.words(settings, record["run"]), "seed": settings["seed"]}
            rows.append(about | {"unseen": unseen, "english": f1["en"] / max(dense["en"], NOTHING)})
    if not rows:
        return "What pruning, students and int8 leave of that has not been run on it yet."
    made = pd.DataFrame(rows)
    seeds, kept = made["seed"].nunique(), made.groupby("model")[["unseen", "english"]].mean().sort_values("unseen")
    worse, most, least = (kept["unseen"] < kept["english"]).sum(), kept.iloc[-1], kept.iloc[0]
    return (
        f"Made smaller or faster without text of theirs, {worse} of {len(kept)} models lose more of the unseen "
        f"languages than of English (1{f' to {seeds} seeds' if seeds > 1 else ' seed'} each): the most faithful "
        f"({most.name}) keeps {most['unseen']:.0%} of them and {most['english']:.0%} of English, the least faithful "
        f"({least.name}) {least['unseen']:.0%} and {least['english']:.0%}."
    )


def _f1(record: dict) -> dict[str, float]:
    return {name: splits["test"]["f1"] for name, splits in record["scores"].items()}
