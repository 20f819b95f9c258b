"""The pretraining loop: any loss over drawn batches, resumption, a log of losses.

The checkpoint is one safetensors file. Batches and dropout depend on (seed, step) alone, so a run that was killed and
resumed sees what an unbroken run sees.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm

from mmalib.model import beside
from mmalib.model.finetune import rate_at
from mmalib.records import machine

CHECKPOINT = "checkpoint.safetensors"
WARM_UP = 200  # steps, or a tenth of them all if that is less
LOGGED = 50  # steps under one entry of the log


def train(
    model: nn.Module,
    draw: Callable[[int], torch.Tensor],
    folder: Path,
    *,
    steps: int,
    loss: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    learning_rate: float = 5e-4,
    rewinds: Sequence[int] = (),
    seed: int = 0,
    save_every_s: float = 300.0,
    about: dict | None = None,
    after_step: Callable[[int], None] = lambda _: None,
) -> list[dict]:
    """Train in place for a number of steps; returns the log of losses.

    The learning rate falls in a straight line, anew from each of the steps `rewinds`. `after_step` is called with the
    number of steps done, where a run begins or goes on as well, and may change weights: a checkpoint holds what it
    leaves. A run found in `folder` goes on; other settings or another `about` (what the batches are drawn from) are
    refused, but the number of steps may be changed.
    """
    device = next(model.parameters()).device
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    matrices, vectors = ([w for w in named.values() if (w.dim() > 1) == matrix] for matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    settings = {"learning_rate": learning_rate, "seed": seed, **(about or {})}
    state = {"settings": settings, "step": 0, "seconds": 0.0, "window": [], "log": []}  # window: losses not in the log
    if (folder / CHECKPOINT).exists():
        state = _resume_(folder / CHECKPOINT, optimizer, named, settings)
    model.train()
    after_step(state["step"])
    saved_at, began, spent = time.monotonic(), time.monotonic(), state["seconds"]
    for step in tqdm(range(state["step"], steps), initial=state["step"], total=steps, desc=folder.name, mininterval=5):
        torch.manual_seed(seed * 1_000_003 + step)
        batch = draw(step).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=machine.has_bf16()):
            value = loss(model, batch)
        value.backward()
        norm = nn.utils.clip_grad_norm_(named.values(), 1.0)
        if not torch.isfinite(norm):  # also where the loss is not
            raise ValueError(
                f"Pretraining in {folder} diverged at step {step} (loss {value.item():.3g}). Lower the learning rate; "
                "the last checkpoint is untouched."
            )
        for group in optimizer.param_groups:
            shape = {"total": steps, "warm_up": min(WARM_UP, steps // 10), "rewinds": rewinds, "floor": 0.0}
            group["lr"] = learning_rate * rate_at(step, **shape)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(step + 1)
        state |= {"step": step + 1, "seconds": spent + time.monotonic() - began}
        state["window"].append(value.item())
        if (step + 1) % LOGGED == 0 or step + 1 == steps:
            mean = sum(state["window"]) / len(state["window"])
            state["log"].append({"step": step + 1, "loss": round(mean, 4), "seconds": round(state["seconds"])})
            state["window"] = []
        if time.monotonic() - saved_at > save_every_s or step + 1 == steps:
            _save(folder / CHECKPOINT, optimizer, named, state)
            saved_at = time.monotonic()
    return state["log"]


def _save(path: Path, optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], state: dict) -> None:
    tensors = {f"weight.{name}": weight.detach() for name, weight in named.items()}
    for name, weight in named.items():
        for key, value in optimizer.state.get(weight, {}).items():  # empty where no gradient ever arrived
            tensors[f"{key}.{name}"] = value
    beside.write(path, tensors, {"state": json.dumps(state)})


@torch.no_grad()
def _resume_(path: Path, optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], settings: dict) -> dict:
    """Load the checkpoint into model and optimizer."""
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
    if state["settings"] != settings:
        changes = [k for k in {**state["settings"], **settings} if state["settings"].get(k) != settings.get(k)]
        raise ValueError(f"{path} was made with other settings ({', '.join(changes)}). Use them, or another folder.")
    for name, weight in named.items():
        weight.copy_(tensors[f"weight.{name}"])
        if f"step.{name}" in tensors:
            moments = {key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")}
            optimizer.state[weight] = {key: value.to(weight.device) for key, value in moments.items()}
    return state
