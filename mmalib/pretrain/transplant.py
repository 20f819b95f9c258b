"""A new vocabulary on an old encoder: which vector does a new subword start from?

The encoder's layers are kept; only the embedding changes. A subword's start vector is
1. in English, the mean of the old vectors of the old pieces it falls into (lower-cased, accents dropped);
2. in another language, the mean of the vectors of its translations, from a lexicon learnt on aligned text
   (IBM Model 1, Brown et al. 1993; the idea of WECHSEL, Minixhofer et al. 2022, with aligned text in place
   of a dictionary), or rule 1 where the aligned text is silent;
3. across languages, the mean of 1 and 2 weighted by how often each language uses the subword.
Capitalised and all-capital subwords get one shared vector each on top, the same in every language, because
the case is a cue to names that the old, uncased vocabulary never saw.
"""

import unicodedata
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from mmalib.pretrain.text import SPECIAL, Pairs, Tokens, tokenize


def lexicon(
    first: Tokens, second: Tokens, size: int, *, rounds: int = 5, longest: int = 90
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Translation probabilities of subwords, both directions of IBM Model 1 multiplied.

    Returns three arrays, one entry for each pair seen together: first, second, weight.
    The weight is t(first | second) · t(second | first).
    """
    keys, sentence_first, sentence_second = [], [], []
    for i in range(len(first)):
        a, b = np.unique(first[i]).astype(np.int64), np.unique(second[i]).astype(np.int64)
        if len(a) > longest or len(b) > longest:
            continue
        keys.append((a[:, None] * size + b[None, :]).ravel())
        # which (sentence, word) slot each co-occurrence belongs to, in either direction
        sentence_first.append(np.repeat(a, len(b)) + i * size)
        sentence_second.append(np.tile(b, len(a)) + i * size)
    pairs, pair = np.unique(np.concatenate(keys), return_inverse=True)
    slots = [np.unique(np.concatenate(s), return_inverse=True)[1] for s in (sentence_first, sentence_second)]
    words = [pairs // size, pairs % size]
    forward, backward = (_model_1(pair, slots[side], words[1 - side], len(pairs), size, rounds) for side in (0, 1))
    return words[0], words[1], forward * backward


def _model_1(pair: np.ndarray, slot: np.ndarray, given: np.ndarray, pairs: int, size: int, rounds: int) -> np.ndarray:
    """EM for t(word | given): each word of a sentence spreads one count over the words of the other side."""
    probability = np.ones(pairs)
    for _ in range(rounds):
        weight = probability[pair]
        weight /= np.bincount(slot, weight)[slot]
        counts = np.bincount(pair, weight, minlength=pairs)
        probability = counts / np.maximum(np.bincount(given, counts, minlength=size), 1e-12)[given]
    return probability


def translations(lexicon_pairs: tuple[np.ndarray, np.ndarray, np.ndarray], size: int) -> np.ndarray:
    """Row-normalised translation matrix [size, size] as (rows, columns, weights), squared for the best."""
    rows, columns, weights = lexicon_pairs
    weights = np.where(weights > 1e-2, weights, 0.0) ** 2
    total = np.bincount(rows, weights, minlength=size)
    return np.stack([rows, columns, weights / np.maximum(total[rows], 1e-300)])[:, weights > 0]


def best_translation(matrix: np.ndarray, size: int, *, sure: float = 0.4) -> np.ndarray:
    """For every subword its best translation, or -1 where none is `sure` enough, [size]."""
    best = np.full(size, -1, dtype=np.int64)
    order = np.argsort(matrix[2])  # ascending, so that the last write is the best
    order = order[matrix[2][order] >= sure]
    best[matrix[0][order].astype(np.int64)] = matrix[1][order].astype(np.int64)
    return best


def learn_lexicons(tokenizer: Tokenizer, aligned: list[Pairs]) -> dict[tuple[str, str], np.ndarray]:
    """Translation matrices of subwords for every ordered pair of languages in the aligned text."""
    size, lines = tokenizer.get_vocab_size(), {}
    for pairs in aligned:
        lines.setdefault((pairs.first, pairs.second), []).extend(pairs.lines)
    matrices = {}
    for (a, b), both in lines.items():
        first, second = (tokenize(tokenizer, list(side)) for side in zip(*both, strict=True))
        rows, columns, weights = lexicon(first, second, size)
        matrices[a, b] = translations((rows, columns, weights), size)
        matrices[b, a] = translations((columns, rows, weights), size)
    return matrices


def start_vectors(
    vocabulary: list[str],
    old_vocabulary: dict[str, int],
    old: np.ndarray,
    counts: dict[str, np.ndarray],
    lexicons: dict[tuple[str, str], np.ndarray],
    *,
    seed: int = 0,
    case_strength: float = 0.4,
) -> np.ndarray:
    """Start vectors of a new vocabulary, [vocabulary, width]; `counts` is usage by language, with English."""
    english = np.stack([_from_pieces(token, old_vocabulary, old) for token in vocabulary])
    by_language = {"en": english}
    for language in sorted(set(counts) - {"en"}):  # a later language may lean on an earlier one
        total, vectors = np.zeros((len(vocabulary), 1)), np.zeros_like(english)
        for source, known in by_language.items():
            if (language, source) in lexicons:
                rows, columns, weights = lexicons[language, source]
                np.add.at(vectors, rows.astype(int), weights[:, None] * known[columns.astype(int)])
                np.add.at(total, rows.astype(int), weights[:, None])
        by_language[language] = np.where(total > 0, vectors / np.maximum(total, 1e-12), english)
    usage = {language: counts[language] / counts[language].sum() + 1e-9 for language in by_language}
    everyone = sum(usage.values())
    mixed = sum(by_language[k] * (usage[k] / everyone)[:, None] for k in by_language)
    norms = np.linalg.norm(old, axis=1).mean()
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    mixed *= norms / np.maximum(lengths, 1e-9)  # means are short: stretch
    case = np.random.default_rng(seed).standard_normal((2, old.shape[1]))
    case *= case_strength * norms / np.linalg.norm(case, axis=1, keepdims=True)
    for i, token in enumerate(vocabulary):
        letters = token.removeprefix("##")
        if token not in SPECIAL and letters[:1].isupper():
            mixed[i] += case[1] if len(letters) > 1 and letters.isupper() else case[0]
    for token in SPECIAL:
        mixed[vocabulary.index(token)] = old[old_vocabulary[token]]
    return mixed


def _from_pieces(token: str, old_vocabulary: dict[str, int], old: np.ndarray) -> np.ndarray:
    """Mean old vector of the old pieces that a new subword falls into (greedy longest match)."""
    word = "".join(c for c in unicodedata.normalize("NFD", token.lower()) if unicodedata.category(c) != "Mn")
    prefix, word = ("##", word[2:]) if word.startswith("##") else ("", word)
    pieces = []
    while word:
        end = next((e for e in range(len(word), 0, -1) if prefix + word[:e] in old_vocabulary), 0)
        if not end:
            return old[old_vocabulary["[UNK]"]]
        pieces.append(old_vocabulary[prefix + word[:end]])
        prefix, word = "##", word[end:]
    return old[pieces].mean(axis=0) if pieces else old[old_vocabulary["[UNK]"]]


def transplant(
    encoder: Path,
    tokenizer: Tokenizer,
    counts: dict[str, np.ndarray],
    lexicons: dict[tuple[str, str], np.ndarray],
    *,
    positions: int = 256,
) -> BertForMaskedLM:
    """A masked language model: layers of `encoder`, vocabulary of `tokenizer`, a fresh prediction head."""
    old, old_tokenizer = BertModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    vocabulary = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    words = old.embeddings.word_embeddings.weight.detach().numpy()
    start = start_vectors(vocabulary, old_tokenizer.get_vocab(), words, counts, lexicons)
    config = BertConfig(
        **{k: getattr(old.config, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        intermediate_size=old.config.intermediate_size,
        layer_norm_eps=old.config.layer_norm_eps,
        vocab_size=len(vocabulary),
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,  # far fewer passes over the text than it takes to overfit
        attention_probs_dropout_prob=0.0,
    )
    new = BertForMaskedLM(config)
    new.bert.encoder.load_state_dict(old.encoder.state_dict())
    with torch.no_grad():
        new.bert.embeddings.word_embeddings.weight.copy_(torch.from_numpy(start))
        for name in ("position_embeddings", "token_type_embeddings"):
            weight = getattr(new.bert.embeddings, name).weight
            weight.copy_(getattr(old.embeddings, name).weight[: len(weight)])
        new.bert.embeddings.LayerNorm.load_state_dict(old.embeddings.LayerNorm.state_dict())
        new.cls.predictions.transform.dense.weight.copy_(torch.eye(config.hidden_size))
        unigram = sum(c / c.sum() for c in counts.values()) / len(counts)
        new.cls.predictions.bias.copy_(torch.from_numpy(np.log(unigram + 1e-6)))
    return new


def usage(tokens: Tokens, size: int) -> np.ndarray:
    """How often each subword occurs, [size]."""
    return np.bincount(tokens.flat, minlength=size).astype(np.float64)
