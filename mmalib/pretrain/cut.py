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

from mmalib.data.text import tokenize
from mmalib.prune import vocabulary

ALPHABET = [["a"]]  # text in the Latin script; its single letters stay, and the marks and digits of all scripts


def usage(tokenizer: Tokenizer, text: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """How often each language uses each piece, [pieces]."""
    ids = {name: np.concatenate(tokenize(tokenizer, lines)) for name, lines in text.items()}
    return {name: np.bincount(of_language, minlength=tokenizer.get_vocab_size()) for name, of_language in ids.items()}


def choose(counts: Mapping[str, np.ndarray], tokenizer: PreTrainedTokenizerFast, size: int) -> list[int]:
    """The `size` pieces to keep, by their ids."""
    needed = vocabulary.keep(tokenizer, ALPHABET, own_scripts=True)
    if len(needed) > size:
        raise ValueError(f"A vocabulary of {size} has no room for the {len(needed)} pieces that any text needs.")
    worth = np.max([of_language / of_language.sum() for of_language in counts.values()], axis=0)
    return sorted(list(dict.fromkeys([*needed, *np.argsort(-worth, kind="stable").tolist()]))[:size])


def coverage(full: Tokenizer, cut: Tokenizer, text: Mapping[str, list[str]]) -> pd.DataFrame:
    """What the cut costs on text: one row a language.

    `covered`: the share of the full vocabulary's subwords that are still there; `changed`: the share of words that are
    cut otherwise now; `before` and `after`: the mean number of their subwords; `unknown`: unknown subwords in 100,000.
    """
    there = set(cut.get_vocab())
    rows = []
    for language, lines in text.items():
        words = [line.split() for line in lines]
        table = pd.DataFrame({"old": _pieces(full, words), "new": _pieces(cut, words)})
        changed = table[table["old"] != table["new"]]
        before, after = (changed[side].str.len().mean() for side in ("old", "new"))
        old, new = (table[side].explode() for side in ("old", "new"))
        unknown = 1e5 * new.eq("<unk>").mean()
        rows.append((language, old.isin(there).mean(), len(changed) / len(table), before, after, unknown))
    return pd.DataFrame(rows, columns=["language", "covered", "changed", "before", "after", "unknown"])


def _pieces(tokenizer: Tokenizer, sentences: list[list[str]]) -> list[list[str]]:
    """The pieces of every word, one after the other."""
    pieces = []
    encodings = tokenizer.encode_batch(sentences, is_pretokenized=True, add_special_tokens=False)
    for words, encoded in zip(sentences, encodings, strict=True):
        spans = [encoded.word_to_tokens(word) for word in range(len(words))]  # None where nothing is left of it
        pieces += [encoded.tokens[slice(*span)] for span in spans if span]
    return pieces
