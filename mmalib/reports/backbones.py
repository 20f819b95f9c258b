"""The shipped backbones, from the reports beside their weights: what they are, what they cost, what they know."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mmalib.records import store
from mmalib.records.machine import WEIGHTS
from mmalib.reports.figures import COLOURS, drawing, label_ends, note, rows_

REPORT = "training.json"  # beside the weights


def read(weights: Path = WEIGHTS) -> dict[str, dict]:
    """The report of every shipped backbone, by name."""
    return {path.parent.name: store.read_json(path) for path in sorted(Path(weights).glob(f"*/{REPORT}"))}


def draw(reports: dict[str, dict]) -> dict[str, pd.DataFrame | Figure]:
    """The tables and figures of these reports, by the names of their files."""
    logs = {name: report["log"] for name, report in reports.items() if report["log"]}
    drawn = {"table_backbones": overview(reports), "table_subwords": coverage(reports), "retrieval": retrieval(reports)}
    return drawn | ({"pretraining": learning_curves(logs)} if logs else {})


def overview(reports: dict[str, dict]) -> pd.DataFrame:
    """One row a backbone: shape, size, cost, and how often it finds a line's translation."""
    return pd.DataFrame(
        {"backbone": name, **{key: report[key] for key in ("layers", "width", "neurons")}}
        | {"million weights": f"{report['parameters'] / 1e6:.1f}"}
        | {"of them in layers": f"{report['layer_parameters'] / 1e6:.1f}"}
        | {"MB in the package": f"{report['megabytes']:.1f}", "made from": report["origin"]}
        | {"minutes": f"{report['seconds'] / 60:.0f}", "million subwords read": f"{report['tokens_seen'] / 1e6:.1f}"}
        | {f"retrieval {direction}": f"{share:.3f}" for direction, share in report["retrieval"].items()}
        for name, report in reports.items()
    )


def coverage(reports: dict[str, dict]) -> pd.DataFrame:
    """What the cut vocabulary costs each language, on lines that no choice was made from."""
    rows = next(report["coverage"] for report in reports.values() if "coverage" in report)
    return pd.DataFrame(
        {"language": row["language"], "subwords covered": f"{row['covered']:.2%}"}
        | {"words cut otherwise": f"{row['changed']:.2%}", "their subwords before": f"{row['before']:.1f}"}
        | {"after": f"{row['after']:.1f}", "unknown in 100,000": f"{row['unknown']:.1f}"}
        for row in rows
    )


def learning_curves(logs: dict[str, list[dict]]) -> Figure:
    """Training loss over steps, one named line a student, from the logs that training leaves."""
    with drawing() as figure:
        axes = figure.subplots()
        ends = []
        for name, log in logs.items():
            (line,) = axes.plot([entry["step"] for entry in log], [entry["loss"] for entry in log])
            ends.append((log[-1]["loss"], name, line.get_color()))
        axes.set(ylim=(0, None), xmargin=0, xlabel="step", ylabel="share of variance missed")
        label_ends(axes, ends)
    return figure


def retrieval(reports: dict[str, dict]) -> Figure:
    """How often a line's translation is found, a row each backbone and a dot each direction; chance dashed."""
    accuracy = {name: report["retrieval"] for name, report in reports.items()}
    lines = min(report["retrieval_lines"] for report in reports.values())
    directions = list(dict.fromkeys(direction for shares in accuracy.values() for direction in shares))
    with drawing(3.4, 0.7 + 0.5 * len(accuracy)) as figure:
        axes = figure.subplots()
        for number, direction in enumerate(directions):
            colour = COLOURS[direction[-2:]]  # of the language that is searched
            for row, (name, shares) in enumerate(accuracy.items()):
                share, height = shares[direction], row + 0.32 * (number - (len(directions) - 1) / 2)
                axes.plot(share, height, "o", color=colour, gid=f"{name} {direction}")
                # the text goes where there is room
                where = {"xytext": (4, 0), "ha": "left"} if share < 0.7 else {"xytext": (-4, 0), "ha": "right"}
                note(axes, f"{direction} {share:.2f}", (share, height), color=colour, **where)
        axes.axvline(1 / lines, color="0.4", linestyle="--", linewidth=0.8)
        rows_(axes, list(accuracy))
        axes.set(xlim=(-0.02, 1.02), xlabel=f"found among {lines:,} lines (dashed: chance)")
    return figure
