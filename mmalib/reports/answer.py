"""The study's answer, from records: what the dense models find, what compression leaves of it, how many claims hold."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mmalib.plan import of_kind
from mmalib.records import store
from mmalib.reports import claims, combined, figures, intervals, tables, words
from mmalib.reports.intervals import NOTHING, UNSEEN, Number, Seed

HOW = {"int8": "int8 alone", "student": "a student of fewer weights", "combined": "fewer weights, and int8"}
HOW |= {"zeros": "zeros among its layers' weights"}  # family of `words` → what has been done
CONTROLS = {"float", "plain", "random"}  # what others are compared with
THEIRS = "a student taught on unlabelled Spanish and Dutch text"


def text(records: Sequence[dict]) -> str:
    """Two sentences and a table on the first corpus that is real, else on the sample; how many of the claims hold."""
    mine = tables.of_the_study(records)
    verdicts = claims.table(list(records)).get("verdict", pd.Series(dtype=object)).value_counts(sort=False)
    counts = ", ".join(f"{verdict} {number}" for verdict, number in verdicts.items())
    told = f"Of {len(claims.CLAIMS)} claims ({claims.OWN} are ours): {counts or 'none judged yet'}"
    return f"{_dense(mine)} {_compressed(mine)}\n{told}.\n"


def _dense(records: list[dict]) -> str:
    tests = store.frame(of_kind(records, "baseline")).query("split == 'test'")
    if tests.empty:
        return "No model has been tuned yet."
    f1 = tests.pivot_table(index="label", columns="language", values="f1")  # the mean over seeds
    best = f1["en"].idxmax()
    mean, seeds = f1.loc[best], int(tests.groupby("label")["run"].nunique()[best])
    others = " and ".join(f"{mean[name]:.2f} in {figures.LANGUAGE_NAMES[name]}" for name in UNSEEN)
    return (
        f"Tuned on English labels alone, the dense model `{best}` finds names with F1 {mean['en']:.2f} in English, "
        f"{others} (mean of {seeds} seed{'s' * (seeds > 1)})."
    )


def _compressed(records: list[dict]) -> str:
    """How many models keep less of the unseen languages than of English; and what each way keeps."""
    ways: dict[str, dict[str, list[Seed]]] = {}
    for record in of_kind(records, "combination", "gradual", "student", "graph"):
        settings, base = record["settings"], tables.of_part(record, "base", records)
        dense = combined.whole_of(record, records) or base
        if record.get("same_as") or (read := combined.target_text(settings)) == combined.BY_LABELS:
            continue  # counted as what it is the same as; no zero-shot model
        if dense and not CONTROLS & {settings.get(name) for name in ("int8", "setting", "method")}:
            how = THEIRS if read in combined.HAS_READ else HOW[words.family(settings)]
            seeds = ways.setdefault(how, {}).setdefault(words.words(settings, record["run"]), [])
            seeds.append({"dense": dense, "made": record})
    if not ways:
        return "What pruning, students and int8 leave of that has not been run on it yet.\n"
    rows, apart = [], []
    for how, models in ((how, ways[how]) for how in (*HOW.values(), THEIRS) if how in ways):
        shares = [intervals.over_seeds(seeds, _kept, ("English", "unseen")) for seeds in models.values()]
        row = {"made smaller or faster by": how, "models": len(models), "seeds": _range(map(len, models.values()), "d")}
        row |= {"English F1 kept": _range(share["English"][0] for share in shares)}
        rows.append(row | {"Spanish and Dutch F1 kept": _range(share["unseen"][0] for share in shares)})
        apart += [intervals.of(share["unseen"] - share["English"]) for share in shares if how != THEIRS]
    less = sum(one.value < 0 for one in apart)
    clearly = sum(round(one.high, 3) < 0 for one in apart)  # in tenths of a point: other draws move an end by less
    return (
        f"Of {len(apart)} models of notebooks 03 to 06 made smaller or faster by training on English alone, or by "
        f"none, {less} keep less of Spanish and Dutch than of English, {clearly} clearly (95% intervals):\n\n"
        f"{tables.markdown(pd.DataFrame(rows))}"
    )


def _kept(seed: Seed, which: str) -> Number:
    """The share of the dense F1 that is left in English, or in the unseen languages together."""
    languages = ("en",) if which == "English" else UNSEEN
    dense, made = (sum(intervals.f1(seed[part], language) for language in languages) for part in ("dense", "made"))
    return made / np.maximum(dense, NOTHING)


def _range(values: Iterable[float], form: str = ".0%") -> str:
    low, *_, high = [format(value, form) for value in sorted(values)] * 2
    return low if low == high else f"{low.rstrip('%')} to {high}"
