"""Training batches of plain text, each a pure function of (seed, step).

Nothing is stored between steps, so a killed run goes on with exactly the batches it would have seen. All rows of a
batch have the same number of subwords: there is no padding and no mask.
"""

from collections.abc import Mapping

import numpy as np
import torch

from mmalib.pretrain.text import BOS, EOS, Tokens

SHORTEST = 5  # subwords of a line that is worth reading
ROOM = 8  # a row may be cut by so many subwords, to be as long as the others


class Material:
    """Token sequences by language, sorted by length, and how often each language is drawn."""

    def __init__(self, text: Mapping[str, Tokens], shares: Mapping[str, float]) -> None:
        if set(text) != set(shares):
            raise ValueError(f"There is text in {', '.join(text)} and there are shares for {', '.join(shares)}.")
        self.text = dict(sorted(text.items()))
        self.shares = np.array([shares[language] for language in self.text]) / sum(shares.values())
        self.order, self.lengths = {}, {}
        for language, tokens in self.text.items():
            lengths = np.diff(tokens.offsets)
            order = np.argsort(lengths, kind="stable")
            self.order[language] = order[lengths[order] >= SHORTEST]
            self.lengths[language] = lengths[self.order[language]]
            if not len(self.order[language]):
                raise ValueError(f"No line of the text in {language} has {SHORTEST} subwords. Give more text.")


def draw(material: Material, step: int, *, seed: int, tokens: int) -> torch.Tensor:
    """Batch number `step` as ids, [rows, subwords]: about `tokens` of them, rows of every language by its share."""
    rng = np.random.default_rng([seed, step])
    first = list(material.text)[rng.choice(len(material.shares), p=material.shares)]
    length = int(rng.choice(material.lengths[first]))
    rows = max(1, tokens // (length + 2))
    ids = np.full((rows, length + 2), EOS, dtype=np.int64)
    ids[:, 0] = BOS
    row = 0
    for language, number in zip(material.text, rng.multinomial(rows, material.shares), strict=True):
        if material.lengths[language][-1] < length:  # no line of this language is so long: one of the first's is
            language = first
        low, high = np.searchsorted(material.lengths[language], [length, length + ROOM])
        high = max(high, low + 1)  # the next longer one
        for sequence in material.order[language][rng.integers(low, high, size=number)]:
            ids[row, 1:-1] = material.text[language][sequence][:length]
            row += 1
    return torch.from_numpy(ids)
