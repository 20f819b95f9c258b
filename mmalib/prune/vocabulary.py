"""Vocabulary pruning: model and tokenizer keep only the subwords that given text needs.

TextPruner (Yang, Cui and Chen 2022) offers it, and the paper leaves it out; but more than half of a
multilingual model is its word embedding. On text that was given to `keep`, nothing changes:

- WordPiece takes the longest piece that matches, again and again. What it took is still there, and what was longer
  and went did not match, so it takes the same again.
- Unigram takes the path of pieces with the best sum of scores. That path is still there with the same score, and
  every other path is one that was worse before. One thing could lift a path: an unknown character costs 10 more than
  the least likely piece of all, so that piece always stays.

Other text may fall into shorter pieces. So that it does not become unknown, single characters stay too, at the start
of a word and inside it: those of all scripts, or if asked for those of the scripts alone that the text is in.

Kept pieces stay in their order, and so special tokens do. Padding keeps even its number: XLM-RoBERTa counts positions
from there.
"""

import json
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

KINDS = ("WordPiece", "Unigram")
SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "mask", "unk"))  # in a config
WORD_START = "\u2581"  # how Unigram writes the space before a word
CUTS_TEXT = ("normalizer", "pre_tokenizer")  # the parts of a tokenizer.json that decide, beside the vocabulary
AT_ONCE = 10_000  # sentences; bounds the memory of their encodings


def keep(
    tokenizer: PreTrainedTokenizerFast, sentences: Iterable[Sequence[str]], *, own_scripts: bool = False
) -> list[int]:
    """The ids that these sentences (lists of words) need, and those that any text needs."""
    sentences = [list(words) for words in sentences]
    if not sentences:
        raise ValueError("There is no text, and without text no subword is needed. Give all that the model will read.")
    description = _describe(tokenizer)
    ids = _needed(tokenizer, description)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    for start in range(0, len(sentences), AT_ONCE):
        for encoded in backend.encode_batch(sentences[start : start + AT_ONCE], is_pretokenized=True):
            ids.update(encoded.ids)
    # digits, marks and the like belong to all scripts
    scripts = {_script("0"), *(_script(character) for words in sentences for word in words for character in word)}
    model = description["model"]
    pieces = model["vocab"]  # without tokens that were added later
    if model["type"] == "Unigram":
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    start = model["continuing_subword_prefix"] if model["type"] == "WordPiece" else WORD_START
    for piece, number in pieces.items():  # single ones: `a`, and `##a` in WordPiece, `▁a` in Unigram
        character = piece.removeprefix(start) if len(piece) > 1 else piece
        if len(character) == 1 and (not own_scripts or _script(character) in scripts):
            ids.add(number)
    return sorted(ids)


def prune_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> PreTrainedTokenizerFast:
    """Cut the model's word embedding down to `ids` (from `keep`); returns the tokenizer that belongs to it.

    What every text needs (special tokens and the like) stays in any case. The given tokenizer stays as it is.
    """
    kept = sorted(set(ids) | _needed(tokenizer, _describe(tokenizer)))
    smaller = smaller_tokenizer(tokenizer, kept)
    old = model.get_input_embeddings()
    left = old.weight.detach()[torch.tensor(kept, device=old.weight.device)]
    # not by the constructor, which would draw random weights and so move the generator
    fresh = nn.Embedding.from_pretrained(left, freeze=not old.weight.requires_grad, padding_idx=old.padding_idx)
    model.set_input_embeddings(fresh)
    model.config.vocab_size = len(kept)
    for name in SPECIAL_IDS:
        if (number := getattr(model.config, name, None)) in kept:
            setattr(model.config, name, kept.index(number))
    return smaller


def smaller_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: list[int]) -> PreTrainedTokenizerFast:
    """The tokenizer with these ids alone, numbered anew in their order; they must hold what every text needs."""
    description, new = _describe(tokenizer), {old: number for number, old in enumerate(kept)}
    wanted = {piece: new[old] for piece, old in tokenizer.get_vocab().items() if old in new}
    model = description["model"]
    if model["type"] == "WordPiece":
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    else:
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
        model["unk_id"] = new[model["unk_id"]]
    for token in description["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber_(description["post_processor"], new)
    # By way of a folder: what is returned is then what a saved model brings back, in the tokenizer's own class.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
        smaller = type(tokenizer).from_pretrained(folder, trust_remote_code=False)
    smaller.name_or_path = tokenizer.name_or_path
    came_back = _describe(smaller)
    if smaller.get_vocab() != wanted or any(came_back[part] != description[part] for part in CUTS_TEXT):
        raise ValueError(
            f"This {type(tokenizer).__name__} cuts text otherwise once it is saved and loaded again, vocabulary cut or "
            "not. Give the tokenizer that comes from a folder."
        )
    return smaller


def _describe(tokenizer: PreTrainedTokenizerFast) -> dict:
    """What would be in its tokenizer.json."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if (kind := description["model"]["type"]) not in KINDS:
        raise ValueError(f"The vocabulary is of the kind {kind}; only {' and '.join(KINDS)} can be cut.")
    return description


def _needed(tokenizer: PreTrainedTokenizerFast, description: dict) -> set[int]:
    """The ids that stay whatever the text is."""
    ids = {*tokenizer.all_special_ids, *(token["id"] for token in description["added_tokens"])}
    ids.update(range((tokenizer.pad_token_id or 0) + 1))  # so that padding keeps its number
    ids.add(tokenizer.unk_token_id)
    if description["model"]["type"] == "Unigram":
        scores = [score for _, score in description["model"]["vocab"]]
        ids.add(scores.index(min(scores)))  # the price of an unknown character hangs on it
    return ids


def _script(character: str) -> str:
    """LATIN, GREEK, CJK and so on for letters; one name for all other characters."""
    # Python knows no scripts, but the name of a letter begins with its script, or nearly so.
    return unicodedata.name(character, "?").split()[0] if character.isalpha() else ""


def _renumber_(step: dict | None, new: dict[int, int]) -> None:
    """The special tokens that a post-processor puts around a text get their new ids."""
    if step is None:
        return
    for inner in step.get("processors", []):
        _renumber_(inner, new)
    for token in step.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [new[old] for old in token["ids"]]
    for end in ("sep", "cls"):  # BertProcessing, RobertaProcessing
        if end in step:
            step[end][1] = new[step[end][1]]
