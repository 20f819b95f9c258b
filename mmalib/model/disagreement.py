"""Which words carry the difference between two models: a loss of F1 may be spread over a language, or be one word.

A word that is frequent in a corpus and on the border between two tags is changed everywhere at once. So beside the
points lost stands what would be lost had the word changed most stayed as it was.
"""

from collections import Counter
from collections.abc import Sequence

from mmalib.model.evaluate import difference

TOP = 3  # words that are named


def between(words: Sequence[list[str]], gold: list[list[str]], before: list[list[str]], after: list[list[str]]) -> dict:
    """The difference in points with its interval, the words whose tags changed most, and the points without the first.

    Words that differ in case are different words.
    """
    sentences = [list(zip(*sentence, strict=True)) for sentence in zip(words, before, after, strict=True)]
    changed = [(word, old, new) for sentence in sentences for word, old, new in sentence if old != new]
    frequent = Counter(word for word, _, _ in changed).most_common(TOP)
    most = [{"word": word, "times": times, "how": _how(word, changed)} for word, times in frequent]
    size = {"words": sum(map(len, words)), "changed": len(changed), "most": most}
    comparison = {**difference(gold, before, after), **size}
    if frequent:
        first = frequent[0][0]
        held = [[old if word == first else new for word, old, new in sentence] for sentence in sentences]
        without = difference(gold, before, held, resamples=1)  # of which no interval is asked
        comparison["points_without_first"] = without["points"]
    return comparison


def _how(word: str, changed: list[tuple[str, str, str]]) -> str:
    """The change of tag that is most frequent for this word."""
    (old, new), _ = Counter((old, new) for each, old, new in changed if each == word).most_common(1)[0]
    return f"{old} to {new}"
