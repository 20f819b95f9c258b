"""For tests that need no more than the light install.

`.ci/run` has these tests alone in an environment of their own, with `--confcutdir` here, since the other conftest
imports PyTorch.
"""

from pathlib import Path

import numpy as np
import pytest
from lookup_model import LABELS, write_model


@pytest.fixture(scope="session")
def table() -> np.ndarray:
    """Random logits for every subword of the shipped vocabulary, O likelier than the others."""
    logits = np.random.default_rng(0).normal(scale=2, size=(50_000, len(LABELS))).astype(np.float32)
    logits[:, 0] += 2
    return logits


@pytest.fixture(scope="session")
def lookup(table, tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("lookup") / "model", table)


@pytest.fixture
def ner(lookup):
    from mmalib import NER

    return NER.load(lookup, runtime="onnxruntime", threads=1)


NAMES = ["Angela Merkel", "José Viña", "Łódź", "Ångström & Co", "D’Artagnan", "O'Neill", "'s-Hertogenbosch"]
NAMES += ["EE.UU.", "U.N.", "São Paulo", "Ærø"]
FILLERS = [
    "besuchte",
    "met",
    "está en",
    "zei dat",
    "«",
    "»",
    "“",
    "”",
    ",",
    ".",
    "…",
    "—",
    "(",
    ")",
    "¿",
    "?",
    "¡",
    "!",
]
FILLERS += ["🙂", "👩\u200d👩\u200d👧", "🇪🇸", "3,5 %", "№ 5", "½", "\xad", "ﬁn", "\u200b", "東京", "Ｍadrid"]
BLANKS = (" ", "  ", "\u00a0", "\u202f", "\t", "\n", "\u3000", "")


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """500 texts with accents, quotes, emoji, combining characters, no-break spaces, and no space where one may lack."""
    import unicodedata

    draw = np.random.default_rng(7)
    texts = []
    for number in range(500):
        pieces = [str(draw.choice(NAMES if draw.random() < 0.5 else FILLERS)) for _ in range(draw.integers(1, 12))]
        text = "".join(piece + BLANKS[int(draw.choice(len(BLANKS), p=[0.6] + [0.4 / 7] * 7))] for piece in pieces)
        texts.append(unicodedata.normalize("NFD", text) if number % 3 == 0 else text)
    return texts
