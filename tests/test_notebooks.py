"""The notebooks: their form, and every one of them run from the first cell to the last."""

import ast
import json
import re
import types
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from smoke import FILE

from mmalib import reports
from mmalib.app import batch, publish
from mmalib.records import store
from mmalib.reports import tables
from mmalib.studies.study import Study

NOTEBOOKS = sorted(batch.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_has_no_outputs_and_no_long_cell(notebook):
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 15


def test_it_has_one_cell_of_commented_literals_as_parameters(notebook):
    (parameters,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert [cell for cell in code(notebook)].index(parameters) == 1  # after the imports
    for statement in ast.parse(parameters.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert all("  # " in line for line in parameters.source.splitlines())


def test_it_is_half_prose_and_defines_nothing(notebook):
    lines = [line for cell in code(notebook) for line in cell.source.splitlines()]
    assert [line for line in lines if line.startswith(("%", "!"))] == ["%matplotlib inline"]
    tree = ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) * 10 >= len(notebook.cells) * 4
    assert prose[-1].source.startswith("## What we see")


def test_it_asks_the_package_for_nothing_that_is_not_there(notebook):
    tree = ast.parse("\n".join(cell.source.replace("%matplotlib inline", "") for cell in code(notebook)))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = [node for node in imports if node.module.startswith("mmalib")]
    there = {}
    for node in imported:
        exec(ast.unparse(node), there)

    def named(node):
        """What a dotted name in a cell is, as far as it leads through modules."""
        if isinstance(node, ast.Attribute):
            owner = named(node.value)
            return getattr(owner, node.attr) if isinstance(owner, types.ModuleType) else None
        return there.get(node.id) if isinstance(node, ast.Name) else None

    assert imported
    for node in ast.walk(tree):
        named(node)


def test_the_study_runs_from_end_to_end_and_again_from_its_records(random_backbone, tmp_path, capsys):
    """Every cell of every notebook, with random backbones in the place of the shipped ones."""
    deep, shallow = (str(random_backbone(tmp_path / name, layers)) for name, layers in (("deep", 6), ("shallow", 2)))
    own = {"backbones": [deep], "teacher": deep, "students": [shallow]} | json.loads(FILE.read_text())
    own |= {"unlabelled_students": [shallow], "frozen": None, "frozen_after": None}
    own |= {"speedups": []}  # so small a model is as fast without its heads, when others work here too
    profile, home = tmp_path / "own.json", tmp_path / "own"
    profile.write_text(json.dumps(own), encoding="utf-8")
    assert batch.run(str(profile), runs=tmp_path) == 0
    records = {path: path.read_bytes() for path in (home / "records").glob("*.json")}
    frame = store.frame(store.read(home / "records"))
    assert set(frame["language"]) == {"en", "es", "nl"} and set(frame["split"]) == {"dev", "test"}
    assert frame["f1"].dropna().between(0, 1).all() and frame["pearson"].dropna().between(-1, 1).all()
    assert frame["f1"].isna().sum() == frame["pearson"].notna().sum() > 0
    table = pd.read_csv(home / "tables" / "table_1.csv")
    assert list(table["model"]) == ["deep", "mlbert", "xlm"]
    figure = (home / "figures" / "baselines.svg").read_bytes()
    executed = nbformat.read(home / "notebooks" / "01_baselines.ipynb", as_version=4)
    assert any("image/png" in output.get("data", {}) for cell in code(executed) for output in cell.outputs)
    study = Study.open(str(profile), tmp_path)
    assert all(study.done(run) for run in study.runs())
    assert (
        batch.run(str(profile), "01,06", runs=tmp_path) == 0
    )  # one that draws early, and one whose runs need many others
    assert {path: path.read_bytes() for path in (home / "records").glob("*.json")} == records
    assert (home / "figures" / "baselines.svg").read_bytes() == figure
    assert "RESULT" not in capsys.readouterr().out


def test_the_notebook_of_the_backbones_shows_what_is_shipped(tmp_path):
    papermill.execute_notebook(
        batch.NOTEBOOKS / "00_backbones.ipynb", tmp_path / "00.ipynb", {"runs": str(tmp_path)}, progress_bar=False
    )
    drawn = sorted(path.name for path in (tmp_path / "backbones" / "figures").iterdir())
    assert drawn == ["pretraining.png", "pretraining.svg", "retrieval.png", "retrieval.svg"]


FIGURES = batch.NOTEBOOKS.parent / "figures"


def test_the_committed_tables_come_from_the_committed_records():
    folder, records = FIGURES, store.read(FIGURES / "records")
    drawn = reports.draw(records)
    drawn |= publish.benchmarks() | reports.backbones.draw(reports.backbones.read())
    drawn |= {"table_planned": publish.planned(records), "table_shipped": publish.shipped_models()}
    tables_there = {path.stem for path in folder.glob("*.csv")}
    assert tables_there == {name for name, made in drawn.items() if isinstance(made, pd.DataFrame)}
    for name in tables_there:
        shown = tables.markdown(tables.formatted(drawn[name]))
        assert (folder / f"{name}.md").read_text(encoding="utf-8") == shown
        assert (folder / f"{name}.csv").read_text(encoding="utf-8") == drawn[name].to_csv(index=False)
    assert (folder / "answer.md").read_text(encoding="utf-8") == reports.answer.text(records)


@pytest.mark.parametrize(
    ("page", "mark"),
    [(FIGURES.parent / "README.md", "table_1"), (FIGURES / "README.md", "claims")],
    ids=("top", "figures"),
)
def test_the_pages_show_the_committed_tables_and_say_what_is_not_run(page, mark):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"<!-- (\w+) -->", text)
    assert mark in names
    code = "".join(path.read_text(encoding="utf-8") for path in Path(reports.__file__).parent.glob("*.py"))
    for name in names:
        file = FIGURES / f"{name}.md"
        shown = file.read_text(encoding="utf-8") if file.exists() else "*Not run yet.*\n"
        assert f"<!-- {name} -->\n{shown}<!-- /{name} -->" in text
        assert file.exists() or f'"{name}"' in code  # or nothing would ever be shown there
