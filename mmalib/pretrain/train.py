"""The pretraining loop: any loss over drawn batches, checkpoints, resumption, a log of losses.

Checkpoints are safetensors and JSON only. Batches and dropout depend on (seed, step) alone, so a run that was
killed and resumed sees what an unbroken run sees.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm


def train(
    model: nn.Module,
    draw: Callable[[int], torch.Tensor],
    folder: Path,
    *,
    steps: int,
    loss: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    learning_rate: float = 5e-4,
    warm_up: int = 200,
    weight_decay: float = 0.01,
    seed: int = 0,
    save_every_s: float = 300.0,
    about: dict | None = None,
    rate: Callable[[int], float] | None = None,
    after_step: Callable[[int], None] = lambda _: None,
) -> list[dict]:
    """Train in place for a number of steps; returns the log of losses.

    The learning rate is multiplied by `rate(step)`, or falls in a straight line. `after_step` is called with the number
    of steps done, where a run begins or goes on as well, and may change weights: a checkpoint holds what it leaves.
    A run found in `folder` goes on; other settings or another `about` (what the batches are drawn from) are refused,
    but the number of steps may be changed.
    """
    device = next(model.parameters()).device
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices, vectors = [p for _, p in named if p.dim() > 1], [p for _, p in named if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    settings = {"learning_rate": learning_rate, "weight_decay": weight_decay, "seed": seed, **(about or {})}
    fresh = {"settings": settings, "step": 0, "seconds": 0.0, "window": [], "log": []}  # window: losses not in the log
    state = _resume_(folder, optimizer, named, settings) or fresh
    model.train()
    after_step(state["step"])
    saved_at, began, spent = time.monotonic(), time.monotonic(), state["seconds"]
    bar = tqdm(total=steps, initial=state["step"], desc=folder.name, mininterval=5)
    while state["step"] < steps:
        step = state["step"]
        torch.manual_seed(seed * 1_000_003 + step)
        batch = draw(step).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = loss(model, batch)
        value.backward()
        norm = nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        if not torch.isfinite(norm):  # also where the loss is not
            raise ValueError(
                f"Pretraining in {folder} diverged at step {step} (loss {value.item():.3g}). Lower the learning rate; "
                "the last checkpoint is untouched."
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (rate(step) if rate else _schedule(step, steps, warm_up))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(step + 1)
        state["window"].append(value.item())
        state["step"], state["seconds"] = step + 1, spent + time.monotonic() - began
        bar.update()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            mean = sum(state["window"]) / len(state["window"])
            state["log"].append({"step": step + 1, "loss": round(mean, 4), "seconds": round(state["seconds"])})
            state["window"] = []
            bar.set_postfix(loss=f"{mean:.3f}")
        if time.monotonic() - saved_at > save_every_s or step + 1 == steps:
            _save(folder, optimizer, named, state)
            saved_at = time.monotonic()
    bar.close()
    return state["log"]


def _schedule(step: int, total: int, warm_up: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    warm_up = max(1, min(warm_up, total // 10))
    return min(1.0, (step + 1) / warm_up, (total - step) / max(1, total - warm_up))


def _save(folder: Path, optimizer: torch.optim.Optimizer, named: list, state: dict) -> None:
    """Write the checkpoint beside the old one, then swap folders."""
    fresh, current, old = folder / "checkpoint.new", folder / "checkpoint", folder / "checkpoint.old"
    shutil.rmtree(fresh, ignore_errors=True)  # not `old`: after a kill during a swap it is all there is
    fresh.mkdir(parents=True)
    tensors = {f"weight.{n}": p.detach() for n, p in named}
    for name, parameter in named:
        for key, value in optimizer.state.get(parameter, {}).items():  # empty where no gradient ever arrived
            tensors[f"{key}.{name}"] = value
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, fresh / "state.safetensors")
    (fresh / "state.json").write_text(json.dumps(state))
    if current.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(current, old)
    os.replace(fresh, current)
    shutil.rmtree(old, ignore_errors=True)


def _resume_(folder: Path, optimizer: torch.optim.Optimizer, named: list, settings: dict) -> dict | None:
    """Load the last complete checkpoint into model and optimizer; None where there is none."""
    checkpoint = next(
        (folder / n for n in ("checkpoint", "checkpoint.old") if (folder / n / "state.json").exists()), None
    )
    if checkpoint is None:
        return None
    state = json.loads((checkpoint / "state.json").read_text())
    if state["settings"] != settings:
        changes = [k for k in {**state["settings"], **settings} if state["settings"].get(k) != settings.get(k)]
        raise ValueError(
            f"{checkpoint} was made with other settings ({', '.join(changes)}). Use them again, or another work folder."
        )
    tensors = load_file(checkpoint / "state.safetensors")
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(tensors[f"weight.{name}"])
            if f"step.{name}" in tensors:
                optimizer.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq", "step")
                }
    return state
