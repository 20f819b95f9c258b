"""What a callback must remember for a run to go on, beside the Trainer's own checkpoint of the same step.

It is put there at the end of an epoch, before the Trainer writes that checkpoint: none is without what belongs to it.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mmalib.records import store


def put(kind: str, args, step: int, held: dict[str, torch.Tensor]) -> None:
    """Put away what belongs to the checkpoint of this step."""
    write(path_of(kind, args, step), held)


def path_of(kind: str, args, step: int) -> Path:
    """Where it lies."""
    return Path(args.output_dir) / f"{kind}-{step}.safetensors"


def get(kind: str, args, step: int, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """What belongs to the checkpoint of this step."""
    path = path_of(kind, args, step)
    if not path.exists():
        raise ValueError(f"{path} is not there, so that this run cannot go on. Remove its folder and start again.")
    return load_file(path, device=str(device))


def sweep(folder: Path) -> None:
    """Remove what belongs to checkpoints that are gone."""
    for path in folder.glob("*-*.safetensors"):
        if not path.with_name(f"checkpoint-{path.stem.split('-')[1]}").exists():
            path.unlink()


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a file that is complete or not there."""
    with store.replacing(path) as fresh:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata)
