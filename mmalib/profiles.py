"""The three sizes of the study, as plain data.

A profile says which backbones, seeds and corpora a study uses and how long it trains; it holds no behaviour.
`quick` is what a newcomer runs, `mini` is the real study at small scale, `paper` is the paper's own scale; `smoke`
runs every line of the notebooks in seconds for the tests, and its numbers mean nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One size of the study: what is tuned, on what, for how long."""

    name: str
    backbones: tuple[str, ...]  # short names, see mmalib.backbones
    seeds: tuple[int, ...]
    data: str  # "sample", "hub" or a folder; MMALIB_DATA overrides it
    train_sentences: int | None  # cap on English training sentences, None for all of them
    eval_sentences: int | None  # cap on every dev and test set, None for all of them
    epochs: int
    batch_size: int
    learning_rate: float
    max_length: int  # window, in subwords
    frozen_layers: int | None  # keep embeddings and this many layers as they came, None tunes everything


PROFILES = {
    "smoke": Profile(
        name="smoke",
        backbones=("mini",),
        seeds=(1,),
        data="sample",
        train_sentences=64,
        eval_sentences=32,
        epochs=1,
        batch_size=16,
        learning_rate=1e-4,
        max_length=128,
        frozen_layers=None,
    ),
    "quick": Profile(
        name="quick",
        backbones=("mini",),
        seeds=(1, 2),
        data="sample",
        train_sentences=2000,
        eval_sentences=400,
        epochs=4,
        batch_size=16,
        learning_rate=2e-4,
        max_length=128,
        frozen_layers=0,
    ),
    "mini": Profile(
        name="mini",
        backbones=("mini",),
        seeds=(1, 2, 3),
        data="hub",
        train_sentences=None,
        eval_sentences=None,
        epochs=3,
        batch_size=16,
        learning_rate=2e-4,
        max_length=128,
        frozen_layers=0,
    ),
    "paper": Profile(
        name="paper",
        backbones=("mlbert", "xlm"),
        seeds=(1, 2, 3),
        data="hub",
        train_sentences=None,
        eval_sentences=None,
        epochs=4,
        batch_size=32,
        learning_rate=3e-5,
        max_length=256,
        frozen_layers=None,
    ),
}


def load_profile(name: str) -> Profile:
    """The profile called `name`."""
    if name not in PROFILES:
        raise ValueError(f"There is no profile '{name}'. Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]
