"""How fast a model reads real text: sentences of their own lengths, from words to a tag a word, tokenization included.

The paper pads every sentence to 128 subwords. Real sentences have about 20 to 40, so most of that computes nothing.
Four ways, all with the same tags:

    padded             batches in the text's order, every row padded to `length`
    sorted             windows from long to short, each batch as wide as its longest (`subwords.word_logits`)
    padded, single     one sentence at a time, padded to `length`
    single             one sentence at a time, as long as it is

The sentences are dealt into a few hands, and all ways in all runtimes take their turn on each hand: as in `throughput`,
speeds are medians over turns, and speed-ups medians of the turns' ratios to the baseline, which reads padded batches.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from mmalib import runtimes
from mmalib.data import LABELS
from mmalib.data.subwords import encode, padded, tagged
from mmalib.records import clock
from mmalib.speed import throughput

WAYS = ("padded", "sorted", "padded, single", "single")
FIXED = ("padded", "padded, single")  # of one shape each, as DeepSparse needs it
BASE = "dense base"  # the row of the baseline


@clock.phase("timing")
def measure(
    sessions: Mapping[str, runtimes.Session],
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    *,
    base: runtimes.Session,
    length: int,
    batch: int,
    turns: int = throughput.TURNS,
) -> list[dict]:
    """A row for every runtime and way: sentences/s, words/s, latency where it is one at a time, ratio, raw speeds.

    `base` reads padded batches, as the paper did; its row comes first.
    """
    if len(sentences) < turns:
        raise ValueError(f"{len(sentences)} sentences cannot be dealt into {turns} hands. Give more of them.")
    hands = [list(sentences[turn::turns]) for turn in range(turns)]
    pairs = [(name, way) for name in sessions for way in (FIXED if runtimes.parse(name)[0] == "deepsparse" else WAYS)]
    pairs, sessions = [(BASE, "padded"), *pairs], {BASE: base, **sessions}
    watch = throughput.Watch(*(session.process for session in sessions.values()))
    times: dict[tuple[str, str], list[list[float]]] = {pair: [] for pair in pairs}
    failed: dict[tuple[str, str], str] = {}
    for turn, hand in enumerate([hands[0][:1], *hands]):  # at first only to compile and allocate
        for pair in reversed(pairs) if turn % 2 else pairs:
            if pair not in failed:
                try:
                    seconds = _seconds(sessions[pair[0]], tokenizer, hand, pair[1], length, batch)
                except Exception as error:  # a crash is a row, and the others go on
                    failed[pair] = runtimes.failure(error)
                else:
                    times[pair] += [seconds] if turn else []
    others = watch.others(next(iter(sessions.values())).threads)
    rows = []
    for pair in pairs:
        row = {"runtime": pair[0], "way": pair[1]}
        row |= {"failed": failed[pair]} if pair in failed else _row(times[pair], times[pairs[0]], hands, pair[1])
        rows.append(row | others)
    return rows


def tag(
    session: runtimes.Session,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[list[str]],
    *,
    way: str,
    length: int,
    batch: int,
) -> list[list[str]]:
    """One tag for every word of every sentence, in one of `WAYS`."""
    if way == "padded":
        return _padded(session, tokenizer, sentences, length, batch)
    if way == "padded, single":
        return [_padded(session, tokenizer, [one], length, 1)[0] for one in sentences]
    if way == "single":
        return [tagged(session, tokenizer, [one], length)[0] for one in sentences]
    # As many subwords at once as the padded batches have, padding included.
    return tagged(session, tokenizer, sentences, length, batch_tokens=batch * length)


def _padded(session, tokenizer, sentences, length: int, batch: int) -> list[list[str]]:
    """Windows in their order, in batches of exactly [batch, length]."""
    tags = [["O"] * len(words) for words in sentences]
    cut = encode(sentences, tokenizer, length).windows
    for start in range(0, len(cut), batch):
        group = cut[start : start + batch]
        ids, mask = padded(group, tokenizer, (batch, length))
        mask[len(group) :, 0] = 1  # rows that only fill the batch up
        best = session(ids, mask).argmax(-1)  # [batch, length]
        for row, window in enumerate(group):
            for position, word in window.scored:
                tags[window.sentence][word] = LABELS[best[row, position]]
    return tags


def _seconds(session, tokenizer, hand: list[list[str]], way: str, length: int, batch: int) -> list[float]:
    """How long a hand takes; sentence by sentence where that is the way."""
    seconds = []
    for piece in [[one] for one in hand] if "single" in way else [hand]:
        start = time.perf_counter()
        tag(session, tokenizer, piece, way=way, length=length, batch=batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def _row(turns: list[list[float]], base: list[list[float]], hands: list[list[list[str]]], way: str) -> dict:
    spent = np.array([sum(turn) for turn in turns])
    sentences = np.array([len(hand) for hand in hands]) / spent
    words = np.array([sum(map(len, hand)) for hand in hands]) / spent
    row = {"sentences_per_second": float(np.median(sentences)), "words_per_second": float(np.median(words))}
    row["samples"] = sentences.tolist()
    if len(base) == len(turns):  # the baseline has not failed
        row["ratio"] = float(np.median(np.array([sum(turn) for turn in base]) / spent))
    if "single" in way:
        each = 1000 * np.concatenate(turns)
        row |= {"milliseconds_p50": float(np.median(each)), "milliseconds_p95": float(np.percentile(each, 95))}
    return row
