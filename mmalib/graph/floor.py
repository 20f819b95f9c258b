"""A floor under every language: which linear maps to leave in float so that none loses more than so many points.

Leaving a map in float costs speed, so it should be few. A scan leaves out one map at a time and asks how much closer
the model comes to the float one; the best go back to float one after another until the floor holds. F1 moves in steps
of an entity and hides small differences, so the scan is ordered by the gain in the worst language's F1 first and by
the drift second: the mean KL divergence of the labels' distributions from the float model's, over words.

`languages` are those whose dev set the search may look at. English alone is the honest zero-shot setting; the other
languages are then measured at the end and reported, and decide nothing.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mmalib.data import LABELS
from mmalib.data.subwords import Encoded, tags, word_logits
from mmalib.graph import export
from mmalib.model.evaluate import entity_scores

Measure = Callable[[frozenset[str]], tuple[dict[str, float], float]]  # maps in float → (F1 by language, drift)


def hold_floor(
    measure: Measure,
    names: Sequence[str],
    base: dict[str, float],
    *,
    points: float = 1.0,
    languages: Collection[str] = ("en",),
    most: int = 6,
) -> dict:
    """Search for at most `most` maps to leave in float so that no language loses over `points` points of F1.

    `measure(skip)` scores the int8 model that leaves `skip` in float: F1 of 0 to 1 for every language of `base`, the
    float model's F1, and the drift over `languages`. The result says what was found, whether the floor is met in the
    languages looked at (`met`) and in all (`met_everywhere`), and what the scan saw.
    """
    if not names:
        raise ValueError("There is no linear map to leave in float. Give the names of those that are quantized.")
    if unknown := sorted(set(languages) - set(base)) or not languages:
        raise ValueError(f"The float model has no F1 for the languages to look at ({unknown or 'none given'}).")
    if points < 0 or most < 0:
        raise ValueError(f"points is {points} and most is {most}: neither can be negative.")
    remembered = cache(measure)

    def measured(skip: Collection[str]) -> tuple[dict[str, float], float]:
        return remembered(frozenset(skip))

    def losses(skip: Collection[str]) -> dict[str, float]:
        scores, _ = measured(skip)
        return {language: 100 * (base[language] - scores[language]) for language in base}

    def worst(skip: Collection[str]) -> float:
        return max(losses(skip)[language] for language in languages)

    def rank(skip: Collection[str]) -> tuple[float, float]:
        return round(worst(skip), 9), measured(skip)[1]

    best: tuple[str, ...] = ()
    ordered: list[str] = []
    if worst(()) > points:
        # With one map the model of the scan would have nothing left to quantize.
        ordered = sorted(names, key=lambda name: rank((name,))) if len(names) > 1 else []
    tried: tuple[str, ...] = ()
    for name in ordered[: min(most, len(names) - 1)]:
        if worst(best) <= points:
            break
        tried = (*tried, name)
        best = min(best, tried, key=rank)
    lost = losses(best)
    return {
        "met": worst(best) <= points,
        "met_everywhere": max(lost.values()) <= points,
        "points": points,
        "languages": sorted(languages),
        "skip": list(best),
        "lost": lost,  # in points, by language
        "lost_at_first": losses(()),
        "scan": {
            name: {"worst": worst((name,)), "gain": worst(()) - worst((name,)), "drift": measured((name,))[1]}
            for name in ordered
        },
        "drift_at_first": measured(())[1],
        "measured": remembered.cache_info().currsize,
    }


def measure_with(
    build: Callable[..., object], source: Path, dev: Mapping[str, Encoded], *, languages: Collection[str]
) -> tuple[Measure, dict[str, float]]:
    """A `measure` for `hold_floor` in ONNX Runtime, and the float model's F1 by language.

    `build(folder, skip=...)` writes the int8 model, usually `quantize.quantize` with all else fixed; `source` is the
    float model's folder; `dev` has the sentences of every language.
    """

    def logits(folder: Path) -> dict[str, list[np.ndarray]]:
        run = export.session(folder)
        return {language: word_logits(run, text) for language, text in dev.items()}

    def f1(of_words: dict[str, list[np.ndarray]]) -> dict[str, float]:
        return {
            language: entity_scores(text.tags, tags(of_words[language], LABELS), resamples=1)["f1"]
            for language, text in dev.items()
        }

    in_float = logits(source)

    def measure(skip: frozenset[str]) -> tuple[dict[str, float], float]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "int8"
            build(folder, skip=skip)
            in_int8 = logits(folder)
        pairs = [pair for name in languages for pair in zip(in_float[name], in_int8[name], strict=True)]
        return f1(in_int8), drift(pairs)

    return measure, f1(in_float)


def drift(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over words of KL(float model ‖ int8 model), from pairs of logits [words, labels]."""
    sides = [np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True)]
    shifted = [logits - logits.max(-1, keepdims=True) for logits in sides]
    ours, theirs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in shifted)  # log-softmax
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())
