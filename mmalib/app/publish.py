"""`figures/` of the repository: the records behind it, what is drawn from them, and the numbers on its two pages.

README.md and figures/README.md show tables and sentences between `<!-- name -->` and `<!-- /name -->`; they are the
files `name.md` in `figures/`, put there by `inject` and typed by nobody. What `benchmarks/` measured is a record in
`benchmarks/records`, and becomes such a table as well; what the shipped backbones are is told by the reports beside
their weights.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmalib import plan, profiles, reports
from mmalib.app import batch
from mmalib.records import store
from mmalib.records.machine import ROOT
from mmalib.use import shipped

PROFILE = "small"  # whose study is in figures/
PAGE = "README.md"  # of the repository, and of figures/
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>\w+) -->\n).*?(?P<end><!-- /(?P=name) -->)", re.DOTALL)


def redraw(formats: Sequence[str] = reports.FORMATS, root: Path = ROOT) -> list[Path]:
    """Draw everything in `figures/` again from the records there, and bring the README up to date."""
    folder = Path(root) / "figures"
    records = store.read(folder / "records")
    if not records:
        raise ValueError(f"There are no records in {folder / 'records'}. Run this in a checkout of the repository.")
    drawn = reports.draw(records) | benchmarks(root) | reports.backbones.draw(reports.backbones.read())
    drawn |= {"table_planned": planned(records), "table_shipped": shipped_models()}
    written = reports.write(drawn, folder, folder, formats)
    store.write_atomic(folder / "answer.md", reports.answer.text(records))
    if tuple(formats) == reports.FORMATS:  # what an earlier study drew and this one does not
        kept = {*written, folder / "answer.md", folder / PAGE}
        for old in {path for path in folder.iterdir() if path.suffix[1:] in reports.FORMATS} - kept:
            old.unlink()
    return [*written, *(inject(page, folder) for page in (Path(root) / PAGE, folder / PAGE))]


def planned(records: list[dict]) -> pd.DataFrame:
    """What of the whole study is there, and what the rest would take."""
    own = [record["settings"] for record in reports.tables.of_the_study(records)]
    text = "folder" if any(settings.get("text") == "folder" for settings in own) else None
    profile = profiles.changed(profiles.load_profile(PROFILE), {"text_folder": text})
    return reports.costs.planned(records, plan.runs(profile, own[0]["corpus"])) if own else pd.DataFrame()


def shipped_models() -> pd.DataFrame:
    """The models in the package: what they are, what they weigh unpacked, and test F1 by language."""
    rows = []
    for name in shipped.there():
        about = store.read_json(shipped.MODELS / name / "mmalib.json")
        scores = {language: f"{splits['test']:.3f}" for language, splits in about["scores"]["after"].items()}
        rows.append({"model": name, "what it is": shipped.NAMES[name], "MB": round(about["megabytes"], 1)} | scores)
    return pd.DataFrame(rows)


def benchmarks(root: Path = ROOT) -> dict[str, pd.DataFrame]:
    """The tables of what was measured by the scripts in `benchmarks/`, by the names of their files."""
    records = store.read(Path(root) / "benchmarks" / "records")
    return {f"benchmark_{record['run']}": pd.DataFrame(record["rows"]) for record in records}


def take(profile: str, runs: Path, root: Path = ROOT) -> list[str]:
    """Put the records of a profile into `figures/`, in the place of those of the same runs; what is still missing."""
    home, records, missing = batch.recorded(profile, runs)
    target, on = Path(root) / "figures" / "records", {record["settings"]["corpus"] for record in records}
    if others := {record["settings"]["corpus"] for record in store.read(target)} - on:
        raise ValueError(f"{target} has records on other corpora ({', '.join(sorted(others))}). Move them away first.")
    for path in (home / "records").glob("[!.]*.json"):
        with store.replacing(target / path.name) as fresh:
            shutil.copyfile(path, fresh)
    return missing


def inject(page: Path, folder: Path) -> Path:
    """Put what the files of `folder` hold between the marks of the same names on a page; what is not drawn says so."""

    def filled(block: re.Match) -> str:
        path = Path(folder) / f"{block['name']}.md"
        drawn = path.read_text(encoding="utf-8") if path.exists() else "*Not run yet.*\n"
        return block["begin"] + drawn + block["end"]

    store.write_atomic(page, BLOCK.sub(filled, page.read_text(encoding="utf-8")))
    return page
