"""How fast is the inverse Fisher of second-order pruning, and how large, beside the straightforward way to have it?

    python benchmarks/inverse_fisher.py --grads 20 --max-gib 6

The reference adds up g g^T of every block and inverts each block with `torch.linalg.inv`, one weight tensor after the
other. Gradients are random numbers, except in the whole mask update, where they come from a random BERT. At base size
the reference has one layer of the twelve, and the whole mask update half of the gradients in smaller batches. Every
number is measured on as many weights and gradients as its row says; nothing is extrapolated. `all` goes from the
gradients to the inverse, and `ratio` is that of the recursion over that of the reference: it falls with the number of
gradients, since the reference inverts only once. Each row runs in a process of its own, whose highest memory is the
peak. Prints a Markdown table. Run it on an otherwise idle machine.

`--out benchmarks/records` also writes the record that the README's numbers come from.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from transformers import BertConfig, BertForTokenClassification

from mmalib.prune import fisher, obs, sparsity
from mmalib.records import machine, store
from mmalib.reports import tables

# layers, hidden, feed-forward; rows a gradient in the whole mask update
SIZES = {"smoke": (2, 32, 64, 4), "e5-half": (6, 384, 1536, 16), "base": (12, 768, 3072, 4)}
BLOCK, DAMP, LENGTH = 50, 1e-7, 32


def main(arguments: list[str] | None = None) -> None:
    """Measure row after row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grads", type=int, default=20, help="gradients of each inverse")
    parser.add_argument("--max-gib", type=float, default=6.0)
    parser.add_argument("--sizes", default="e5-half,base")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default=machine.device())
    parser.add_argument("--out", type=Path, help="folder for a record")
    options = parser.parse_args(arguments)
    settings = {name: value for name, value in vars(options).items() if name != "out"} | {"block": BLOCK}
    if options.out:  # refuses a record with other settings, before anything is measured
        store.finished(options.out, "inverse_fisher", settings)
    found = []
    for size in options.sizes.split(","):
        for measure in (recursion, reference, mask_update):
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                found.append(fresh.apply(_measured, (measure, size, settings)))
            print(", ".join(f"{name} {value}" for name, value in found[-1].items()), file=sys.stderr, flush=True)
    table = pd.DataFrame(found)
    rate = table.set_index(["way", "size"])["all, M weights x gradients/s"].astype(float)
    table["ratio"] = [
        f"{rate['recursion', size] / rate['reference', size]:.1f}" if way == "recursion" else None
        for size, way in zip(table["size"], table["way"], strict=True)
    ]
    print(f"{options.device}, {options.threads} threads, blocks of {BLOCK}, max_gib {options.max_gib}\n")
    table = table.astype(object).where(table.notna(), "")
    print(tables.markdown(table))
    if options.out:
        store.save(options.out, "inverse_fisher", settings, scores={}, rows=table.to_dict("records"))


def recursion(size: str, grads: int, max_gib: float, device: str) -> dict:
    """`BlockInverseFisher` over all weights, portion by portion, then saliency and update with half of them gone."""
    sizes, adding, weighing, solving = shapes(size), 0.0, 0.0, 0.0
    for names in obs.portions(sizes, BLOCK, max_gib):
        inverses = {name: fisher.BlockInverseFisher(sizes[name], BLOCK, DAMP, grads, device) for name in names}
        drawn = {name: torch.randn(sizes[name], device=device) * 1e-3 for name in names}
        start = now(device)
        for name in names:
            add_all(inverses[name], drawn[name], grads)
        added = now(device)
        for name in names:
            fisher.saliency(drawn[name], inverses[name])
        weighed = now(device)
        for name in names:
            fisher.update(drawn[name], inverses[name], drawn[name] > 0)
        solving += now(device) - weighed
        weighing += weighed - added
        adding += added - start
        del inverses
    total = sum(sizes.values())
    return rates("recursion", total, grads, adding) | {
        "saliency, M weights/s": f"{total / weighing / 1e6:.2f}",
        "solve, blocks/s": f"{total / BLOCK / solving:,.0f}",
    }


def reference(size: str, grads: int, max_gib: float, device: str) -> dict:
    """g g^T added up for every block, then inverted with `torch.linalg.inv`."""
    sizes, adding, inverting = shapes(size, one_layer=size == "base"), 0.0, 0.0
    for number in sizes.values():
        grad = torch.nn.functional.pad(torch.randn(number, device=device) * 1e-3, (0, -number % BLOCK)).view(-1, BLOCK)
        start = now(device)
        full = summed(grad, grads)
        added = now(device)
        torch.linalg.inv(full)
        inverting += now(device) - added
        adding += added - start
    return rates("reference", sum(sizes.values()), grads, adding, inverting)


def mask_update(size: str, grads: int, max_gib: float, device: str) -> dict:
    """Scores, choice and update that take half of the weights from a random BERT, gradients included."""
    layers, hidden, wide, rows = SIZES[size]
    grads = max(1, grads // 2) if size == "base" else grads
    config = BertConfig(
        vocab_size=1000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        intermediate_size=wide,
        num_labels=9,
    )
    torch.manual_seed(0)
    model = BertForTokenClassification(config).to(device)
    data = [
        {
            "input_ids": torch.randint(1, 1000, (LENGTH,)).tolist(),
            "attention_mask": [1] * LENGTH,
            "labels": torch.randint(9, (LENGTH,)).tolist(),
        }
        for _ in range(grads * rows)
    ]
    criterion = obs.criterion(
        data, SimpleNamespace(pad_token_id=0), num_grads=grads, batch_size=rows, max_gib=max_gib, block_size=BLOCK
    )
    start = now(device)
    sparsity.one_shot_(model, criterion, 0.5)
    seconds = now(device) - start
    return {
        "way": f"whole mask update, {rows} rows of {LENGTH} subwords a gradient",
        "weights": f"{sum(shapes(size).values()):,}",
        "gradients": grads,
        "portions": str(len(obs.portions(shapes(size), BLOCK, max_gib))),
        "seconds": f"{seconds:.1f}",
    }


def shapes(size: str, one_layer: bool = False) -> dict[str, int]:
    """How many weights each linear map of the encoder has."""
    layers, hidden, wide, _ = SIZES[size]
    parts = {"query": hidden, "key": hidden, "value": hidden, "mix": hidden, "widen": wide, "narrow": wide}
    return {
        f"{layer}.{part}": hidden * width
        for layer in range(1 if one_layer else layers)
        for part, width in parts.items()
    }


def add_all(inverse: fisher.BlockInverseFisher, grad: torch.Tensor, grads: int) -> None:
    """`grads` gradients, all taken in: each the one before, rolled on by one weight."""
    for _ in range(grads):
        grad = grad.roll(1)
        inverse.add(grad)
    next(inverse.chunks())  # takes in what waits


def summed(grad: torch.Tensor, grads: int) -> torch.Tensor:
    """The Fisher of the same gradients, [blocks, B, B]."""
    full = torch.eye(BLOCK, device=grad.device, dtype=grad.dtype).mul(DAMP).repeat(len(grad), 1, 1)
    for _ in range(grads):
        grad = grad.flatten().roll(1).view_as(grad)
        full.baddbmm_(grad.unsqueeze(2), grad.unsqueeze(1), alpha=1 / grads)
    return full


def rates(way: str, weights: int, grads: int, adding: float, inverting: float = 0.0) -> dict:
    """One row of the table."""
    return {
        "way": way,
        "weights": f"{weights:,}",
        "gradients": grads,
        "seconds": f"{adding + inverting:.1f}",
        "add, M weights x gradients/s": f"{weights * grads / adding / 1e6:.2f}",
        "inv, blocks/s": f"{weights / BLOCK / inverting:,.0f}" if inverting else None,
        "all, M weights x gradients/s": f"{weights * grads / (adding + inverting) / 1e6:.2f}",
    }


def now(device: str) -> float:
    """The time in seconds, when all that was asked of the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def _measured(measure, size: str, options: dict) -> dict:
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    device = options["device"]
    row = {"size": size} | measure(size, options["grads"], options["max_gib"], device)
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return row | {"peak GiB": f"{peak / 2**30:.2f}"}


if __name__ == "__main__":
    main()
