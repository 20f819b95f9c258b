"""What was right, predicted and gold in every sentence, by type, as one short string of a record.

Means and intervals that nobody thought of when a model was scored need the sentences, not their sum: a record keeps
them beside F1, for a few bytes a sentence.
"""

import base64
import zlib

import numpy as np

RIGHT, PREDICTED, GOLD = range(3)  # the last axis of every array of counts
TYPES = 4  # PER, ORG, LOC, MISC


def packed(counts: np.ndarray) -> str:
    """Counts [sentences, types, right/predicted/gold] as text."""
    if counts.ndim != 3 or counts.shape[1:] != (TYPES, 3):
        raise ValueError(f"Counts have the shape {counts.shape}; it should be (sentences, {TYPES}, 3).")
    if counts.min(initial=0) < 0 or counts.max(initial=0) > 255:
        raise ValueError("A sentence has more than 255 entities of one type: cut it up first.")
    # one column after the other: long runs of zeros
    return base64.b85encode(zlib.compress(counts.astype(np.uint8).transpose(1, 2, 0).tobytes(), 9)).decode("ascii")


def unpacked(text: str) -> np.ndarray:
    """The counts that `packed` wrote, [sentences, types, right/predicted/gold]."""
    flat = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    return flat.reshape(TYPES, 3, -1).transpose(2, 0, 1).astype(np.int64)
