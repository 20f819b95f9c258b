"""What was right, predicted and gold in every sentence, by type, as one short string of a record.

Means and intervals that nobody thought of when a model was scored need the sentences, not their sum: a record keeps
them beside F1, for a few bytes a sentence.
"""

import base64
import zlib
from collections.abc import Iterator

import numpy as np

RIGHT, PREDICTED, GOLD = range(3)  # the last axis of every array of counts
TYPES = 4  # PER, ORG, LOC, MISC
WIDE = ":"  # in front of counts that need two bytes; no character of base 85


def draws(sentences: int, number: int, seed: int) -> Iterator[np.ndarray]:
    """How often each sentence is in a bootstrap's draw (Efron 1979), `number` draws one by one: all are much memory."""
    draw = np.random.default_rng(seed)
    return (np.bincount(draw.integers(sentences, size=sentences), minlength=sentences) for _ in range(number))


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of counts [..., right/predicted/gold]; 0 where there is nothing."""
    return 2 * counts[..., RIGHT] / np.maximum(counts[..., PREDICTED] + counts[..., GOLD], 1)


def written(counts: np.ndarray) -> str:
    """Counts [sentences, types, right/predicted/gold] as text."""
    wide = bool(counts.max(initial=0) > 255)  # a broken model may call every word of a long sentence an entity
    columns = counts.astype("<u2" if wide else "u1").transpose(1, 2, 0)  # one after the other: long runs of zeros
    return WIDE * wide + base64.b85encode(zlib.compress(columns.tobytes(), 9)).decode("ascii")


def read(text: str) -> np.ndarray:
    """The counts that `written` wrote, [sentences, types, right/predicted/gold]."""
    raw = zlib.decompress(base64.b85decode(text.removeprefix(WIDE)))
    flat = np.frombuffer(raw, "<u2" if text.startswith(WIDE) else "u1")
    return flat.reshape(TYPES, 3, -1).transpose(2, 0, 1).astype(np.int64)
