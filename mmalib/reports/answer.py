"""The study's answer, from records: what the dense models find, what compression leaves of it, how many claims hold."""

from collections.abc import Sequence

import pandas as pd

from mmalib.plan import of_kind
from mmalib.reports import claims, combined, figures, tables, words
from mmalib.reports.intervals import NOTHING, UNSEEN

HOW = {  # family of `words` → what has been done
    "int8": "int8 alone",
    "student": "a student of fewer weights",
    "combined": "a student or zeros, and int8",
    "zeros": "zeros for most of the weights",
}
THEIRS = "a student that has read unlabelled text in those two"


def text(records: Sequence[dict]) -> str:
    """Two sentences and a table on the first corpus that is real, else on the sample; how many of the claims hold."""
    mine = tables.of_the_study(records)
    verdicts = claims.table(list(records)).get("verdict", pd.Series(dtype=object)).value_counts(sort=False)
    counts = ", ".join(f"{verdict} {number}" for verdict, number in verdicts.items())
    return f"{_dense(mine)} {_compressed(mine)}\nThe papers' claims, judged by code: {counts or 'none yet'}.\n"


def _dense(records: list[dict]) -> str:
    rows = [{"label": record["settings"]["label"], **_f1(record)} for record in of_kind(records, "baseline")]
    if not rows:
        return "No model has been tuned yet."
    models = pd.DataFrame(rows).groupby("label")
    best = models["en"].mean().idxmax()
    mean, seeds = models.mean().loc[best], int(models.size()[best])
    others = " and ".join(f"{mean[name]:.2f} in {figures.LANGUAGE_NAMES[name]}" for name in UNSEEN)
    return (
        f"Tuned on English labels alone, the dense model `{best}` finds names with F1 {mean['en']:.2f} in English, "
        f"{others} (mean of {seeds} seed{'s' * (seeds > 1)})."
    )


def _compressed(records: list[dict]) -> str:
    """How many models keep less of the unseen languages than of English; and what each way keeps, the best first."""
    rows = []
    for record in of_kind(records, "combination", "gradual", "student", "graph"):
        base, settings = tables.of_part(record, "base", records), record["settings"]
        as_large = settings.get("int8") == "float" or settings.get("setting") == "plain"
        if base and not as_large:
            f1, dense = _f1(record), _f1(base)
            unseen = sum(f1[name] for name in UNSEEN) / max(sum(dense[name] for name in UNSEEN), NOTHING)
            how = THEIRS if combined.target_text(record) in combined.HAS_READ else HOW[words.family(settings)]
            about = {"how": how, "model": words.words(settings, record["run"])}
            rows.append(about | {"English": f1["en"] / max(dense["en"], NOTHING), "unseen": unseen})
    if not rows:
        return "What pruning, students and int8 leave of that has not been run on it yet.\n"
    models = pd.DataFrame(rows).groupby(["how", "model"])
    kept = models.mean().assign(seeds=models.size())
    blind = kept.drop(index=THEIRS, errors="ignore")
    ways = [
        {"made smaller or faster by": how, "models": len(group), "seeds": _range(group["seeds"], "d")}
        | {"English F1 kept": _range(group["English"]), "Spanish and Dutch F1 kept": _range(group["unseen"])}
        for how, group in sorted(kept.groupby("how"), key=lambda pair: -pair[1]["unseen"].max())
    ]
    return (
        f"Made smaller or faster without text in those two, {(blind['unseen'] < blind['English']).sum()} of "
        f"{len(blind)} models keep less of them than of English:\n\n{tables.markdown(pd.DataFrame(ways))}"
    )


def _range(values: pd.Series, form: str = ".0%") -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low.rstrip('%')} to {high}"


def _f1(record: dict) -> dict[str, float]:
    return {name: splits["test"]["f1"] for name, splits in record["scores"].items()}
