"""Records → the tables and figures of the study, one module a notebook.

Every module has `draw(records)`, which gives its tables and figures by the names of their files, and
`gaps(records, settings)`, which lists what a complete study has and these records have not.
"""

from pathlib import Path

from matplotlib.figure import Figure

from mmalib import figures, tables
from mmalib.profiles import Profile
from mmalib.reports import baselines, distillation, quantization, speed, structured, unstructured

NOTEBOOKS = (baselines, structured, unstructured, distillation, quantization, speed)


def redraw(records: list[dict], tables_folder: Path, figures_folder: Path) -> list[Path]:
    """Write every table and figure of the study again, from the records alone."""
    written = []
    for notebook in NOTEBOOKS:
        for name, drawn in notebook.draw(records).items():
            if isinstance(drawn, Figure):
                written += figures.save(drawn, figures_folder, name)
            else:
                written += tables.write(drawn, tables_folder, name)
    return written


def gaps(records: list[dict], settings: Profile) -> list[str]:
    """What the whole study of this profile lacks."""
    return [gap for notebook in NOTEBOOKS for gap in notebook.gaps(records, settings)]
