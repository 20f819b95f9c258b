"""The whole study without a browser: papermill over the notebooks in order, resumable, one line for each.

Notebooks skip the runs whose record is there, so starting again after a kill simply goes on. Those of `BESIDE` run
two at a time, each on half of the threads: small models keep two processes busier than one.
"""

import dataclasses
import importlib.util
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

from mmalib import plan, profiles
from mmalib.app.kernels import Kernels
from mmalib.records import lock, machine, store
from mmalib.studies.workers import CLUSTER, asked_for

NOTEBOOKS = machine.ROOT / "notebooks"
PRODUCTS = ("records", "corpora", "models", "unfinished", "answers", "shapes", "notebooks", "tables", "figures")
# Those that begin from 01 alone, draw nothing but their own runs and measure no speed; the longest begin first.
BESIDE = ("03", "05", "04", "02")
ROOM = 6.0  # GiB that must be free before a study starts
CLEARED = "\r\x1b[K"  # a terminal's line, empty
RESULT = "RESULT: "  # the last line that a notebook prints with this in front is its line of result


def notebooks(root: Path) -> list[Path]:
    """The notebooks of the study in order: `01_*.ipynb` and up; `00_*` explains and is no part of it."""
    paths = sorted(path for path in Path(root).glob("[0-9][0-9]_*.ipynb") if path.name[:2] != "00")
    if not paths:
        raise ValueError(
            f"There are no notebooks (01_….ipynb and up) in {root}. Run the study from a checkout of the "
            "repository, or say with --notebooks where they are."
        )
    return paths


def run(
    profile: str, only: str | None = None, fresh: bool = False, runs: Path = Path("runs"), folder: Path = NOTEBOOKS
) -> int:
    """Execute the notebooks in order, or those that `only` numbers ("01,03"); 0 if all went well, else 1."""
    sizes = profiles.load_profile(profile)  # an unknown name ends here, before anything is touched
    chosen = _choose(notebooks(folder), only)
    if fresh and only:
        raise ValueError("--fresh deletes what every notebook made, so it cannot go with --only. Drop one.")
    home, begun = Path(runs) / sizes.name, datetime.now(timezone.utc).isoformat(timespec="seconds")
    _check(sizes, home)
    with lock.hold(home / "study.lock", f"A study in {home}") as held:
        making = lock.held(home / "locks")  # by a notebook in JupyterLab, say
        if fresh:
            _start_over(home, making)
        for name in PRODUCTS if not making else ():
            store.sweep(home / name)
        for leftover in (home / "notebooks").glob("*.running.ipynb"):
            leftover.unlink()
        file = profile if profile == sizes.name else str(Path(profile).resolve())  # kernels may be elsewhere
        parameters = {"profile": file, "runs": str(Path(runs).resolve())}
        with Kernels(held) as kernels:
            if not all(_execute_all(paths, home, parameters, kernels) for paths in _stages(chosen)):
                return 1
        if not lock.held(home / "locks"):  # a notebook in JupyterLab would miss them
            shutil.rmtree(home / "shapes", ignore_errors=True)
    _report(home, begun)
    return 0


def redraw(profile: str, runs: Path, formats: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Draw every table and figure again from the records alone: what is still missing, and what was written."""
    from mmalib import reports  # here: matplotlib is slow to import, and a study draws in its notebooks

    home, records, missing = recorded(profile, runs)
    return missing, reports.write(reports.draw(records), home / "tables", home / "figures", formats)


def recorded(profile: str, runs: Path) -> tuple[Path, list[dict], list[str]]:
    """The folder and the records of a profile, and what its whole study has that they have not, on their corpora."""
    size = profiles.load_profile(profile)
    home = Path(runs) / size.name
    if not (records := store.read(home / "records")):
        raise ValueError(f"There are no records in {home}. Run `python -m mmalib study --profile {profile}` first.")
    wanted = []
    for corpus in sorted({record["settings"]["corpus"] for record in records}):  # pairs: if there, or generated
        own = [record["settings"] for record in records if record["settings"]["corpus"] == corpus]
        pairs = size.pairs and (corpus == "sample" or any(one.get("task") == "similarity" for one in own))
        wanted += plan.runs(dataclasses.replace(size, pairs=pairs), corpus)
    return home, records, plan.missing(records, wanted)


def _choose(paths: list[Path], only: str | None) -> list[Path]:
    if only is None:
        return paths
    wanted = [number.strip().zfill(2) for number in only.split(",")]
    there = sorted({path.name[:2] for path in paths})
    if unknown := [number for number in wanted if number not in there]:
        raise ValueError(f"There is no notebook {', '.join(unknown)}. Choose from: {', '.join(there)}.")
    return [path for path in paths if path.name[:2] in wanted]


def _check(profile: profiles.Profile, home: Path) -> None:
    """Refuse what would fail an hour later: data that is not there, a disk that is full, no Ray where it is wanted."""
    if (asked_for("--workers") > 1 or os.environ.get(CLUSTER)) and not importlib.util.find_spec("ray"):
        raise ValueError("Runs side by side need Ray: pip install '.[study,ray]', or start the study with make.")
    from mmalib.data import corpus  # here, as it brings in the datasets library

    if (source := corpus.source_of(profile, None)) not in ("sample", "hub"):
        corpus.layout(Path(source).expanduser())
    if folder := os.environ.get("MMALIB_TEXT"):
        from mmalib.data import text

        text.lines_of(Path(folder).expanduser(), plan.THREE)
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free / 2**30
    if free < ROOM:
        raise ValueError(f"Only {free:.1f} GiB are free in {home}, and a study wants {ROOM:.0f} at least. Free some.")


def _start_over(home: Path, making: list[str]) -> None:
    if making:
        raise ValueError(f"--fresh would delete what others are making: {', '.join(making)}. Wait for it, or stop it.")
    there = [home / name for name in PRODUCTS if os.path.lexists(home / name)]
    if links := [str(path) for path in there if path.is_symlink()]:
        raise ValueError(f"--fresh does not follow links: remove {', '.join(links)} yourself, then start again.")
    print("Starting over, deleting:", *there or ["nothing, there is nothing yet"], sep="\n  ", flush=True)
    for path in there:
        shutil.rmtree(path)


def _stages(paths: list[Path]) -> list[list[Path]]:
    """The notebooks in order, those together that run side by side; on one core, or where Ray has the runs, none do."""
    one_by_one = machine.threads() < 2 or asked_for() > 1 or os.environ.get(CLUSTER)
    groups = groupby(paths, lambda path: "beside" if path.name[:2] in BESIDE and not one_by_one else path.name)
    stages = [list(group) for _, group in groups]
    return [sorted(stage, key=lambda path: BESIDE.index(path.name[:2])) if stage[1:] else stage for stage in stages]


def _execute_all(paths: list[Path], home: Path, parameters: dict, kernels: Kernels) -> bool:
    """Execute notebooks, two at a time; when one has failed no other begins, and False is returned."""
    workers, stopped = min(2, len(paths)), threading.Event()
    threads = machine.threads() // workers

    def execute(path: Path) -> None:
        if not stopped.is_set() and not _execute(path, running, home, parameters, kernels, threads):
            stopped.set()

    with _progress() as running, ThreadPoolExecutor(workers) as pool:
        try:
            for task in as_completed([pool.submit(execute, path) for path in paths]):
                task.result()
        except BaseException:  # interrupted: what runs ends with its kernel, in silence
            stopped.set()
            running.clear()
            kernels.end()
            raise
    return not stopped.is_set()


def _execute(path: Path, running: dict, home: Path, parameters: dict, kernels: Kernels, threads: int) -> bool:
    """Execute one notebook; say how it went, and leave the executed copy either way."""
    sys.modules.setdefault("rfc3987_syntax", None)  # a grammar that jsonschema would compile for seconds, unused here
    import papermill  # here: a second that `--help` need not wait for
    from nbclient.exceptions import DeadKernelError

    (home / "notebooks").mkdir(exist_ok=True)
    executed = home / "notebooks" / path.name
    unfinished = executed.with_suffix(".running.ipynb")
    _say(f"{path.stem}  started")
    begin, cells, failure, result = time.monotonic(), [], "", ""
    code = [cell for cell in store.read_json(path)["cells"] if cell["cell_type"] == "code" and cell["source"]]
    running[path.stem] = begin, cells, len(code) + 1  # papermill's parameters
    try:
        with kernels.borrow(threads) as kernel:
            how = {"kernel_name": "python3", "language": "python", "km": kernel, "progress_bar": False}
            how |= {"start_timeout": 120, "iopub_timeout": 120}  # a busy machine is slow, not broken
            how["on_cell_execute"] = lambda cell, cell_index: cells.append(cell.source)
            notebook = papermill.execute_notebook(_literal(path), _literal(unfinished), parameters, **how)
        result = _result(notebook)
    except papermill.PapermillExecutionError as error:
        failure = "\n".join(f"{error.ename}: {error.evalue}".splitlines()[:12])
    except DeadKernelError:
        failure = "The kernel died while this cell ran; running out of memory is the usual reason."
    except RuntimeError as error:  # of jupyter_client: it died, or was silent, before the first cell
        failure = f"The kernel did not start: {' '.join(str(error).split())}"
    if left := unfinished.exists():
        os.replace(unfinished, executed)
    if running.pop(path.stem, None) is None:  # the study was interrupted
        return False
    lines = [f"{path.stem}  {'failed' if failure else 'ok'}  {time.monotonic() - begin:.0f} s  {result}".rstrip()]
    if failure:
        if cells:
            lines.append(f"  in code cell {len(cells)}: {cells[-1].strip().splitlines()[0]}")
        lines += [f"  {line}" for line in failure.splitlines()]
        if left:
            lines.append(f"  The executed notebook: {executed}")
    _say("\n".join(lines))
    return not failure


@contextmanager
def _progress() -> Iterator[dict[str, tuple[float, list, int]]]:
    """When each notebook that runs began, its cells so far, and all; on a terminal a line, redrawn every second."""
    running: dict[str, tuple[float, list, int]] = {}
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(1):
            parts = []
            for name, (begin, cells, total) in list(running.items()):
                minutes, seconds = divmod(int(time.monotonic() - begin), 60)
                parts.append(f"{name}  {max(len(cells) - 1, 0)}/{total} cells  {minutes}:{seconds:02d}")
            print(f"{CLEARED}{'   '.join(parts)}", end="", file=sys.stderr, flush=True)

    ticker = threading.Thread(target=tick, daemon=True)
    if sys.stderr.isatty():
        ticker.start()
    try:
        yield running
    finally:
        ended.set()
        if ticker.is_alive():
            ticker.join()
            print(CLEARED, end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    """Print in place of the line of progress, if there is one."""
    if sys.stderr.isatty():
        print(CLEARED, end="", file=sys.stderr, flush=True)
    print(f"{text}\n", end="", flush=True)  # at once: two threads may speak


def _literal(path: Path) -> str:
    """Papermill takes a path for a format string."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _result(notebook) -> str:
    printed = [one.text for cell in notebook.cells for one in cell.get("outputs", []) if one.get("name") == "stdout"]
    lines = [line for text in printed for line in text.splitlines() if line.startswith(RESULT)]
    return lines[-1].removeprefix(RESULT) if lines else ""


def _report(home: Path, begun: str) -> None:
    table = home / "tables" / "table_1.md"
    if table.exists():
        print("\nTable 1: F1 on entities, mean ± standard deviation over seeds\n")
        print(table.read_text(encoding="utf-8"))
    for name in ("notebooks", "tables", "figures"):
        count = len(list((home / name).glob("[!.]*")))
        print(f"{name}: {home / name} ({count} files)")
    spent: Counter[str] = Counter()
    for record in store.read(home / "records"):
        if record["finished"] >= begun:
            spent.update(record.get("timings") or {})
    if spent:
        print("where the time went:", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.most_common()))
