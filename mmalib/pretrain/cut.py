"""A vocabulary of 250,000 pieces cut down to those that seven languages need.

A piece is worth as much as the language that uses it most says: its share of that language's subwords. The best ones
stay, and with them every single Latin letter, digit and mark, so that a word whose piece went falls apart into shorter
ones and never into the unknown.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mmalib.pretrain.text import tokenize
from mmalib.prune import vocabulary

ALPHABET = [["a"]]  # text in the Latin script; its single letters stay, and the marks and digits of all scripts


def usage(tokenizer: Tokenizer, text: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """How often each language uses each piece, [pieces]."""
    size = tokenizer.get_vocab_size()
    return {name: np.bincount(tokenize(tokenizer, lines).flat, minlength=size) for name, lines in text.items()}


def choose(counts: Mapping[str, np.ndarray], tokenizer: PreTrainedTokenizerFast, size: int) -> list[int]:
    """The `size` pieces to keep, by their ids."""
    needed = vocabulary.keep(tokenizer, ALPHABET, own_scripts=True)
    if len(needed) > size:
        raise ValueError(f"A vocabulary of {size} has no room for the {len(needed)} pieces that any text needs.")
    worth = np.max([of_language / of_language.sum() for of_language in counts.values()], axis=0)
    order = dict.fromkeys([*needed, *np.argsort(-worth, kind="stable").tolist()])
    return sorted(list(order)[:size])


def coverage(full: Tokenizer, cut: Tokenizer, text: Mapping[str, list[str]]) -> pd.DataFrame:
    """What the cut costs on text: one row a language.

    `covered`: the share of the full vocabulary's subwords that are still there; `changed`: the share of words that are
    cut otherwise now; `before` and `after`: the mean number of their subwords; `unknown`: unknown subwords in 100,000.
    """
    there = set(cut.get_vocab())
    rows = []
    for language, lines in text.items():
        words = [line.split() for line in lines]
        old, new = (_pieces(tokenizer, words) for tokenizer in (full, cut))
        flat = [piece for pieces in old for piece in pieces]
        changed = [(len(a), len(b)) for a, b in zip(old, new, strict=True) if a != b]
        before, after = np.mean(changed, axis=0) if changed else (np.nan, np.nan)
        unknown = 1e5 * sum(pieces.count("<unk>") for pieces in new) / sum(map(len, new))
        covered = np.mean([piece in there for piece in flat])
        rows.append((language, covered, len(changed) / len(old), before, after, unknown))
    return pd.DataFrame(rows, columns=["language", "covered", "changed", "before", "after", "unknown"])


def _pieces(tokenizer: Tokenizer, sentences: list[list[str]]) -> list[list[str]]:
    """The pieces of every word, one after the other."""
    pieces = []
    for encoded in tokenizer.encode_batch(sentences, is_pretokenized=True, add_special_tokens=False):
        words: dict[int, list[str]] = {}
        for piece, word in zip(encoded.tokens, encoded.word_ids, strict=True):
            words.setdefault(word, []).append(piece)
        pieces += words.values()
    return pieces
