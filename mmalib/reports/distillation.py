"""Notebook 04, from records: table 4 beside the paper's, and F1 per language of every student in every setting."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalib.plan import of_kind
from mmalib.reports import figures, tables
from mmalib.reports.compare import of_part

NAMES = {
    "plain": "without teacher",
    "teacher": "with teacher",
    "longer": "with teacher, longer",
    "unlabelled": "with teacher, unlabelled text*",
}
TICKS = {
    "plain": "no\nteacher",
    "teacher": "teacher",
    "longer": "teacher,\nlonger",
    "unlabelled": "teacher,\nes+nl text*",
}
PRINTED_AGAINST = "mlbert, it seems"  # see `printed_mls`


def draw(records: list[dict]) -> dict[str, pd.DataFrame | Figure]:
    """Every table and figure of this notebook by its file's name, from the records alone."""
    if not of_kind(records, "student"):
        return {}
    return {"table_4": table_4(records), "distillation": figure(records)}


def table_4(records: list[dict]) -> pd.DataFrame:
    """Table 4: the teacher, then F1 and multilingual score of its students, and the paper's; * sees target text."""
    students = [_measured(record, of_part(record, "base", records)) for record in of_kind(records, "student")]
    taught_by = {record["run"]: record for r in of_kind(records, "student") if (record := of_part(r, "base", records))}
    frame = pd.DataFrame([*(_measured(record, record) for record in taught_by.values()), *students])
    rows = []
    for (backbone, corpus, setting), group in frame.groupby(["label", "corpus", "setting"], sort=False):
        order = (corpus, setting != "", backbone, [*NAMES, ""].index(setting))
        row = {"model": f"{backbone}, the teacher" if setting == "" else f"{backbone} {NAMES[setting]}"}
        row |= {"source": f"this study, {corpus}", "mls against": group["base"].max(), "seeds": len(group)}
        row |= tables.over_seeds(group)
        rows.append(row | {"million parameters": round(group["parameters"].mean() / 1e6, 2), "order": order})
    rows = sorted(rows, key=lambda row: row.pop("order"))
    rows += tables.printed_rows(4, **{"mls against": PRINTED_AGAINST})
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def printed_mls(base: str) -> pd.DataFrame:
    """The multilingual score of the paper's table 4, from its printed F1, against one baseline of its table 1.

    The paper does not say which one it takes. Its own numbers follow from mlbert (but for MiniLM's dev), while the
    teacher is xlm.
    """
    return tables.printed_mls(4, base, {"dev": "dev", "test": "test"})


def gains(records: list[dict]) -> pd.DataFrame:
    """What each step adds in test F1, in the mean over the seeds of both: a teacher, more steps, more text."""
    frame = pd.DataFrame([_measured(record, None) for record in of_kind(records, "student")])
    cells, rows = [f"{language} test" for language in ("en", "es", "nl")], []
    for (backbone, corpus), group in frame.groupby(["label", "corpus"]):
        of_setting = {name: made.set_index("seed")[cells] for name, made in group.groupby("setting")}
        for name, more, less in (
            ("the teacher", "teacher", "plain"),
            ("more steps", "longer", "teacher"),
            ("unlabelled text, at the same number of steps", "unlabelled", "longer"),
        ):
            if not {more, less} <= set(of_setting):
                continue
            if len(by_seed := (of_setting[more] - of_setting[less]).dropna()):
                difference = by_seed.mean().rename(lambda cell: cell.split()[0])
                rows.append({"student": backbone, "corpus": corpus, "what": name, "seeds": len(by_seed), **difference})
    return pd.DataFrame(rows, columns=["student", "corpus", "what", "seeds", "en", "es", "nl"])


def figure(records: list[dict]) -> Figure:
    """Test F1 per language: a panel a student, a column a setting; large dots are means, small ones seeds."""
    frame = pd.DataFrame([_measured(r, of_part(r, "base", records)) for r in of_kind(records, "student")])
    settings = {
        student: [setting for setting in NAMES if setting in set(group["setting"])]
        for student, group in frame.groupby("label", sort=False)
    }
    students = sorted(settings, key=lambda student: (-len(settings[student]), student))
    corpora = sorted(frame["corpus"].unique())
    with figures.drawing(6.9, 0.2 + 2.5 * len(corpora)) as drawn:
        widths = [len(settings[student]) + 0.6 for student in students]
        grid = drawn.subplots(len(corpora), len(students), sharey="row", squeeze=False, width_ratios=widths)
        for of_corpus, corpus in zip(grid, corpora, strict=True):
            groups = [frame[(frame["label"] == name) & (frame["corpus"] == corpus)] for name in students]
            for axes, student, group in zip(of_corpus, students, groups, strict=True):
                _panel_(axes, group, settings[student])
                axes.set_title(f"{student} ({corpus})", loc="left")
            low, high = of_corpus[0].get_ylim()
            of_corpus[0].set_ylim(max(0.0, low), min(1.0, high))
            for axes, group in zip(of_corpus, groups, strict=True):
                _name_(axes, group)
            of_corpus[0].set_ylabel("entity F1 on test (dashed: teacher)")
        if "unlabelled" in set(frame["setting"]):
            drawn.supxlabel("* another setting: text of the target languages is seen, its labels are not", fontsize=7)
    return drawn


def _panel_(axes: Axes, group: pd.DataFrame, settings: list[str]) -> None:
    for language, colour in figures.COLOURS.items():
        by_setting = {name: rows[f"{language} test"] for name, rows in group.groupby("setting")}
        means = [by_setting[name].mean() if name in by_setting else np.nan for name in settings]
        axes.plot(range(len(settings)), means, "o-", color=colour, linewidth=0.6)
        for place, name in enumerate(settings):
            if len(seeds := by_setting.get(name, ())) > 1:
                axes.plot([place + 0.12] * len(seeds), seeds, "o", color=colour, markersize=2, alpha=0.6)
        if not np.isnan(teacher := group[f"{language} teacher"].mean()):
            axes.axhline(teacher, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(settings)), [TICKS[name] for name in settings])
    axes.set_xlim(-0.4, len(settings) - 0.6)
    axes.grid(axis="x", visible=False)


def _name_(axes: Axes, group: pd.DataFrame) -> None:
    """The languages right of their last dots; a panel may be empty while a study is under way."""
    if group.empty:
        return
    last = group[group["setting"] == [name for name in NAMES if name in set(group["setting"])][-1]]
    means = {language: last[f"{language} test"].mean() for language in figures.COLOURS}
    figures.label_languages(axes, means)


def _measured(record: dict, base: dict | None) -> dict:
    settings, scores = record["settings"], record["scores"]
    row = {name: settings[name] for name in ("label", "corpus", "seed")} | {"setting": settings.get("setting", "")}
    row |= {"base": base["settings"]["label"] if base else "", "parameters": record["parameters"]}
    row |= {f"{language} teacher": base["scores"][language]["test"]["f1"] if base else np.nan for language in scores}
    return row | tables.scores_of(scores, base and base["scores"])
