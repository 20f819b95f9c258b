"""`figures/` of the repository: the records behind it, what is drawn from them, and the README's numbers.

The README shows tables and sentences between `<!-- name -->` and `<!-- /name -->`; they are the files `name.md` in
`figures/`, put there by `inject` and typed by nobody. What `benchmarks/` measured is a record in `benchmarks/records`,
and becomes such a table as well; what the shipped backbones are is told by the reports beside their weights.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmalib import profiles, reports
from mmalib.records import store

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>\w+) -->\n).*?(?P<end><!-- /(?P=name) -->)", re.DOTALL)


def redraw(formats: Sequence[str] = reports.FORMATS, root: Path = ROOT) -> list[Path]:
    """Draw everything in `figures/` again from the records there, and bring the README up to date."""
    folder = Path(root) / "figures"
    records = store.read(folder / "records")
    if not records:
        raise ValueError(f"There are no records in {folder / 'records'}. Run this in a checkout of the repository.")
    written = reports.redraw(records, folder, folder, formats)
    written += reports.write(
        {**benchmarks(root), **reports.backbones.draw(reports.backbones.read())}, folder, folder, formats
    )
    return [*written, *inject(Path(root) / "README.md", folder)]


def benchmarks(root: Path = ROOT) -> dict[str, pd.DataFrame]:
    """The tables of what was measured by the scripts in `benchmarks/`, by the names of their files."""
    records = store.read(Path(root) / "benchmarks" / "records")
    return {f"benchmark_{record['run']}": pd.DataFrame(record["rows"]) for record in records}


def take(profile: str, runs: Path, root: Path = ROOT) -> list[str]:
    """Put the records of a profile in the place of those in `figures/`; what the profile still lacks."""
    settings, there = profiles.load_profile(profile), store.records_folder(runs, profile)
    records = store.read(there)
    if not records:
        raise ValueError(f"There are no records in {there}. Run `python -m mmalib study --profile {profile}` first.")
    target = Path(root) / "figures" / "records"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.json"):
        old.unlink()
    for record in records:
        shutil.copy2(there / f"{record['run']}.json", target)
    return reports.gaps(records, settings)


def inject(readme: Path, folder: Path) -> list[Path]:
    """Put what the files of `folder` hold between the marks of the same names in a README."""

    def filled(block: re.Match) -> str:
        path = Path(folder) / f"{block['name']}.md"
        if not path.exists():
            raise ValueError(f"{readme} wants {block['name']}, and there is no {path}. Draw it, or take the mark out.")
        return block["begin"] + path.read_text(encoding="utf-8") + block["end"]

    store.write_atomic(readme, BLOCK.sub(filled, readme.read_text(encoding="utf-8")))
    return [readme]
