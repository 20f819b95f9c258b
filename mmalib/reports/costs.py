"""What the runs of all notebooks took, from records, for whoever plans a study."""

from collections.abc import Sequence

import pandas as pd

from mmalib.plan import Run

INT8 = {"amx_int8": "AMX", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "avx2": "AVX2"}


def table(records: list[dict]) -> pd.DataFrame:
    """Median minutes that runs took by their records, by notebook, kind and machine, all sittings together.

    What a run starts from is a run of its own.
    """
    rows = [
        {"notebook": settings["notebook"], "kind": _kind(settings)}
        | {"minutes": sum(timings.values()) / 60, "on": _on(record["machine"])}
        for record in records
        if (settings := record["settings"]).get("notebook") and (timings := record.get("timings"))
    ]
    if not rows:
        return pd.DataFrame()
    grouped = pd.DataFrame(rows).groupby(["notebook", "kind", "on"])
    costs = grouped.agg(runs=("minutes", "size"), minutes=("minutes", "median")).reset_index()
    return costs.assign(minutes=costs["minutes"].map("{:.1f}".format))


def planned(records: list[dict], runs: Sequence[Run]) -> pd.DataFrame:
    """By notebook: how many of a study's runs are there, of which seeds, and the core-hours they took and would take.

    A run that is not there is taken to last as the median of its kind did on a CPU; of a kind that nobody has timed
    there, nothing is said but how many runs it has. What a GPU has made counts apart: many runs shared it at a time.
    """
    on_cpu = {record["run"]: _hours(record) for record in records if not record["machine"].get("gpu")}
    on_gpu = {record["run"]: _hours(record) for record in records if record["machine"].get("gpu")}
    machines = {record["run"]: _chip(record["machine"]) for record in records}
    frame = pd.DataFrame(
        {"run": run.name, "notebook": run.settings["notebook"], "kind": _kind(run.settings)}
        | {"seed": run.settings.get("seed")}
        | {"hours": on_cpu.get(run.name), "gpu": on_gpu.get(run.name)}
        for run in runs
    )
    usual = frame.groupby(["notebook", "kind"])["hours"].transform("median")
    rows = []
    for notebook, group in frame.groupby("notebook"):
        there = group[["hours", "gpu"]].notna().any(axis=1)
        missing = usual[group.index][~there]
        unknown = int(missing.isna().sum())
        row = {"notebook": notebook, "runs": len(group), "there": int(there.sum())}
        row["seeds"] = ", ".join(f"{seed:.0f}" for seed in sorted(group[there]["seed"].dropna().unique()))
        row["made on"] = ", ".join(sorted({machines[name] for name in group["run"] if name in machines}))
        row |= {"core-hours": f"{group['hours'].sum():.1f}", "hours of runs on a GPU": f"{group['gpu'].sum():.1f}"}
        row["still, about"] = f"{missing.sum():.1f}" + (f" and {unknown} never timed" if unknown else "")
        rows.append(row)
    return pd.DataFrame(rows)


def _hours(record: dict) -> float:
    machine = record["machine"]  # older records do not tell the threads: there, all cores
    threads = 1 if machine.get("gpu") else machine.get("threads") or machine["cores"]
    return sum((record.get("timings") or {}).values()) / 3600 * threads


def _on(machine: dict) -> str:
    cores = f"{machine['cores']} cores" if machine["cores"] > 1 else "1 core"
    return machine.get("gpu") or f"{cores}, {_chip(machine)}"


def _chip(machine: dict) -> str:
    """The GPU, or the CPU with the best that it has for int8."""
    has = [name for flag, name in INT8.items() if machine.get("flags", {}).get(flag)]
    return machine.get("gpu") or " ".join([machine["cpu"].replace("(R)", "").removesuffix(" Processor"), *has[:1]])


def _kind(settings: dict) -> str:
    """What tells one long run from another within a notebook."""
    if settings["notebook"] == "08" or settings.get("kind") in ("trial", "movement", "halved"):
        return settings["kind"]
    kind = settings[next(name for name in ("setting", "graph", "combination", "method") if name in settings)]
    if settings["notebook"] == "03" and "share" in settings:
        kind += f" {settings['share']:.0%}" + (", taught" if "hardness" in settings else "")
    return kind
