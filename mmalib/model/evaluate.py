"""Entity-level scores: F1 as the shared task counts it, and its bootstrap interval.

Entities are found by seqeval in its default mode, which follows the shared task's conlleval.pl: an `I-` that
continues nothing starts an entity, and a change of type ends one. A predicted entity is right when its type
and both its ends are.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from datasets import Dataset, DatasetDict
from seqeval.metrics.sequence_labeling import get_entities
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib.data import LABELS
from mmalib.data.subwords import predict_tags
from mmalib.records import clock
from mmalib.records.counts import GOLD, PREDICTED, RIGHT, draws, f1, written

Predict = Callable[[Sequence[list[str]]], list[list[str]]]  # sentences of words → a tag a word
TOP = 3  # words that `changed_words` names
TYPES = tuple(dict.fromkeys(label[2:] for label in LABELS if label != "O"))  # PER, ORG, LOC, MISC


def entity_scores(gold: list[list[str]], predicted: list[list[str]], *, resamples: int = 1000, seed: int = 0) -> dict:
    """F1, precision and recall over all entities and per type, with a 95% interval of F1 over sentences.

    `counts` holds, in short, what was right, predicted and gold in every sentence (`mmalib.records.counts`).
    All scores lie between 0 and 1. A quotient of nothing by nothing is 0: without entities F1 is 0.
    """
    counts = counted(gold, predicted)
    low, high = np.percentile(f1(resampled(counts.sum(axis=1), resamples, seed)), [2.5, 97.5]).tolist()
    total = counts.sum(axis=(0, 1))
    by_type = {
        name: {**_scores(of_type), "entities": int(of_type[GOLD])}
        for name, of_type in zip(TYPES, counts.sum(axis=0), strict=True)
    }
    size = {"sentences": len(gold), "words": sum(map(len, gold)), "entities": int(total[GOLD])}
    return {**_scores(total), "f1_low": low, "f1_high": high, **size, "types": by_type, "counts": written(counts)}


def difference(
    gold: list[list[str]], before: list[list[str]], after: list[list[str]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Points of F1 that `after` has more than `before`, with a 95% interval.

    Both are scored on the same drawn sentences, so that what is hard for both takes no part: the interval is narrower
    than what two single ones would give.
    """
    pair = np.stack([counted(gold, predicted).sum(axis=1) for predicted in (before, after)], axis=1)
    was, became = f1(pair.sum(axis=0)).tolist()
    drawn = f1(resampled(pair, resamples, seed))  # (resamples, before and after)
    low, high = np.percentile(drawn[:, 1] - drawn[:, 0], [2.5, 97.5]).tolist()
    return {"points": 100 * (became - was), "points_low": 100 * low, "points_high": 100 * high}


def changed_words(
    words: Sequence[list[str]], gold: list[list[str]], before: list[list[str]], after: list[list[str]]
) -> dict:
    """The difference in points with its interval, the words whose tags changed most, and the points without the first.

    A word that is frequent and on the border between two tags is changed everywhere at once: a loss may be spread over
    a language, or be one word. Words that differ in case are different words.
    """
    sentences = [list(zip(*sentence, strict=True)) for sentence in zip(words, before, after, strict=True)]
    changed = [(word, old, new) for sentence in sentences for word, old, new in sentence if old != new]
    frequent = Counter(word for word, _, _ in changed).most_common(TOP)
    most = []
    for word, times in frequent:
        hows = Counter(f"{old} to {new}" for each, old, new in changed if each == word)
        most.append({"word": word, "times": times, "how": hows.most_common(1)[0][0]})
    size = {"words": sum(map(len, words)), "changed": len(changed), "most": most}
    comparison = {**difference(gold, before, after), **size}
    if frequent:
        first = frequent[0][0]
        held = [[old if word == first else new for word, old, new in sentence] for sentence in sentences]
        without = difference(gold, before, held, resamples=1)  # of which no interval is asked
        comparison["points_without_first"] = without["points"]
    return comparison


def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, corpora: dict[str, DatasetDict], *, max_length: int
) -> dict[str, dict[str, dict]]:
    """Entity scores on dev and test of every language."""
    return scored(partial(predict_tags, model, tokenizer, max_length=max_length), corpora)


@clock.phase("scoring")
def scored(predict: Predict, corpora: Mapping[str, Mapping[str, Dataset]]) -> dict[str, dict[str, dict]]:
    """Entity scores of whatever predicts a tag a word, on what every language has beside its training set."""

    def of(rows: Dataset) -> dict:
        return entity_scores(list(rows["tags"]), predict(rows["words"]))

    return {
        language: {split: of(rows) for split, rows in splits.items() if split != "train"}
        for language, splits in corpora.items()
    }


def counted(gold: list[list[str]], predicted: list[list[str]]) -> np.ndarray:
    """What was right, predicted and gold, by sentence and type: [sentences, types, 3]."""
    if not gold:
        raise ValueError("There are no sentences to score. Check the corpus and the split.")
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError("The gold and the predicted tags differ in number. Predict each word of each sentence once.")
    if unknown := {tag for side in (gold, predicted) for tags in side for tag in tags} - set(LABELS):
        raise ValueError(f"The tag {min(map(repr, unknown))} is unknown. Known are {', '.join(LABELS)}.")
    # Sentence by sentence, so that no entity runs over a sentence's end.
    counts = np.zeros((len(gold), len(TYPES), 3), dtype=np.int64)
    for sentence, pair in zip(counts, zip(gold, predicted, strict=True), strict=True):
        right, guess = (set(get_entities(list(tags))) for tags in pair)  # (type, first word, last word)
        for kind, entities in ((RIGHT, right & guess), (PREDICTED, guess), (GOLD, right)):
            for name, _, _ in entities:
                sentence[TYPES.index(name), kind] += 1
    return counts


def _scores(count: np.ndarray) -> dict[str, float]:
    right, predicted, gold = count.tolist()
    return {"f1": float(f1(count)), "precision": right / max(predicted, 1), "recall": right / max(gold, 1)}


def resampled(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Counts of as many drawn sentences, `resamples` times: [resamples, ...] from [sentences, ...]."""
    flat = counts.reshape(len(counts), -1)
    drawn = [times @ flat for times in draws(len(counts), resamples, seed)]
    return np.array(drawn).reshape(resamples, *counts.shape[1:])
