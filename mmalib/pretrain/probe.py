"""What a pretrained backbone knows before any fine-tuning: held-out perplexity, sentence retrieval, their figures.

Perplexity is over whole words hidden behind masks, the same masks for every model of one vocabulary. Retrieval asks
for each line's translation among all lines of the other side, by the cosine of mean-pooled hidden states of one
layer and nothing else: no centring, no margin.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from transformers import BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from mmalib.figures import COLOURS, STYLE
from mmalib.pretrain.batches import Material, mask
from mmalib.pretrain.text import MASK, Pairs, Tokens
from mmalib.pretrain.train import masked_logits

ROWS = 64  # lines in a batch; not a parameter, because the masks are drawn batch by batch
SPECIAL_PLACES = 2  # [CLS] and [SEP]


def perplexity(
    model: BertForMaskedLM,
    held_out: dict[str, Tokens],
    material: Material,
    *,
    seed: int = 0,
    mask_rate: float = 0.15,
) -> dict[str, float]:
    """Perplexity of masked words by language, on lines that the model was not trained on.

    Of `material` only the vocabulary is used: `Material(vocabulary, {}, [], {})` will do. Every chosen word is shown
    as masks (training shows some as they are, which would flatter the model).
    """
    with _evaluating(model):
        return {
            language: float(np.exp(_masked_losses(model, tokens, material, seed, mask_rate).mean()))
            for language, tokens in held_out.items()
        }


def _masked_losses(
    model: BertForMaskedLM, tokens: Tokens, material: Material, seed: int, mask_rate: float
) -> np.ndarray:
    """Cross-entropy at every masked place, float64."""
    longest = model.config.max_position_embeddings - SPECIAL_PLACES
    order = np.argsort(np.diff(tokens.offsets), kind="stable")
    losses = [np.zeros(0)]
    for start in range(0, len(order), ROWS):
        rows = [("", [tokens[i][:longest]]) for i in order[start : start + ROWS]]
        batch = mask(material, rows, np.random.default_rng([seed, start]), mask_rate=mask_rate)
        hidden = batch["labels"] >= 0
        batch["input_ids"][hidden] = MASK
        if hidden.any():
            batch = {k: v.to(model.device) for k, v in batch.items()}
            logits, _ = masked_logits(model, batch)
            gold = batch["labels"][batch["labels"] >= 0]
            losses.append(nn.functional.cross_entropy(logits.double(), gold, reduction="none").cpu().numpy())
    losses = np.concatenate(losses)
    if not len(losses):
        raise ValueError("No word was masked for perplexity: give more held-out lines or a higher mask_rate.")
    return losses


def retrieval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, layer: int | None = None
) -> float:
    """Share of first lines whose nearest second line, by cosine, is their own translation (chance is 1 / lines).

    Layer 0 is the embedding, `num_hidden_layers` the last one; the default is the middle.
    """
    layers = model.config.num_hidden_layers
    layer = layers // 2 if layer is None else layer
    if not 0 <= layer <= layers:
        raise ValueError(f"Layer {layer} does not exist: choose one from 0 (embedding) to {layers} (last).")
    if not pairs.lines:
        raise ValueError(f"No aligned lines of {pairs.first} and {pairs.second} to retrieve from.")
    with _evaluating(model):
        first, second = (
            nn.functional.normalize(_pooled(model, tokenizer, list(side), layer), dim=1)
            for side in zip(*pairs.lines, strict=True)
        )
        nearest = (first @ second.T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean().item()


def _pooled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: list[str], layer: int) -> torch.Tensor:
    """Mean hidden state of one layer over the real tokens of each line, [lines, width]."""
    places = model.config.max_position_embeddings
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))  # alike lengths share a batch: little padding
    pooled = torch.zeros(len(lines), model.config.hidden_size, device=model.device)
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        inputs = tokenizer(
            [lines[i] for i in some],
            padding=True,
            truncation=True,
            max_length=min(tokenizer.model_max_length, places),
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(model.device)
        real = 1 - inputs.pop("special_tokens_mask")  # padding counts as special
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states[layer].float()
        real = real[:, :, None].to(states)
        pooled[some] = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return pooled


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside, the model's mode as it was outside."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def learning_curve_figure(logs: dict[str, list[dict]]) -> Figure:
    """Training loss over steps, one named line a run, from the logs that `train` returns."""
    with matplotlib.style.context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        ends = {}
        for name, log in logs.items():
            (line,) = axes.plot([entry["step"] for entry in log], [entry["loss"] for entry in log])
            if log:
                ends[name] = (log[-1]["step"], log[-1]["loss"], line.get_color())
        axes.set_ylim(bottom=0)
        gap = 0.07 * axes.get_ylim()[1]  # one line of text
        heights = _apart({name: end[1] for name, end in ends.items()}, gap)
        for name, (step, _, colour) in ends.items():
            axes.annotate(
                name,
                (step, heights[name]),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=7,
                annotation_clip=False,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
    return figure


def retrieval_figure(accuracy: dict[str, dict[str, float]], lines: int) -> Figure:
    """Retrieval accuracy, a row each backbone and a dot each direction: {"mini": {"en→es": 0.9}}; chance dashed."""
    directions = list(dict.fromkeys(d for scores in accuracy.values() for d in scores))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(3.4, 0.7 + 0.5 * len(accuracy)))
        axes = figure.subplots()
        for number, direction in enumerate(directions):
            colour = COLOURS[direction[-2:]]  # of the language that is searched
            for row, (name, scores) in enumerate(accuracy.items()):
                if direction not in scores:
                    continue
                # a lane for each direction: equal scores do not hide one another
                height = row + 0.32 * (number - (len(directions) - 1) / 2)
                axes.plot(scores[direction], height, "o", color=colour, gid=f"{name} {direction}")
                axes.annotate(
                    f"{direction} {scores[direction]:.2f}",
                    (scores[direction], height),
                    xytext=(4 if scores[direction] < 0.7 else -4, 0),
                    textcoords="offset points",
                    ha="left" if scores[direction] < 0.7 else "right",
                    va="center",
                    color=colour,
                    fontsize=7,
                )
        axes.axvline(1 / lines, color="0.4", linestyle="--", linewidth=0.8)
        axes.set_yticks(range(len(accuracy)), list(accuracy))
        axes.set_ylim(len(accuracy) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"found among {lines:,} lines (dashed: chance)")
    return figure


def _apart(heights: dict[str, float], gap: float) -> dict[str, float]:
    """The same heights, pushed upwards where two labels would overlap."""
    moved: dict[str, float] = {}
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        moved[name] = max(height, max(moved.values(), default=-np.inf) + gap)
    return moved
