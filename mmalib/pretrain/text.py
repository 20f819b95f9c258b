"""Plain and aligned text for pretraining: reading, cleaning, token arrays, leak check.

Folders hold `xx.txt` or `xx.txt.xz` (one sentence or paragraph a line, `xx` a language code) and aligned
`*.tsv` or `*.tsv.xz` files whose header names the languages of the columns.
"""

import lzma
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
BOS, PAD, EOS, UNK = range(len(SPECIAL))
AT_ONCE = 10_000  # lines; bounds the memory of their encodings

# Spellings abolished in 1947: a Dutch line with one of these comes from an old book.
OLD_DUTCH = re.compile(
    r"\b(zoo|eenen?|eener|eenige|mensch\w*|groote[nr]?|hooge[nr]?|oogen|ooren|zeide[nt]?|gij|uwe[nr]?|hare[nr]?|"
    r"zijne[nr]?|mijne[nr]?|dezen|dien|noch|loopen|gelooven|heeren|zooals|[Nn]ederlandsch\w*|"
    r"(?:van|in|aan|op|met|uit|door|voor|bij|naar) den)\b"
)


@dataclass(frozen=True)
class Pairs:
    """Aligned lines of two languages."""

    first: str
    second: str
    lines: list[tuple[str, str]]


@dataclass(frozen=True)
class Tokens:
    """Many token sequences in one flat array: sequence i is `flat[offsets[i]:offsets[i + 1]]`."""

    flat: np.ndarray  # uint16, or uint32 where there are more pieces, [tokens]
    offsets: np.ndarray  # int64, [sequences + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.flat[self.offsets[i] : self.offsets[i + 1]]


def read_text(folder: Path, *, old_dutch: float = 0.3, seed: int = 0) -> dict[str, list[str]]:
    """Lines by language; of the Dutch lines in old spelling only the share `old_dutch` is kept."""
    files = sorted(p for p in Path(folder).glob("??.txt*") if p.suffix in {".txt", ".xz"})
    if not files:
        raise ValueError(f"No text in {folder}: expected files such as en.txt or en.txt.xz, one line a sentence.")
    text = {path.name[:2]: _lines(path) for path in files}
    if "nl" in text:
        keep = np.random.default_rng(seed).random(len(text["nl"])) < old_dutch
        text["nl"] = [s for s, k in zip(text["nl"], keep, strict=True) if k or not OLD_DUTCH.search(s)]
    return text


def read_aligned(path: Path) -> list[Pairs]:
    """The aligned lines of one file, one entry for each pair of columns; lines with an empty side go."""
    header, *rows = [line.split("\t") for line in _lines(path)] or [[]]
    if len(header) < 2 or not all(re.fullmatch("[a-z]{2}", name) for name in header):
        raise ValueError(f"{path}, line 1: expected a header with the language of every column, such as en, es.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(row)} columns, the header has {len(header)}.")
    return [
        Pairs(header[i], header[j], [(r[i], r[j]) for r in rows if r[i].strip() and r[j].strip()])
        for i, j in combinations(range(len(header)), 2)
    ]


def _lines(path: Path) -> list[str]:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        # composed letters, as in every corpus of the study: the vocabulary has no lone accents
        return [unicodedata.normalize("NFC", line.rstrip("\n")) for line in file if line.strip()]


def leaked(lines: Iterable[str], sentences: Iterable[list[str]], *, shortest: int = 6) -> list[str]:
    """Lines that hold a sentence of an evaluation set, compared word by word without case and punctuation.

    Sentences under `shortest` words are left out: "I do not know ." is nobody's secret.
    """
    secret: dict[tuple[str, ...], list[list[str]]] = {}  # by their first words
    for sentence in sentences:
        words = _bare(" ".join(sentence))
        if len(words) >= shortest:
            secret.setdefault(tuple(words[:shortest]), []).append(words)
    return [line for line in lines if _holds(_bare(line), secret, shortest)]


def _holds(words: list[str], secret: dict[tuple[str, ...], list[list[str]]], shortest: int) -> bool:
    return any(
        words[i : i + len(sentence)] == sentence
        for i in range(len(words) - shortest + 1)
        for sentence in secret.get(tuple(words[i : i + shortest]), ())
    )


def _bare(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def tokenize(tokenizer: Tokenizer, lines: list[str], *, longest: int | None = None) -> Tokens:
    """Token arrays without special tokens; lines over `longest` tokens are cut into several sequences."""
    flat: list[np.ndarray] = []
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    for start in range(0, len(lines), AT_ONCE):
        for encoded in tokenizer.encode_batch_fast(lines[start : start + AT_ONCE], add_special_tokens=False):
            ids = np.asarray(encoded.ids, dtype=kind)
            step = longest or max(len(ids), 1)
            flat += [ids[i : i + step] for i in range(0, len(ids), step)] or [ids]
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in flat])])
    return Tokens(np.concatenate(flat) if flat else np.zeros(0, kind), offsets)
