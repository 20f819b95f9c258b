"""What a model gets wrong, for its card: the most frequent mistakes of a language, and an example of each.

Mistakes are counted on the corpus that the model is scored on. The examples are sentences of the generated sample on
which the model makes the same mistake, since the corpora's own text may not be passed on.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqeval.metrics.sequence_labeling import get_entities

from mmalib.data import sample

MOST = 3
Predict = Callable[[Sequence[list[str]]], list[list[str]]]


def mistakes(predict: Predict, corpora: Mapping[str, Mapping[str, Mapping]]) -> dict[str, list[str]]:
    """A line for each of the most frequent mistakes on the dev set of every language."""
    generated, lines = sample.generate(), {}
    for language, splits in corpora.items():
        dev = splits["dev"]
        pairs = zip(list(dev["tags"]), predict(list(dev["words"])), strict=True)
        counted = Counter(what for gold, said in pairs for what, _, _ in of_sentence(gold, said))
        examples = _examples(predict, generated[language]["dev"]) if language in generated else {}
        lines[language] = [
            f"{what}: {number:,} times" + (f", as in: {examples[what]}" if what in examples else "")
            for what, number in counted.most_common(MOST)
        ]
    return lines


def of_sentence(gold: list[str], said: list[str]) -> Iterator[tuple[str, int, int]]:
    """The mistakes in a sentence, with their first and last word."""
    right, found = set(get_entities(list(gold))), set(get_entities(list(said)))
    for kind, first, last in sorted(right - found, key=lambda one: one[1:]):
        others = [other for other in found if other[1] <= last and first <= other[2]]
        if not others:
            yield f"{kind} not found", first, last
        for other, begin, end in others:
            what = f"{kind} taken for {other}" if other != kind else f"{kind} with other ends"
            yield what, min(first, begin), max(last, end)
    for kind, first, last in sorted(found - right, key=lambda one: one[1:]):
        if not any(begin <= last and first <= end for _, begin, end in right):
            yield f"{kind} where there is no name", first, last


def _examples(predict: Predict, sentences: Sequence[tuple[list[str], list[str]]]) -> dict[str, str]:
    """The shortest sentence for every mistake, the words in question in bold."""
    examples: dict[str, str] = {}
    by_length = sorted(sentences, key=lambda sentence: len(sentence[0]))
    for (words, gold), said in zip(by_length, predict([words for words, _ in by_length]), strict=True):
        for what, first, last in of_sentence(gold, said):
            marked = [*words[:first], f"**{' '.join(words[first : last + 1])}**", *words[last + 1 :]]
            examples.setdefault(what, " ".join(marked))
    return examples
