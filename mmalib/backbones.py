"""Short name → model and tokenizer; words → windows of subwords; logits → one tag for every word.

The first subword of a word carries its label, the others -100. A sentence that is longer than the window is cut into
overlapping windows in which every word is labelled, and scored, exactly once: where it has the most context.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mmalib.corpus import LABELS
from mmalib.machine import WEIGHTS

SHIPPED = ("mini", "mini-distil", "mini-narrow")
HUB = {
    "xlm": "FacebookAI/xlm-roberta-base",
    "mlbert": "google-bert/bert-base-multilingual-cased",
    "distilbert": "distilbert/distilbert-base-multilingual-cased",
    "minilm": "microsoft/Multilingual-MiniLM-L12-H384",
}
# Multilingual-MiniLM ships without a fast tokenizer; its vocabulary is XLM-R's (its model card says so).
TOKENIZERS = {"minilm": HUB["xlm"]}
IGNORED = -100  # the label of what is not scored, as torch's cross-entropy has it


@dataclass(frozen=True)
class Window:
    """A stretch of one sentence that fits the model: its subwords, and the words that are scored in it."""

    sentence: int
    ids: list[int]  # with the special tokens at both ends
    scored: list[tuple[int, int]]  # (position in ids, number of the word in its sentence)


class Parts(NamedTuple):
    """The six linear maps of one transformer layer, under one name each for every architecture."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    mix: nn.Linear  # takes the heads' outputs together
    widen: nn.Linear  # the feed-forward pair
    narrow: nn.Linear


def locate(name: str) -> str:
    """Where a backbone comes from: a shipped folder, a model id of the hub, or a local folder."""
    if name in SHIPPED:
        folder = WEIGHTS / name
        if not (folder / "config.json").is_file():
            raise ValueError(f"The backbone '{name}' should be in {folder} and is not. Reinstall the package.")
        return str(folder)
    if name in HUB:
        return HUB[name]
    if (Path(name) / "config.json").is_file():
        return str(name)
    known = ", ".join([*SHIPPED, *HUB])
    raise ValueError(f"'{name}' is neither a backbone ({known}) nor a folder with a config.json.")


def fingerprint(name: str) -> str | None:
    """Tells one set of weights from another under the same name; None for the hub's, which are named by their id."""
    weights = Path(locate(name)) / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else None


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a backbone."""
    return _loaded(AutoTokenizer, TOKENIZERS.get(name) or locate(name), name)


def load_model(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A backbone with a head for the study's labels (drawn from `seed` where it brings none), in float32."""
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # the report on missing weights is read here, not by the user
    logging.disable_progress_bar()
    model, report = _loaded(
        AutoModelForTokenClassification,
        locate(name),
        name,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    if lost := sorted(key for key in report["missing_keys"] if not key.startswith("classifier.")):
        raise ValueError(f"The weights of '{name}' lack {len(lost)} tensors, {lost[0]} first. Fetch them again.")
    return model


def _loaded(kind: type, source: str, name: str, **settings):
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **settings)
    except (OSError, ValueError) as error:
        where = "fetched from the hub" if name in HUB else "loaded"
        raise ValueError(
            f"The backbone '{name}' ({source}) could not be {where}: {str(error).splitlines()[0]} "
            "Give a local folder in its place, or use --profile quick, which needs nothing from outside."
        ) from error


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a BERT, XLM-RoBERTa or DistilBERT, with or without a head."""
    base = model.base_model
    return base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer


def parts(layer: nn.Module) -> Parts:
    """The linear maps of one layer of a BERT, XLM-RoBERTa or DistilBERT."""
    attention = layer.attention
    if hasattr(attention, "q_lin"):  # DistilBERT
        ffn = layer.ffn
        return Parts(attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, ffn.lin1, ffn.lin2)
    own, after = attention.self, attention.output.dense
    return Parts(own.query, own.key, own.value, after, layer.intermediate.dense, layer.output.dense)


def freeze_(model: PreTrainedModel, lower: int | None) -> None:
    """Keep the embeddings and the `lower` first layers as they are in training; None freezes nothing."""
    if lower is None:
        return
    for module in [model.base_model.embeddings, *layers(model)[:lower]]:
        module.requires_grad_(False)


def windows(sentences: Sequence[list[str]], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Window]:
    """Sentences (lists of words) cut into windows of at most `max_length` subwords, special tokens included."""
    room = max_length - 2
    if room < 1:
        raise ValueError(f"max_length is {max_length}: two special tokens and a subword need at least 3.")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    found: list[Window] = []
    encoded = backend.encode_batch([list(words) for words in sentences], is_pretokenized=True, add_special_tokens=False)
    for number, (words, encoding) in enumerate(zip(sentences, encoded, strict=True)):
        pieces: list[list[int]] = [[] for _ in words]
        for token, word in zip(encoding.ids, encoding.word_ids, strict=True):
            pieces[word].append(token)
        # A word of nothing the tokenizer knows (a lone soft hyphen, say) still gets a tag. One word that is longer
        # than the whole window keeps its beginning, which is what is scored.
        pieces = [word[:room] or [tokenizer.unk_token_id] for word in pieces]
        for start, end, first, last in _cuts([len(word) for word in pieces], room):
            ids, scored = [tokenizer.cls_token_id], []
            for word in range(start, end):
                if first <= word < last:
                    scored.append((len(ids), word))
                ids += pieces[word]
            found.append(Window(number, [*ids, tokenizer.sep_token_id], scored))
    return found


def _cuts(lengths: list[int], room: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows over words of these lengths, as (start, end, first scored, after the last scored)."""
    start, first = 0, 0
    while first < len(lengths):
        end, used = start, 0
        while end < len(lengths) and used + lengths[end] <= room:
            used += lengths[end]
            end += 1
        if end == len(lengths):
            yield start, end, first, end
            return
        # The next window begins a quarter of the room before this one ends (less where the next word needs the
        # room, or the window would not get past it); the two share the scoring of the overlap half-way.
        following, shared, most = end, 0, min(room // 4, room - lengths[end])
        while following - 1 > start and shared + lengths[following - 1] <= most:
            following -= 1
            shared += lengths[following]
        last = max((following + end + 1) // 2, first + 1)
        yield start, end, first, last
        start, first = following, last


def training_rows(
    sentences: Sequence[list[str]],
    tags: Sequence[list[str]],
    tokenizer: PreTrainedTokenizerFast,
    label2id: dict[str, int],
    max_length: int,
) -> list[dict[str, list[int]]]:
    """Windows as `input_ids`, `attention_mask` and `labels`, for the Trainer."""
    rows = []
    for window in windows(sentences, tokenizer, max_length):
        labels = [IGNORED] * len(window.ids)
        for position, word in window.scored:
            labels[position] = label2id[tags[window.sentence][word]]
        rows.append({"input_ids": window.ids, "attention_mask": [1] * len(window.ids), "labels": labels})
    return rows


def batches(rows: Sequence[dict], tokenizer: PreTrainedTokenizerFast, size: int) -> list[dict[str, torch.Tensor]]:
    """Training rows in their order, `size` at once, padded to the longest of each batch."""
    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
    found = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        width = max(len(row["input_ids"]) for row in some)
        found.append(
            {
                name: torch.tensor([row[name] + [blank] * (width - len(row[name])) for row in some])
                for name, blank in fill.items()
            }
        )
    return found


@torch.inference_mode()
def predict_tags(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    *,
    max_length: int,
    batch_tokens: int = 4096,
) -> list[list[str]]:
    """One tag for every word of every sentence; windows of about one length are run together."""
    model.eval()
    tags = [[""] * len(words) for words in sentences]
    for batch in by_length(windows(sentences, tokenizer, max_length), batch_tokens):
        width = len(batch[0].ids)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(batch):
            ids[row, : len(window.ids)] = torch.tensor(window.ids)
            mask[row, : len(window.ids)] = 1
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        best = logits.argmax(-1).tolist()  # [windows, subwords]
        for row, window in zip(best, batch, strict=True):
            for position, word in window.scored:
                tags[window.sentence][word] = model.config.id2label[row[position]]
    return tags


def by_length(found: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows from long to short, as many at once as keep the padded batch under `batch_tokens`."""
    ordered = sorted(found, key=lambda window: -len(window.ids))
    while ordered:
        number = max(1, batch_tokens // len(ordered[0].ids))
        yield ordered[:number]
        ordered = ordered[number:]
