"""The set-up: versions pinned once and installed as pinned, and a Makefile that does nothing twice.

The Makefile is run for real in an empty folder, with a stub for a Python that only notes what it is asked.
"""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmalib
from mmalib.records import machine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along here

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIGHT = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
STUDY, TOOLS, RAY, SPACY = (EXTRAS[name] for name in ("study", "dev", "ray", "spacy"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXACT = re.compile(r"==[0-9][0-9A-Za-z.]*")


def pins(requirements, python):
    """Name -> version of the requirements that hold for a Python; a name that comes twice is an error."""
    applicable = [r for r in requirements if r.marker is None or r.marker.evaluate({"python_version": python})]
    names = [requirement.name.lower() for requirement in applicable]
    assert len(names) == len(set(names)), f"pinned twice for Python {python}: {sorted(names)}"
    return {requirement.name.lower(): str(requirement.specifier) for requirement in applicable}


def read_list(path):
    """The requirements of a pip list, comments left out."""
    lines = (line.split("#")[0].strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


# ---- Versions ----


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_gets_exactly_one_version_of_each_package(python):
    pinned = pins(STUDY + TOOLS + RAY, python)
    assert set(pinned) == {requirement.name.lower() for requirement in STUDY + TOOLS + RAY}
    assert [name for name, version in pinned.items() if not EXACT.fullmatch(version)] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_study_has_what_using_a_model_needs(python):
    pinned = pins(STUDY, python)
    for requirement in LIGHT:
        assert requirement.specifier.contains(pinned[requirement.name].removeprefix("=="))
    assert {requirement.name for requirement in LIGHT} == {"numpy", "onnxruntime", "tokenizers"}


def test_conda_users_get_the_same_versions():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    (python,) = re.findall(r"^  - python=(\S+)$", text, re.M)
    listed = re.findall(r"^      - ([^-\s].*)$", text, re.M)
    assert pins(map(Requirement, listed), python) == pins(STUDY + TOOLS, python)
    assert "      - -e .\n" in text


def test_installed_is_what_is_pinned():
    extra = RAY if importlib.util.find_spec("ray") else []
    pinned = pins(STUDY + TOOLS + extra, f"{sys.version_info.major}.{sys.version_info.minor}")
    requirements = [Requirement(name + version) for name, version in pinned.items()]
    # A build's suffix, as in 2.13.0+cpu, does not count as another version.
    differing = [
        f"{requirement}, installed: {found}"
        for requirement in requirements
        if not requirement.specifier.contains(found := importlib.metadata.version(requirement.name))
    ]
    assert differing == []


def test_what_is_installed_fits_together():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


OPTIONAL = RAY + SPACY


@pytest.mark.parametrize(("folder", "allowed"), (("mmalib", STUDY + OPTIONAL), ("tests", STUDY + TOOLS + OPTIONAL)))
def test_whatever_the_code_imports_is_pinned(folder, allowed):
    imported = set()
    for path in (ROOT / folder).rglob("*.py"):
        if path.name == "deepsparse_worker.py":  # runs in DeepSparse's own environment
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    pinned = {canonicalize_name(requirement.name) for requirement in allowed}
    owners = importlib.metadata.packages_distributions()
    ours = {
        "mmalib",
        "conftest",
        "tomli",
        *sys.stdlib_module_names,
        *(p.stem for p in (ROOT / folder).rglob("*.py")),
    }
    # spaCy need not be installed here, and is imported under the name that it is pinned by
    named = {name: set(map(canonicalize_name, owners.get(name, (name,)))) for name in imported - ours}
    loose = {name for name, packages in named.items() if not pinned & packages}
    assert loose == set()


def test_records_carry_the_version_of_everything_the_study_depends_on():
    assert set(machine.PACKAGES) == {requirement.name for requirement in STUDY}


@pytest.mark.parametrize("python", ("3.8", "3.9", "3.10", "3.11"))
def test_deepsparse_has_its_own_list(python):
    deepsparse = read_list("requirements/deepsparse.txt")
    pinned = pins(deepsparse, python)
    assert set(pinned) == {requirement.name.lower() for requirement in deepsparse}
    assert [name for name, version in pinned.items() if not EXACT.fullmatch(version)] == []
    assert pinned["deepsparse"] == "==1.8.0"
    ours = pins(STUDY + TOOLS, "3.11")
    assert not {"deepsparse", "sparsezoo"} & set(ours)
    assert ours["onnx"] != pinned["onnx"]


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [mmalib.__version__]


@pytest.mark.parametrize("module", ("mmalib", "mmalib.data.corpus"))
@pytest.mark.parametrize("category", (DeprecationWarning, FutureWarning))
def test_what_our_code_calls_and_a_library_drops_is_an_error(module, category):
    with pytest.raises(category):
        warnings.warn_explicit("going away", category, "file.py", 1, module=module)
    with pytest.warns(category):  # elsewhere it stays a warning
        warnings.warn_explicit("going away", category, "file.py", 1, module="mmalibrary")


# ---- The Makefile ----

# Notes each call; "-m venv" puts a copy of itself where a Python would be; a file named fail-* makes it fail.
STUB = """#!/bin/sh
echo "$*" >> calls
case "$*" in
  *ensurepip*) exit 0 ;;
  --version) echo Python 3.11.0 ;;
  *venv*) for folder; do :; done
      case "$*" in *--clear*) rm -rf "$folder" ;; esac
      mkdir -p "$folder/bin"; cp python-stub "$folder/bin/python" ;;
  *requirements/deepsparse.txt*) if [ -e fail-deepsparse ]; then echo "ERROR: no wheel"; exit 1; fi ;;
  *"-e .[study,dev]"*) if [ -e fail-pip ]; then exit 1; fi ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Runs make in a fresh folder; returns what the stub was asked for, questions about itself apart."""
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    (tmp_path / "requirements").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements/deepsparse.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    stub = tmp_path / "python-stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    # Variables given to the make that runs these tests must not reach this one.
    outer = (
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "MAKEOVERRIDES",
        "PROFILE",
        "ONLY",
        "FRESH",
        "WORKERS",
        "RAY",
        "ARGS",
        "PYTHON",
    )
    environment = {name: value for name, value in os.environ.items() if name not in outer}

    def run(*arguments, python="./python-stub", fails=False):
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            ["make", f"PYTHON={python}", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        calls = (tmp_path / "calls").read_text().splitlines()
        run.said = done.stdout + done.stderr
        return [call for call in calls if "ensurepip" not in call and call != "--version"]

    run.folder = tmp_path
    return run


def touch_later(path):
    """Makes a file newer than everything else, whatever the resolution of the file system's clock."""
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


PIP = "-m pip install --disable-pip-version-check"
INSTALLED = [f"{PIP} -e .[study,dev]", f"{PIP} -e .[study,dev,ray]"]  # the tests want Ray as well
PYTEST = "-m pytest -n 2 --dist worksteal"


def test_the_environment_is_made_once(make):
    assert make("test") == ["-m venv --clear .venv", *INSTALLED, PYTEST]
    assert make("test", "ARGS=-k x") == [f"{PYTEST} -k x"]


def test_changed_pins_are_installed_into_the_environment_there_is(make):
    make("test")
    touch_later(make.folder / "pyproject.toml")
    assert make("test")[:-1] == INSTALLED


def test_an_interrupted_installation_starts_over(make):
    (make.folder / "fail-pip").touch()
    make("test", fails=True)
    (make.folder / "fail-pip").unlink()
    assert make("test")[:-1] == ["-m venv --clear .venv", *INSTALLED]
    assert make("test") == [PYTEST]


def test_another_s_environment_behind_a_link_is_left_alone(make, tmp_path):
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / ".installed").write_text("another folder\n")
    (make.folder / ".venv").symlink_to(other)
    assert make("test")[0] == "-m venv --clear .venv"
    assert not (make.folder / ".venv").is_symlink() and (other / ".installed").read_text() == "another folder\n"


def test_a_running_installation_is_left_alone(make):
    (make.folder / ".venv-incomplete").write_text(f"{os.getpid()}\n")
    assert make("test", fails=True) == []
    assert f"Process {os.getpid()} is making .venv" in make.said


def test_a_killed_installation_starts_over_even_where_nobody_buries_the_dead(make):
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as zombie:
        zombie.stdout.read()  # it has ended, and until this block ends nobody asks for its exit code
        (make.folder / ".venv-incomplete").write_text(f"{zombie.pid}\n")
        assert make("test")[0] == "-m venv --clear .venv"


def test_a_moved_folder_gets_a_new_environment(make):
    make("test")
    (make.folder / ".venv" / ".installed").write_text("/where/it/was\n")
    assert make("test")[:-1] == ["-m venv --clear .venv", *INSTALLED]
    assert make("test") == [PYTEST]


def test_without_a_python_there_is_one_clear_sentence(make):
    (make.folder / "python3.9").write_text("#!/bin/sh\nexit 1\n")  # there, and of no use
    (make.folder / "python3.9").chmod(0o755)
    make("test", python="./python3.9", fails=True)
    assert make.said.startswith("No Python 3.10 to 3.13 that runs and has venv (tried: ./python3.9). Install one")
    assert not (make.folder / ".venv").exists()


def test_a_python_outside_the_range_is_refused(make):
    version = sys.version_info[1]
    chosen = f"include Makefile\nask:\n\t@$(call choose,{sys.executable},{{}},{{}})\n"
    for bounds, expected in (
        ((version, version), sys.executable),
        ((8, version - 1), ""),
        ((version + 1, 99), ""),
    ):
        (make.folder / "ask.mk").write_text(chosen.format(*bounds))
        make("-f", "ask.mk", "ask")
        assert make.said.strip() == expected


def test_study_passes_its_variables_on(make):
    make("study")
    assert make("study") == ["-m mmalib study --profile quick"]
    assert make("study", "PROFILE=small", "ONLY=01,03", "FRESH=1") == [
        "-m mmalib study --profile small --only 01,03 --fresh"
    ]


def test_ray_is_installed_once_for_whoever_wants_workers(make):
    make("study")
    asked = "-m mmalib study --profile quick --workers 2 --ray auto"
    assert make("study", "WORKERS=2", "RAY=auto") == [f"{PIP} -e .[study,dev,ray]", asked]
    assert make("study", "WORKERS=2", "RAY=auto") == [asked]


def test_deepsparse_that_cannot_be_installed_does_not_stop_the_study(make):
    (make.folder / "fail-deepsparse").touch()
    first, again = make("study"), make("study")
    assert first[-1] == "-m mmalib study --profile quick"
    assert again == ["-m mmalib study --profile quick"]  # not tried again for the same list
    assert make.said == "DeepSparse is left out: ERROR: no wheel ('make deepsparse' tries again)\n"

    (make.folder / "fail-deepsparse").unlink()
    touch_later(make.folder / "requirements" / "deepsparse.txt")
    assert f"{PIP} -r requirements/deepsparse.txt" in make("study")
    assert "left out" not in make.said


def test_make_deepsparse_tries_again_and_says_how_it_went(make):
    (make.folder / "fail-deepsparse").touch()
    make("deepsparse", fails=True)
    assert "DeepSparse is not available: ERROR: no wheel" in make.said
    (make.folder / "fail-deepsparse").unlink()
    assert f"{PIP} -r requirements/deepsparse.txt" in make("deepsparse")
    assert make("deepsparse") == []


def test_clean_keeps_the_environments(make):
    make("study")
    kept = [make.folder / ".venv" / ".installed", make.folder / ".venv-deepsparse" / ".tried"]
    runs = make.folder / "runs"
    for name in ("runs", "mmalib", "notebooks", "tests"):
        (make.folder / name).mkdir()
    make("clean")
    assert not runs.exists()
    assert all(path.exists() for path in kept)
    make("distclean")
    assert not any(path.parent.exists() for path in kept)
