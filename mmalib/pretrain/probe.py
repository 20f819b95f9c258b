"""What a backbone knows before any fine-tuning: sentence retrieval.

It asks for each line's translation among all lines of the other side, by the cosine of mean-pooled last hidden states
and nothing else: no centring, no margin.
"""

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmalib.model.backbones import evaluating
from mmalib.pretrain.text import Pairs

ROWS = 64  # lines in a batch


def retrieval(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> float:
    """Share of first lines whose nearest second line, by cosine, is their own translation (chance is 1 / lines)."""
    if not pairs.lines:
        raise ValueError(f"No aligned lines of {pairs.first} and {pairs.second} to retrieve from.")
    with evaluating(model), torch.inference_mode():
        sides = (_pooled(model, tokenizer, list(side)) for side in zip(*pairs.lines, strict=True))
        first, second = (nn.functional.normalize(side, dim=1) for side in sides)
        nearest = (first @ second.T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean().item()


def _pooled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> torch.Tensor:
    """Mean last hidden state over the real tokens of each line, [lines, width]."""
    places = model.config.max_position_embeddings
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))  # alike lengths share a batch: little padding
    pooled = torch.zeros(len(lines), model.config.hidden_size, device=model.device)
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        inputs = tokenizer(
            [lines[i] for i in batch],
            padding=True,
            truncation=True,
            max_length=min(tokenizer.model_max_length, places),
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(model.device)
        real = 1 - inputs.pop("special_tokens_mask")  # padding counts as special
        states = model.base_model(**inputs).last_hidden_state.float()
        real = real[:, :, None].to(states)
        pooled[batch] = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return pooled
