"""F1 language by language, also beyond the paper's three: of the dense models, and what compression leaves of it.

The test sets of further languages come from another corpus (WikiNEuRal) than those of the paper's three, so that rows
do not compare with one another; within a row, what a model keeps of its own dense F1 does.
"""

from math import nan

import pandas as pd
from matplotlib.figure import Figure

from mmalib.plan import of_kind
from mmalib.reports import figures, tables, words
from mmalib.reports.unstructured import called, gradual_runs


def kept(records: list[dict]) -> pd.DataFrame:
    """One row a run and language: test F1, and the share that is left of the dense model's of the same seed."""
    rows = []
    for record in [*of_kind(records, "baseline"), *gradual_runs(records), *of_kind(records, "combination")]:
        settings, model = record["settings"], "dense"
        base = record if settings["kind"] == "baseline" else tables.of_part(record, "base", records)
        if base is None or not (record.get("further") and base.get("further")):
            continue
        if settings["kind"] == "gradual":
            model = f"{called(settings)} {settings['share']:.0%}, {settings['schedule']}"
        elif settings["kind"] == "combination":
            model = words.words(settings, record["run"])
        before = {**base["scores"], **base["further"]}
        for language, splits in {**record["scores"], **record["further"]}.items():
            row = {"label": settings["label"], "model": model, "seed": settings["seed"], "language": language}
            one, dense = splits["test"], before.get(language, {"test": {}})["test"]
            same = one.get("sentences") == dense.get("sentences")  # nothing is said of a part of them
            share = one["f1"] / dense["f1"] if same and dense.get("f1") else nan
            rows.append(row | {"f1": one["f1"], "kept": share})
    return pd.DataFrame(rows)


def table(records: list[dict]) -> pd.DataFrame:
    """Mean test F1 over seeds, a row a model and a column a language."""
    if (frame := kept(records)).empty:
        return frame
    seeds = frame.groupby(["label", "model"], sort=False)["seed"].nunique().rename("seeds")
    mean = frame.pivot_table(index=["label", "model"], columns="language", values="f1", sort=False)
    named = mean[_order(frame)].map("{:.3f}".format).rename(columns=figures.language_name)
    return pd.concat([seeds, named], axis=1).reset_index().rename(columns={"label": "dense model"})


def figure(records: list[dict]) -> Figure | None:
    """A row a language: F1 of the dense models, a dot a seed; and the share of it that others keep, if any."""
    if (frame := kept(records)).empty:
        return None
    languages, backbones = _order(frame), list(dict.fromkeys(frame["label"]))
    dense, rest = (frame[(frame["model"] == "dense") == is_dense] for is_dense in (True, False))
    panels = 1 if rest.empty else 2
    tall = 0.9 + 0.26 * len(languages) + 0.16 * rest["model"].nunique()
    with figures.drawing(3.4 * panels, tall) as drawn:
        axes = drawn.subplots(1, panels, squeeze=False, sharey=True)[0]
        for row, language in enumerate(languages):
            for number, backbone in enumerate(backbones):
                f1 = dense[(dense["language"] == language) & (dense["label"] == backbone)]["f1"]
                height = row + 0.2 * (number - (len(backbones) - 1) / 2)
                axes[0].plot(f1, [height] * len(f1), "o", color=f"C{number}", alpha=0.8)
                figures.note(axes[0], f"{f1.mean():.3f}", (f1.max(), height), xytext=(5, 0), color=f"C{number}")
        axes[0].set_xlabel("test F1, dense" + (f" ({', '.join(backbones)})" if len(backbones) > 1 else ""))
        for number, (model, of_model) in enumerate(rest.groupby("model", sort=False)):
            shares = 100 * of_model.groupby("language")["kept"].mean().reindex(languages)
            look = {"marker": "os^D"[number // 7 % 4], "color": f"C{number}"}  # of seven colours
            look |= {"linestyle": ("-", "--", ":", "-.")[number // 7 % 4], "linewidth": 0.6}
            axes[1].plot(shares, range(len(languages)), label=model, alpha=0.9, **look)
        if panels > 1:
            axes[1].set_xlabel("% of the dense F1 that is left")
            drawn.legend(loc="outside lower center", ncols=2)
        for panel in axes:
            figures.rows_(panel, [figures.language_name(language) for language in languages])
        axes[0].set_xlim(0, 1)
        axes[0].set_title("Tuned on English alone", loc="left")
    return drawn


def _order(frame: pd.DataFrame) -> list[str]:
    """English, then the paper's two, then the others by their codes."""
    known = [language for language in figures.COLOURS if language in set(frame["language"])]
    return [*known, *sorted(set(frame["language"]) - set(known))]
