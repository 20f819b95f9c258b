"""Who makes the runs of a study: this process, workers side by side on this machine, or those of a Ray cluster.

`MMALIB_WORKERS` says how many runs are made side by side (on each node of a cluster), `MMALIB_RAY` is the address of a
cluster, or "auto". Records stay the only state: a worker returns at once where a record is there, a run that a worker
died with is made again from its last checkpoint, and a study that is started again goes on. What needs another run
waits for it; what measures speed has a node for itself.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from mmalib.plan import Run
from mmalib.records import machine
from mmalib.studies.study import Study

WORKERS, CLUSTER = "MMALIB_WORKERS", "MMALIB_RAY"
ALONE = ("shape", "text", "trained", "compound speed", "searched", "use")  # kinds that measure speed
SPEED_NODE = "mmalib_speed"  # the custom resource of the nodes that are there to measure speed, where a cluster has it
RETRIES = 2  # of a run whose worker died


def make_all(study: Study, runs: list[Run]) -> list[dict]:
    """The records of these runs, a line printed for each as it ends."""
    workers, cluster = asked_for(), os.environ.get(CLUSTER)
    if workers > 1 or cluster:
        _make_side_by_side(study, runs, workers, cluster)
    records = []
    for number, run in enumerate(runs, start=1):
        records.append(study.make(run))
        if not (workers > 1 or cluster):
            print(f"{number}/{len(runs)} {line(records[-1])}", flush=True)
    return records


def line(record: dict) -> str:
    """A record in one line: what was made, how long it took, how good it is."""
    splits = {split for by_split in record["scores"].values() for split in by_split}
    split = "test" if "test" in splits else "dev"
    name, key = ("Pearson's r", "pearson") if record["settings"].get("task") == "similarity" else ("F1", "f1")
    f1 = [f"{language} {of[split][key]:.3f}" for language, of in record["scores"].items() if split in of]
    seconds = sum((record.get("timings") or {}).values())
    return f"{record['run']}: {seconds:.0f} s" + (f", {split} {name} {' '.join(f1)}" if f1 else "")


def to_make(study: Study, runs: Iterable[Run]) -> dict[str, Run]:
    """The runs that are not there yet, with all that they need, those that others need first."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.name not in ordered and not study.done(run):
            for need in run.needs.values():
                visit(study.plan[need])
            ordered[run.name] = run

    for run in runs:
        visit(run)
    return ordered


def _make_side_by_side(study: Study, runs: list[Run], workers: int, cluster: str | None) -> None:
    """Make what is not there yet on Ray, and return when all is."""
    waiting = to_make(study, runs)
    if not waiting:
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as fast as a run alone
    try:
        import ray
    except ImportError:
        raise ValueError("Workers side by side need Ray: pip install '.[study,ray]' (make does it).") from None
    how = {"address": cluster or "local"}  # else Ray would join whatever cluster runs here
    if not cluster:  # nothing is sent but names; small /dev/shm would kill workers
        how |= {"num_cpus": machine.cores(), "include_dashboard": False, "object_store_memory": 200 * 2**20}
    ray.init(**how, log_to_driver=False, logging_level="warning")
    mark = study.home / f"seen-{uuid4().hex}.tmp"  # who does not see it does not see the folder
    study.home.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        _run_all(ray, study, waiting, workers, mark)
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()


def _run_all(ray, study: Study, waiting: dict[str, Run], workers: int, mark: Path) -> None:
    cores = int(min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
    about = (study.original, study.top.resolve(), _data(study), study.changes)
    total, running, done = len(waiting), {}, set(study.plan) - set(waiting)
    # one call a process: no run sees what another has left behind
    maker = ray.remote(max_calls=1, max_retries=RETRIES)(_make)
    while waiting or running:
        for name, run in list(waiting.items()):
            if set(run.needs.values()) <= done:
                del waiting[name]
                threads = cores if run.kind in ALONE else max(1, cores // workers)
                task = maker.options(**_claim(ray, run, cores, workers))
                running[task.remote(about, name, threads, str(mark.resolve()), machine.commit())] = name
        (ended,), _ = ray.wait(list(running), num_returns=1)
        name = running.pop(ended)
        try:
            text = ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            why = f"The worker that made {name} died {RETRIES + 1} times ({type(error).__name__})."
            raise ValueError(why) from None
        done.add(name)
        print(f"{total - len(waiting) - len(running)}/{total} {text}", flush=True)


def _claim(ray, run: Run, cores: int, workers: int) -> dict:
    """What a run claims of a node: its share; all of it, where speed is measured."""
    resources = ray.cluster_resources()
    if run.kind in ALONE:
        return {"num_cpus": cores, "resources": {SPEED_NODE: 1} if SPEED_NODE in resources else {}}
    return {"num_cpus": cores / workers, "num_gpus": 1 / workers if resources.get("GPU") else 0}


def _make(about: tuple, name: str, threads: int, mark: str, commit: str | None) -> str:
    """What a worker does; the line that its record is told by."""
    node = socket.gethostname()
    if not Path(mark).exists():
        raise ValueError(
            f"The worker on {node} does not see the folder {Path(mark).parent}. Put --runs on storage that all nodes "
            "have under the same path."
        )
    if commit != machine.commit():
        raise ValueError(f"The worker on {node} has mmalib at {machine.commit()}, this study is made by {commit}.")
    os.environ[machine.THREADS] = str(threads)
    import torch

    torch.set_num_threads(threads)
    return line(Study(*about).make(name))


def _data(study: Study) -> str | None:
    """Where the corpora are, for a process that does not have this one's environment and folder."""
    data = study.data or os.environ.get("MMALIB_DATA")
    return str(Path(data).expanduser().resolve()) if data and data not in ("sample", "hub") else data


def asked_for(name: str = WORKERS) -> int:
    """How many runs are to be made side by side; `name` is what the user calls that."""
    text = os.environ.get(WORKERS) or "1"
    if not text.isdecimal() or text == "0":
        raise ValueError(f"{name} is '{text}'. Give the number of runs to make side by side.")
    return int(text)
