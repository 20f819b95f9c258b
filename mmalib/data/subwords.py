"""Words → windows of subwords → a row of logits, or one tag, for every word.

The first subword of a word carries its label, the others -100. A sentence that is longer than the window is cut into
overlapping windows in which every word is labelled, and scored, exactly once: where it has the most context.
Sentences are encoded once; whoever trains, asks a teacher, measures or predicts gets them as `Encoded`.
Whatever computes logits from subwords is a `Run`: a model in PyTorch (`run_of`), an exported graph in any runtime.

Who only uses a model imports this too, so PyTorch and Transformers are imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmalib.data import LABELS

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BATCH_TOKENS = 1024  # padding included, in one call of a model: in larger ones a small set is mostly padding
IGNORED = -100  # the label of what is not scored, as torch's cross-entropy has it
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (input_ids, attention_mask) → logits


@dataclass(frozen=True)
class Window:
    """A stretch of one sentence that fits the model: its subwords, and the words that are scored in it."""

    sentence: int
    ids: list[int]  # with the special tokens at both ends
    scored: list[tuple[int, int]]  # (position in ids, number of the word in its sentence)
    stop: int  # the position after the last scored word's last subword


@dataclass(frozen=True)
class Encoded:
    """Sentences as a model reads them, and their gold tags: None where there are none."""

    words: Sequence[list[str]]
    tags: Sequence[list[str] | None]
    windows: list[Window]
    tokenizer: PreTrainedTokenizerFast
    # what training chooses a checkpoint by, from the words' logits; None: entity F1
    measure: Callable[[list[np.ndarray]], float] | None = None


def encode(
    words: Sequence[list[str]],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    tags: Sequence[list[str] | None] | None = None,
) -> Encoded:
    """Sentences (lists of words) in windows of at most `max_length` subwords, special tokens included."""
    words, tags = list(words), [None] * len(words) if tags is None else list(tags)  # columns are slow to reach into
    if len(words) != len(tags):
        raise ValueError(f"There are {len(words)} sentences and {len(tags)} lists of tags. Give None for no tags.")
    return Encoded(words, tags, read(words, tokenizer, max_length)[-1], tokenizer)


def encode_split(split: Mapping[str, Sequence], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Encoded:
    """A split of a corpus, encoded with its tags."""
    return encode(split["words"], tokenizer, max_length, split["tags"])


def joined(one: Encoded, other: Encoded) -> Encoded:
    """The sentences of both, which one tokenizer has encoded, those of the first in front."""
    later = [replace(window, sentence=len(one.words) + window.sentence) for window in other.windows]
    return Encoded([*one.words, *other.words], [*one.tags, *other.tags], [*one.windows, *later], one.tokenizer)


def read(
    sentences: Sequence[list[str]], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> tuple[list[Encoding], list[list[list[int | None]]], list[Window]]:
    """Sentences as the tokenizer's library encodes them, the places of every word's subwords there, and the windows.

    A word of nothing that the tokenizer knows has one subword at no place, None: it still gets a tag. A word that is
    longer than the whole window keeps its beginning, which is what is scored.
    """
    if (room := max_length - 2) < 1:
        raise ValueError(f"max_length is {max_length}: two special tokens and a subword need at least 3.")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    words = [list(sentence) for sentence in sentences]
    encodings = backend.encode_batch(words, is_pretokenized=True, add_special_tokens=False)
    places, windows = [], []
    for number, encoding in enumerate(encodings):
        of_words, known = ([[] for _ in words[number]] for _ in range(2))
        for place, (word, subword) in enumerate(zip(encoding.word_ids, encoding.ids, strict=True)):
            of_words[word].append(place)
            known[word].append(subword)
        places.append([own[:room] or [None] for own in of_words])
        windows += _windows(number, [own[:room] or [tokenizer.unk_token_id] for own in known], tokenizer, room)
    return encodings, places, windows


def _windows(number: int, words: list[list[int]], tokenizer: PreTrainedTokenizerFast, room: int) -> Iterator[Window]:
    """The windows of the sentence of this number, whose words have these subwords."""
    for start, end, first, last in _cuts([len(word) for word in words], room):
        ids, begins = [tokenizer.cls_token_id], []
        for word in words[start:end]:
            begins.append(len(ids))
            ids += word
        scored = list(zip(begins, range(start, end), strict=True))[first - start : last - start]
        stop = begins[last - start] if last < end else len(ids)
        yield Window(number, [*ids, tokenizer.sep_token_id], scored, stop)


def _cuts(lengths: list[int], room: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows over words of these lengths, as (start, end, first scored, after the last scored)."""
    start, first = 0, 0
    if lengths and sum(lengths) <= room:  # nearly all sentences, and sooner than below
        yield 0, len(lengths), 0, len(lengths)
        return
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


def training_rows(text: Encoded, label2id: dict[str, int], answers: Sequence[np.ndarray] | None = None) -> list[dict]:
    """Windows as `input_ids`, `attention_mask` and `labels`, for the Trainer.

    With `answers`, what a teacher says of each word ([words, labels] a sentence, labels in the order of `LABELS`), a
    row has `answers` as well, [positions, labels] in the model's own order and nan where no word is scored.
    """
    rows = []
    order = np.argsort([label2id[label] for label in LABELS]) if answers is not None else None
    for window in text.windows:
        labels, gold = [IGNORED] * len(window.ids), text.tags[window.sentence]
        if gold is not None:
            for position, word in window.scored:
                labels[position] = label2id[gold[word]]
        row = {"input_ids": window.ids, "attention_mask": [1] * len(window.ids), "labels": labels}
        if answers is not None:
            places, words = np.array(window.scored).T
            row["answers"] = np.full((len(window.ids), len(LABELS)), np.nan, np.float32)
            row["answers"][places] = answers[window.sentence][words][:, order]
        rows.append(row)
    return rows


def batches(rows: Sequence[dict], tokenizer: PreTrainedTokenizerFast, size: int) -> list[dict[str, torch.Tensor]]:
    """Training rows in their order, `size` at once, padded to the longest of each batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [
        {name: pad_sequence([torch.tensor(row[name]) for row in chunk], True, blank) for name, blank in fill.items()}
        for chunk in chunks
    ]


def run_of(model: PreTrainedModel) -> Run:
    """A model in PyTorch, on its own device and without dropout, as what maps ids and mask to logits."""
    import torch

    model.eval()

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        ids, mask = (torch.from_numpy(array).to(model.device) for array in (ids, mask))
        return model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()

    return run


def word_logits(run: Run, text: Encoded, *, batch_tokens: int = BATCH_TOKENS) -> list[np.ndarray]:
    """The logits of every word's first subword, [words, labels] a sentence."""
    logits = window_logits(run, text.windows, text.tokenizer, batch_tokens)
    none = np.zeros((0, logits[0].shape[-1] if logits else 1), np.float32)  # of a sentence without words
    by_sentence = [[none] for _ in text.words]
    for window, rows in zip(text.windows, logits, strict=True):
        by_sentence[window.sentence].append(rows[[place for place, _ in window.scored]])
    return [np.concatenate(rows) for rows in by_sentence]


def window_logits(
    run: Run, windows: Sequence[Window], tokenizer: PreTrainedTokenizerFast, batch_tokens: int = BATCH_TOKENS
) -> list[np.ndarray]:
    """The logits [subwords, labels] of every window; windows of like length run together."""
    logits: list[np.ndarray | None] = [None] * len(windows)
    waiting = sorted(range(len(windows)), key=lambda number: -len(windows[number].ids))
    while waiting:
        longest = len(windows[waiting[0]].ids)
        size = max(1, batch_tokens // longest)  # so that the padded batch stays under `batch_tokens`
        batch, waiting = waiting[:size], waiting[size:]
        ids, mask = padded([windows[number] for number in batch], tokenizer, (len(batch), longest))
        for number, rows in zip(batch, run(ids, mask), strict=True):
            logits[number] = rows
    return logits


def tags(logits: Sequence[np.ndarray], names: Sequence[str] | Mapping[int, str]) -> list[list[str]]:
    """The likeliest label of every word, by name, from what `word_logits` gives."""
    return [[names[best] for best in rows.argmax(-1)] for rows in logits]


def predict_tags(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[list[str]], *, max_length: int
) -> list[list[str]]:
    """One tag for every word of every sentence."""
    return tags(word_logits(run_of(model), encode(sentences, tokenizer, max_length)), model.config.id2label)


def tagged(
    run: Run,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    max_length: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[str]]:
    """One tag for every word of every sentence, from any runtime."""
    return tags(word_logits(run, encode(sentences, tokenizer, max_length), batch_tokens=batch_tokens), LABELS)


def padded(
    windows: Sequence[Window], tokenizer: PreTrainedTokenizerFast, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Windows as ids and mask of a shape [rows, subwords] that has room for them."""
    ids = np.full(shape, tokenizer.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
    return ids, mask
