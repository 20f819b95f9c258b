"""Training batches for masked and translation language modelling, each a pure function of (seed, step).

Nothing is stored between steps, so a killed run goes on with exactly the batches it would have seen.
A batch holds sequences of nearly one length (little padding), the same number from every language.
Three ways to cross the language border: pairs of aligned lines masked together (Conneau and Lample 2019,
positions restarting in the second line), words swapped for their translation, names masked as whole spans.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from mmalib.pretrain.text import CLS, MASK, PAD, SEP, SPECIAL, Tokens


@dataclass
class Material:
    """Everything batches are drawn from."""

    vocabulary: list[str]
    text: dict[str, Tokens]
    aligned: list[tuple[Tokens, Tokens]]  # line i of the first belongs to line i of the second
    swaps: dict[str, list[np.ndarray]]  # language -> tables of best translations, -1 where none
    continues: np.ndarray = field(init=False)  # [vocabulary] is this subword a continuation?
    capital: np.ndarray = field(init=False)  # [vocabulary] does it start with a capital?

    def __post_init__(self) -> None:
        self.continues = np.array([v.startswith("##") for v in self.vocabulary])
        self.capital = np.array([v[0].isupper() and v not in SPECIAL for v in self.vocabulary])
        # A whole word is swapped for a whole word, never for a continuation that would cling to its neighbour.
        whole = ~self.continues & (np.arange(len(self.vocabulary)) >= len(SPECIAL))
        self.swaps = {
            language: [np.where((table >= 0) & whole[table], table, -1) for table in tables]
            for language, tables in self.swaps.items()
        }
        self.by_length = {k: _by_length(np.diff(v.offsets)) for k, v in self.text.items()}
        pair_lengths = [np.diff(a.offsets) + np.diff(b.offsets) for a, b in self.aligned]
        self.aligned_by_length = [_by_length(np.where(n <= 124, n, 0)) for n in pair_lengths]


def _by_length(lengths: np.ndarray, shortest: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Sequence numbers sorted by length and their lengths, too short ones left out."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] >= shortest]
    return order, lengths[order]


def draw(
    material: Material,
    step: int,
    *,
    seed: int,
    tokens: int,
    mask_rate: float = 0.25,
    aligned_share: float = 0.35,
    swap_rate: float = 0.25,
) -> dict[str, torch.Tensor]:
    """Batch number `step`: about `tokens` tokens, masked."""
    rng = np.random.default_rng([seed, step])
    if rng.random() < aligned_share:
        rows = _aligned_rows(material, rng, tokens)
        swap_rate = 0.0
    else:
        rows = _text_rows(material, rng, tokens)
    return mask(material, rows, rng, mask_rate=mask_rate, swap_rate=swap_rate)


def _text_rows(material: Material, rng: np.random.Generator, tokens: int) -> list[tuple[str, list[np.ndarray]]]:
    """Sequences of one length from every language."""
    length = _some_length(material.by_length[sorted(material.text)[rng.integers(len(material.text))]], rng)
    each = max(1, tokens // ((length + 2) * len(material.text)))
    rows = []
    for language in sorted(material.text):
        for i in _near(material.by_length[language], length, each, rng):
            rows.append((language, [material.text[language][i]]))
    return rows


def _aligned_rows(material: Material, rng: np.random.Generator, tokens: int) -> list[tuple[str, list[np.ndarray]]]:
    """Pairs of aligned lines of one joint length, either side first."""
    sizes = np.array([len(order) for order, _ in material.aligned_by_length], dtype=float)
    length, rows = 0, []
    for source in rng.choice(len(sizes), size=2, p=sizes / sizes.sum()):
        first, second = material.aligned[source]
        length = length or _some_length(material.aligned_by_length[source], rng)
        for i in _near(material.aligned_by_length[source], length, max(1, tokens // (2 * (length + 3))), rng):
            pair = [first[i], second[i]]
            rows.append(("", pair if rng.random() < 0.5 else pair[::-1]))
    return rows


def _some_length(by_length: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> int:
    """A length, drawn so that every token of the text is equally likely to be seen."""
    _, lengths = by_length
    cumulative = np.cumsum(lengths)
    return int(lengths[np.searchsorted(cumulative, rng.integers(cumulative[-1]), side="right")])


def _near(by_length: tuple[np.ndarray, np.ndarray], length: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Sequence numbers of about one length, at random."""
    order, lengths = by_length
    low, high = np.searchsorted(lengths, [length - 3, length + 1])
    if high <= low:
        low, high = max(0, min(low, len(order) - 1) - number), min(len(order), low + number)
    return order[rng.integers(low, high, size=number)]


def mask(
    material: Material,
    rows: list[tuple[str, list[np.ndarray]]],
    rng: np.random.Generator,
    *,
    mask_rate: float,
    swap_rate: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Padded, masked input: whole words at once, runs of capitalised words as one.

    Of the chosen tokens 80% become masks, 10% random subwords, 10% stay.
    """
    width = max(sum(len(p) + 1 for p in parts) + 1 for _, parts in rows)
    ids = np.full((len(rows), width), PAD, dtype=np.int64)
    positions = np.zeros_like(ids)
    for r, (_, parts) in enumerate(rows):
        ids[r, 0], at = CLS, 1
        for part in parts:
            end = at + len(part) + 1
            ids[r, at : end - 1], ids[r, end - 1] = part, SEP
            positions[r, at:end] = np.arange(1, end - at + 1)  # the second line starts at 1 again
            at = end
    unit = _units(material, ids, rng)
    chosen = rng.random((len(rows), width + 1)) < mask_rate
    chosen = np.take_along_axis(chosen, unit, axis=1) & (ids >= len(SPECIAL))
    shown, dice = ids.copy(), rng.random(ids.shape)
    if swap_rate:
        _swap_(material, rows, shown, rng, swap_rate)
    shown[chosen & (dice < 0.8)] = MASK
    random = chosen & (dice >= 0.9)
    shown[random] = rng.integers(len(SPECIAL), len(material.vocabulary), size=int(random.sum()))
    return {
        "input_ids": torch.from_numpy(shown),
        "attention_mask": torch.from_numpy((ids != PAD).astype(np.int64)),
        "position_ids": torch.from_numpy(positions),
        "labels": torch.from_numpy(np.where(chosen, ids, -100)),
    }


def _units(material: Material, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number of each token's masking unit: a word; of two capitalised words half are joined."""
    starts = ~material.continues[ids]
    column = np.arange(ids.shape[1])
    word_start = np.maximum.accumulate(np.where(starts, column, 0), axis=1)
    capital = np.take_along_axis(material.capital[ids], word_start, axis=1)
    after_capital = np.zeros_like(starts)
    after_capital[:, 1:] = capital[:, :-1]
    joined = starts & capital & after_capital & (rng.random(ids.shape) < 0.5)
    return np.cumsum(starts & ~joined, axis=1)


def _swap_(
    material: Material,
    rows: list[tuple[str, list[np.ndarray]]],
    shown: np.ndarray,
    rng: np.random.Generator,
    rate: float,
) -> None:
    """Replace some one-subword words by their translation into another language, in place."""
    starts = ~material.continues[shown]
    whole = starts.copy()
    whole[:, :-1] &= starts[:, 1:]
    for r, (language, _) in enumerate(rows):
        tables = material.swaps.get(language, [])
        if not tables or rng.random() < 0.5:
            continue
        translated = tables[rng.integers(len(tables))][shown[r]]
        use = whole[r] & (translated >= 0) & (rng.random(shown.shape[1]) < rate)
        shown[r, use] = translated[use]
