"""What the runs of all notebooks took, from records, for whoever plans a study."""

import pandas as pd


def table(records: list[dict]) -> pd.DataFrame:
    """Median minutes that runs took by their records, by notebook and kind, all sittings together.

    What a run starts from is a run of its own.
    """
    rows = [
        {"notebook": settings["notebook"], "kind": _kind(settings)}
        | {"minutes": sum(timings.values()) / 60, "cores": record["machine"]["cores"]}
        for record in records
        if (settings := record["settings"]).get("notebook") and (timings := record.get("timings"))
    ]
    if not rows:
        return pd.DataFrame()
    grouped = pd.DataFrame(rows).groupby(["notebook", "kind"])
    costs = grouped.agg(runs=("minutes", "size"), minutes=("minutes", "median"), cores=("cores", set)).reset_index()
    costs["cores"] = [", ".join(map(str, sorted(cores))) for cores in costs["cores"]]
    return costs.assign(minutes=costs["minutes"].map("{:.1f}".format))


def _kind(settings: dict) -> str:
    """What tells one long run from another within a notebook."""
    if settings["notebook"] == "08":
        return settings["kind"]
    kind = settings[next(name for name in ("setting", "graph", "combination", "method") if name in settings)]
    if settings["notebook"] == "03" and "share" in settings:
        kind += f" {settings['share']:.0%}" + (", taught" if "hardness" in settings else "")
    return kind
