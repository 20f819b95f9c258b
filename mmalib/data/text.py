"""Plain text, a line a sentence: files → lines → sequences of subwords → batches.

A folder holds `xx.txt` or `xx.txt.xz`: one sentence or paragraph a line, `xx` a language code. A batch is a pure
function of (seed, step): a killed run goes on with exactly the batches it would have seen. All rows of a batch have the
same number of subwords: there is no padding and no mask.
"""

import lzma
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
BOS, EOS = SPECIAL.index("<s>"), SPECIAL.index("</s>")
AT_ONCE = 10_000  # lines; bounds the memory of their encodings
SHORTEST = 5  # subwords of a line that is worth reading
ROOM = 8  # a row may be cut by so many subwords, to be as long as the others
SECRET = 6  # words of an evaluation sentence that counts: "I do not know ." is nobody's secret
OLD_DUTCH_KEPT = 0.3  # the share that stays of the Dutch lines in old spelling

# Spellings abolished in 1947: a Dutch line with one of these comes from an old book.
OLD_DUTCH = re.compile(
    r"\b(zoo|eenen?|eener|eenige|mensch\w*|groote[nr]?|hooge[nr]?|oogen|ooren|zeide[nt]?|gij|uwe[nr]?|hare[nr]?|"
    r"zijne[nr]?|mijne[nr]?|dezen|dien|noch|loopen|gelooven|heeren|zooals|[Nn]ederlandsch\w*|"
    r"(?:van|in|aan|op|met|uit|door|voor|bij|naar) den)\b"
)


def read_text(folder: Path) -> dict[str, list[str]]:
    """Lines by language; most of the Dutch lines in old spelling are left out."""
    files = sorted(p for p in Path(folder).glob("??.txt*") if p.suffix in {".txt", ".xz"})
    if not files:
        raise ValueError(f"No text in {folder}: expected files such as en.txt or en.txt.xz, one line a sentence.")
    text = {path.name[:2]: _lines(path) for path in files}
    if "nl" in text:
        keep = np.random.default_rng(0).random(len(text["nl"])) < OLD_DUTCH_KEPT
        text["nl"] = [s for s, k in zip(text["nl"], keep, strict=True) if k or not OLD_DUTCH.search(s)]
    return text


def lines_of(folder: str | Path, languages: Iterable[str]) -> dict[str, list[str]]:
    """The lines of a folder by language; all of these languages must be there."""
    lines = read_text(Path(folder))
    if absent := [name for name in languages if not lines.get(name)]:
        raise ValueError(f"{folder} has no text in {absent[0]}: its file is absent or empty. Give a line a sentence.")
    return lines


def read_aligned(path: Path) -> dict[str, list[str]]:
    """The aligned lines of a tsv file whose header names the languages of its columns."""
    languages, *rows = [line.split("\t") for line in _lines(path)] or [[]]
    if len(languages) < 2 or not all(re.fullmatch("[a-z]{2}", name) for name in languages):
        raise ValueError(f"{path}, line 1: expected a header with the language of every column, such as en, es.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(languages) or not all(map(str.strip, row)):
            raise ValueError(f"{path}, line {number}: expected a text in each of the {len(languages)} columns.")
    return {language: [row[column] for row in rows] for column, language in enumerate(languages)}


def _lines(path: Path) -> list[str]:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        # composed letters, as in every corpus of the study: the vocabulary has no lone accents
        return [unicodedata.normalize("NFC", line.rstrip("\n")) for line in file if line.strip()]


def clean(lines: Iterable[str], sentences: Iterable[list[str]]) -> list[str]:
    """The lines that hold no sentence of an evaluation set, compared word by word without case and punctuation."""
    secret: dict[tuple[str, ...], list[list[str]]] = {}  # by their first words
    for sentence in sentences:
        words = _bare(" ".join(sentence))
        if len(words) >= SECRET:
            secret.setdefault(tuple(words[:SECRET]), []).append(words)
    return [line for line in lines if not _holds(_bare(line), secret)]


def _holds(words: list[str], secret: dict[tuple[str, ...], list[list[str]]]) -> bool:
    return any(
        words[i : i + len(sentence)] == sentence
        for i in range(len(words) - SECRET + 1)
        for sentence in secret.get(tuple(words[i : i + SECRET]), ())
    )


def _bare(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def tokenize(tokenizer: Tokenizer, lines: list[str], *, longest: int | None = None) -> list[np.ndarray]:
    """The subwords of every line, without special tokens; lines over `longest` become several sequences."""
    sequences: list[np.ndarray] = []
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    for start in range(0, len(lines), AT_ONCE):
        for encoded in tokenizer.encode_batch_fast(lines[start : start + AT_ONCE], add_special_tokens=False):
            ids = np.asarray(encoded.ids, dtype=kind)
            step = longest or max(len(ids), 1)
            sequences += [ids[i : i + step] for i in range(0, len(ids), step)]
    return sequences


class Material:
    """Sequences of subwords by language, from short to long, and how often each language is drawn."""

    def __init__(self, text: Mapping[str, list[np.ndarray]], shares: Mapping[str, float]) -> None:
        self.text = {
            language: sorted((one for one in text[language] if len(one) >= SHORTEST), key=len)
            for language in sorted(text)
        }
        self.lengths = {language: np.array([len(one) for one in of]) for language, of in self.text.items()}
        self.shares = np.array([shares[language] for language in self.text]) / sum(shares.values())
        if empty := [language for language, of_language in self.text.items() if not of_language]:
            raise ValueError(f"No line of the text in {empty[0]} has {SHORTEST} subwords. Give more text.")


def draw(material: Material, step: int, *, seed: int, tokens: int, frame: tuple = (BOS, EOS)) -> torch.Tensor:
    """Batch number `step` as ids, [rows, subwords]: about `tokens`, rows of every language by its share, framed."""
    rng = np.random.default_rng([seed, step])
    first = list(material.text)[rng.choice(len(material.shares), p=material.shares)]
    length = int(rng.choice(material.lengths[first]))
    rows = max(1, tokens // (length + 2))
    ids = np.full((rows, length + 2), frame[1], dtype=np.int64)
    ids[:, 0] = frame[0]
    row = 0
    for language, number in zip(material.text, rng.multinomial(rows, material.shares), strict=True):
        if material.lengths[language][-1] < length:  # no line of this language is so long: one of the first's is
            language = first
        low, high = np.searchsorted(material.lengths[language], [length, length + ROOM])
        high = max(high, low + 1)  # the next longer one
        for place in rng.integers(low, high, size=number):
            ids[row, 1:-1] = material.text[language][place][:length]
            row += 1
    return torch.from_numpy(ids)
