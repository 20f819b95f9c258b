"""PyTorch → ONNX: one folder that a runtime and the tokenizer file can serve, without torch or transformers.

    model.onnx       input_ids and attention_mask, int64 [batch, length] → logits [batch, length, labels]
    config.json, tokenizer.json, ...   as Optimum lays them out
    mmalib.json      where the model comes from, and what was checked: parity with PyTorch, share of zeros

The graph is checked before the folder appears: its logits against PyTorch's on several batches and lengths with
padding. How the graph is made is in `trace`.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.data.subwords import Run, tagged
from mmalib.graph.trace import OPSET, trace
from mmalib.model.backbones import linears
from mmalib.model.cache import complete_folder
from mmalib.model.disk import size_mb, tell, tokenizer_in
from mmalib.records import clock, machine
from mmalib.runtimes import GRAPH

CARD = "README.md"  # written by `card`, once the model is scored
TOLERANCE = 1e-3  # largest |difference| of a logit from PyTorch's; float32 usually stays below 1e-5


@clock.phase("export")
def export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, provenance: dict | None = None
) -> dict:
    """Write the folder (complete or not at all) and return what its mmalib.json says."""
    if wrong := next((name for name, linear in linears(model).items() if type(linear) is not nn.Linear), None):
        raise ValueError(f"{wrong} is no plain linear map. Make the model plain again (qat.remove_), then export it.")
    # The Trainer leaves mixed precision on in the live model, and the attention is changed below: work on a copy.
    plain = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False).cpu().float().eval()
    plain.set_attn_implementation("eager")
    with complete_folder(folder) as fresh:
        zeros, total = trace(plain, fresh / GRAPH)
        parity = _parity(plain, session(fresh))
        plain.config.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        about = (provenance or {}) | {"parity": parity, "sparsity": zeros / total, "encoder_weights": total}
        about |= {"megabytes": size_mb(fresh, GRAPH), "opset": OPSET}
        about |= {"commit": machine.commit(), "versions": machine.versions()}
        tell(fresh, about)
    return about


def session(folder: Path, threads: int | None = None) -> Run:
    """The exported model in ONNX Runtime on the CPU, on as many threads as a run has unless told."""
    return runtimes.load(folder, threads or machine.threads())


def tagger(folder: Path, max_length: int) -> Callable[[Sequence[list[str]]], list[list[str]]]:
    """What tags sentences by a folder's graph in ONNX Runtime and the tokenizer beside it."""
    return partial(tagged, session(folder), tokenizer_in(folder), max_length=max_length)


@torch.inference_mode()
def _parity(model: PreTrainedModel, run: Run) -> dict:
    """The largest difference of a logit from PyTorch's over batches of random subwords, the later rows shorter."""
    draw = torch.Generator().manual_seed(0)
    pad = model.config.pad_token_id or 0
    longest = min(model.config.max_position_embeddings - pad - 1, 128)  # XLM-R counts positions from pad + 1
    shapes = [(rows, min(length, longest)) for rows, length in ((1, 1), (1, 33), (3, 16), (4, 128))]
    differences = []
    for rows, length in shapes:
        ids = torch.randint(pad + 1, model.config.vocab_size, (rows, length), generator=draw)
        real = torch.arange(length) < (length * (rows - torch.arange(rows)[:, None])) // rows
        real[:, 0] = True
        ids[~real] = pad
        theirs = model(input_ids=ids, attention_mask=real.long()).logits
        ours = torch.from_numpy(run(ids.numpy(), real.long().numpy()))
        differences.append((ours - theirs)[real].abs().max())
    worst = float(torch.stack(differences).max())  # nan, if one is
    if not worst <= TOLERANCE:
        raise ValueError(f"The exported graph's logits differ from PyTorch's by {worst:.2g}, over {TOLERANCE}.")
    return {"max_abs_difference": worst, "tolerance": TOLERANCE, "shapes": [list(shape) for shape in shapes]}
