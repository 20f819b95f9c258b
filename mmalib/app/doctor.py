"""The `doctor` command: what this machine can run, for a human."""

import os
import shutil
from pathlib import Path

import torch

import mmalib
from mmalib.records import machine
from mmalib.reports import backbones


def lines() -> list[str]:
    """What this machine can run, in about ten lines for a human."""
    about, (version, reason) = machine.describe(), machine.deepsparse()
    runtimes = [f"{package} {machine.version(package) or 'not installed'}" for package in ("onnxruntime", "openvino")]
    runtimes += [f"deepsparse not available: {reason}" if reason else f"deepsparse {version}"]
    told = {
        "mmalib": f"{mmalib.__version__}, commit {machine.commit() or 'unknown'}",
        "Python": f"{about['python']} on {about['platform']}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "GPU": about["gpu"] or "none",
        "CPU": f"{about['cpu']}, {about['cores']} cores",
        "CPU flags": ", ".join(flag for flag in machine.FLAGS if about["flags"][flag]) or "none known",
        "Memory": "unknown" if about["ram_gib"] is None else f"{about['ram_gib']} GiB",
        "Runtimes": ", ".join(runtimes),
        "Data": _data(os.environ.get("MMALIB_DATA") or "sample"),
        "Backbones": _backbones(),
        "Free disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB for runs/ in this folder",
    }
    return [f"{name:<11}{value}" for name, value in told.items()]


def _data(source: str) -> str:
    if source in ("sample", "hub"):
        return "CoNLL from the hub" if source == "hub" else "generated sample (MMALIB_DATA names a folder with CoNLL)"
    from mmalib.data import corpus  # brings in the datasets library: only where it is needed

    try:
        corpus.layout(Path(source).expanduser())
    except ValueError as error:
        return str(error)
    return f"{source}: CoNLL, all files"


def _backbones() -> str:
    each = []
    for name, report in backbones.read(machine.WEIGHTS).items():
        directions = ", ".join(f"{direction} {share:.2f}" for direction, share in report["retrieval"].items())
        each.append(f"{name} {report['parameters'] / 1e6:.1f}M weights, {report['megabytes']:.1f} MB ({directions})")
    return f"{', '.join(each)}; in brackets how often a translation is found" if each else "none shipped"
