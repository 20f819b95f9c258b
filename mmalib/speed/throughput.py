"""How fast a model computes, in samples a second, always as a pair with the baseline.

A machine's speed drifts: it heats up, clocks change, somebody else computes. So a candidate and the baseline (dense
float32 in ONNX Runtime at the same batch) are measured in turns of a fraction of a second each, and the speed-up is
the median of the pairs' ratios, which holds where the absolute numbers do not. One thing runs at a time. What other
processes took of our cores meanwhile is measured too, and where it was too much the row says `busy`.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from mmalib import runtimes
from mmalib.records import clock

TURNS = 7  # pairs of candidate and baseline
CALLS = 5  # of the baseline in a turn, at least
AGREE = 0.05  # how far the baseline's speed may lie from that beside the other rows of the same batch
IN_FLIGHT = 4  # batches at once for each stream of a runtime that has streams, so that none runs dry
SPARE = 0.1  # of the cores we compute on, what others may take before the machine counts as busy
IDLE_SPARE = 0.25  # the same, of the cores we leave alone: others there still take memory bandwidth and clock


def measure(
    folders: Mapping[str, Path],
    runtime_names: Sequence[str],
    batches: Sequence[int],
    length: int,
    *,
    threads: int,
    seconds: float,
    baseline: Path,
    turns: int = TURNS,
    calls: int = CALLS,
) -> Iterator[dict]:
    """A row for every folder, runtime and batch, as soon as it is measured; what fails is a row with `failed`.

    `seconds` go into each candidate and as many into the baseline beside it, or as `calls` in each turn take: ONNX
    Runtime on the folder `baseline`. Where the baseline is not as fast as beside the other rows, a row is measured once
    more; if it still is not, the row tells by which share (`baseline_off`).
    """
    if not (folders and runtime_names and batches):
        raise ValueError("There is nothing to measure: give a folder, a runtime and a batch.")
    for name, value in [("batch", min(batches)), ("length", length), ("turns", turns)]:
        if value < 1:
            raise ValueError(f"{name} is {value}. Give a whole number of at least 1.")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}. Give each measurement more than no time.")
    runtimes.check_threads(threads)
    for folder in folders.values():
        runtimes.locate(folder)
    for runtime in runtime_names:
        runtimes.parse(runtime)
    beside: dict[int, list[float]] = {}  # batch → the baseline's speed beside each row
    with runtimes.load(baseline, threads) as base:
        for name, folder in folders.items():
            for runtime in runtime_names:
                about = {"model": name, "runtime": runtime, "threads": threads, "length": length}
                how = {"seconds": seconds, "turns": turns, "calls": calls}
                yield from _rows(about, folder, base, batches, beside, how)


@clock.phase("timing")
def compare(
    candidate: runtimes.Session,
    base: runtimes.Session,
    batch: int,
    length: int,
    *,
    seconds: float,
    turns: int = TURNS,
    calls: int = 1,
) -> dict:
    """Speeds of two loaded models at one batch, in turns: medians, quartiles, ratio, and every raw number.

    A candidate that computes in a process of its own is stopped in the baseline's turns: its threads wait for work by
    spinning, and would take the cores.
    """
    pair = random_batch(batch, length)
    for model in {id(model): model for model in (candidate, base)}.values():
        for spent in (0, seconds / turns):  # the first calls compile, allocate and fill caches
            _turn(model, pair, spent)
    ours, theirs = [], []
    watch = Watch(candidate.process, base.process)
    for number in range(turns):
        for ours_now in (True, False) if number % 2 else (False, True):  # so that a steady drift cancels out
            if ours_now:
                ours.append(_turn(candidate, pair, seconds / turns))
            else:
                with _stopped(candidate.process):
                    theirs.append(_turn(base, pair, seconds / turns, calls))
    others = watch.others(candidate.threads)
    speeds, base_speeds = ([speed for speed, _ in turns_of] for turns_of in (ours, theirs))
    p50, p95 = np.percentile(np.concatenate([milliseconds for _, milliseconds in ours]), [50, 95]).tolist()
    row = _spread("samples_per_second", speeds) | _spread("baseline_samples_per_second", base_speeds)
    row |= _spread("ratio", [one / other for one, other in zip(speeds, base_speeds, strict=True)])
    row |= {"milliseconds_p50": p50, "milliseconds_p95": p95, **others}
    return row | {"samples": speeds, "baseline_samples": base_speeds}


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their own names."""
    by_name = {Path(folder).resolve().name: Path(folder) for folder in folders}
    if len(by_name) < len(folders):
        raise ValueError("Two of the folders have the same name, so their rows could not be told apart. Rename one.")
    return by_name


def random_batch(batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of a full batch; which ids they are does not change the speed."""
    ids = np.random.default_rng(0).integers(5, 100, (batch, length))
    return ids, np.ones_like(ids)


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """The rows as a table for reading: speed, its quartiles, speed-up, and what went wrong."""
    lines = []
    for row in rows:
        line = {"model": row["model"], "runtime": row["runtime"], "batch": row["batch"]}
        if "failed" in row:
            line |= {"samples/s": "", "quartiles": "", "speed-up": "", "p95 ms": "", "note": f"failed: {row['failed']}"}
        else:
            low, high = row["samples_per_second_low"], row["samples_per_second_high"]
            busy = [f"others took {row['others_cores']:.1f} cores"] if row["busy"] else []
            busy += [f"baseline off by {row['baseline_off']:+.0%}"] if "baseline_off" in row else []
            line |= {
                "samples/s": f"{row['samples_per_second']:.1f}",
                "quartiles": f"{low:.1f} to {high:.1f}",
                "speed-up": f"{row['ratio']:.2f}",
                "p95 ms": "" if overlaps(row["runtime"]) else f"{row['milliseconds_p95']:.1f}",
                "note": " ".join(busy),
            }
        lines.append(line)
    return pd.DataFrame(lines)


def overlaps(runtime: str) -> bool:
    """Whether batches are computed at the same time there, so that the time of one is not taken."""
    return runtimes.parse(runtime)[1].get("hint") == "throughput"


def told(row: dict) -> dict:
    """The row, after one line of progress about it."""
    if "failed" in row:
        result = f"failed: {row['failed']}"
    else:
        busy = " (the machine is busy)" if row["busy"] else ""
        result = f"{row['samples_per_second']:.1f} samples/s, {row['ratio']:.2f} times the baseline{busy}"
    print(f"{row['model']} in {row['runtime']}, batch {row['batch']}: {result}", flush=True)
    return row


class Watch:
    """Counts what other processes take of the cores this one may use, from its making until it is asked."""

    def __init__(self, *workers: int | None) -> None:
        self._ours = [psutil.Process(worker) for worker in (os.getpid(), *filter(None, workers))]
        self._before = self._now()

    def others(self, threads: int) -> dict[str, float | bool | None]:
        """How many cores others have kept busy since then, and whether that spoils what is measured on `threads`.

        None where the system does not tell.
        """
        before, now = self._before, self._now()
        if before is None or now is None:
            return {"others_cores": None, "busy": None}
        seconds, everybody, ours = (after - earlier for earlier, after in zip(before, now, strict=True))
        taken, cores = max(0.0, (everybody - ours) / max(seconds, 1e-9)), len(os.sched_getaffinity(0))
        return {"others_cores": taken, "busy": taken > SPARE * threads + IDLE_SPARE * max(0, cores - threads)}

    def _now(self) -> tuple[float, float, float] | None:
        """The time, and the CPU seconds spent by everybody and by us until now."""
        try:
            every = psutil.cpu_times(percpu=True)
            cores = [every[core] for core in os.sched_getaffinity(0)]
            ours = sum(sum(process.cpu_times()[:2]) for process in self._ours)
        except (psutil.Error, AttributeError, IndexError):  # not Linux, cores with other numbers, or the worker is gone
            return None
        busy = sum(t.user + t.nice + t.system + t.irq + t.softirq + t.steal for t in cores)
        return time.perf_counter(), busy, ours


@contextmanager
def _stopped(process: int | None) -> Iterator[None]:
    if process:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        if process:
            os.kill(process, signal.SIGCONT)


def _rows(about: dict, folder: Path, base: runtimes.Session, batches, beside: dict, how: dict) -> Iterator[dict]:
    """The rows of one folder in one runtime, which is loaded once for all batches as long as it lives."""
    with ExitStack() as stack:
        is_base = about["runtime"] == base.runtime and runtimes.locate(folder).samefile(base.path)
        candidate = base if is_base else None
        for batch in batches:
            row = {**about, "batch": batch}
            try:
                if candidate is None:
                    candidate = stack.enter_context(runtimes.load(folder, about["threads"], about["runtime"]))
                speeds = compare(candidate, base, batch, about["length"], **how)
                if abs(_off(speeds, beside.get(batch))) > AGREE:
                    again = compare(candidate, base, batch, about["length"], **how)
                    speeds = min(speeds, again, key=lambda one: abs(_off(one, beside[batch])))
                off = _off(speeds, beside.get(batch))
                beside.setdefault(batch, []).append(speeds["baseline_samples_per_second"])
                row |= {"baseline_off": off} if abs(off) > AGREE else {}
                row |= {**speeds, "facts": dict(candidate.facts)}
            except Exception as error:  # one crash must not end a study
                row["failed"] = runtimes.failure(error)
                if candidate is not base:  # it may be dead; the next batch gets a fresh one
                    stack.close()
                    candidate = None
            yield row


def _off(speeds: dict, others: list[float] | None) -> float:
    """By which share the baseline is faster than in the middle of those beside other rows."""
    return speeds["baseline_samples_per_second"] / float(np.median(others)) - 1 if others else 0.0


def _turn(
    model: runtimes.Session, pair: tuple[np.ndarray, np.ndarray], seconds: float, calls: int = 1
) -> tuple[float, np.ndarray]:
    """Call a model until the time is over, so often at least: samples a second, and the milliseconds of each call.

    Where the model streams, a call is several batches at once.
    """
    many = IN_FLIGHT * model.streams if model.streams > 1 else 1
    ends = [time.perf_counter()]
    while len(ends) <= calls or ends[-1] - ends[0] < seconds:
        if many > 1:
            model.stream([pair] * many)
        else:
            model(*pair)
        ends.append(time.perf_counter())
    steps = np.diff(ends)
    return len(steps) * many * len(pair[0]) / (ends[-1] - ends[0]), 1000 * steps


def _spread(name: str, values: list[float]) -> dict[str, float]:
    low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    return {name: middle, f"{name}_low": low, f"{name}_high": high}
