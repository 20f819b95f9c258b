"""A floor under every language: which linear maps to leave in float so that none loses more than so many points.

Leaving a map in float costs speed, so it should be few. A scan leaves out one map at a time and asks how much closer
the model comes to the float one; the best go back to float one after another until the floor holds. F1 moves in steps
of an entity and hides small differences, so the scan is ordered by the gain in the worst language's F1 first and by
the drift second: the mean KL divergence of the labels' distributions from the float model's, over words.

English alone is the honest zero-shot setting: the other languages are then measured at the end and decide nothing.
"""

import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mmalib.data import LABELS
from mmalib.data.subwords import Encoded, tags, word_logits
from mmalib.graph import export
from mmalib.model.evaluate import entity_scores

Measure = Callable[[frozenset[str]], tuple[dict[str, float], float]]  # maps in float → (F1 by language, drift)


def hold_floor(measure: Measure, names: Sequence[str], base: dict[str, float], *, points: float, most: int) -> dict:
    """Search for at most `most` maps to leave in float so that no language loses over `points` points of F1.

    `measure(skip)` scores the int8 model that leaves `skip` in float; `base` is the float model's F1 by language. The
    result says what was found, whether the floor is met (`met`), and what the scan saw.
    """
    remembered = cache(measure)

    def losses(skip: Sequence[str]) -> dict[str, float]:
        scores, _ = remembered(frozenset(skip))
        return {language: 100 * (base[language] - scores[language]) for language in base}

    def worst(skip: Sequence[str]) -> float:
        return max(losses(skip).values())

    def drift_of(skip: Sequence[str]) -> float:
        return remembered(frozenset(skip))[1]

    def rank(skip: Sequence[str]) -> tuple[float, float]:
        return round(worst(skip), 9), drift_of(skip)

    best: tuple[str, ...] = ()
    # With one map the model of the scan would have nothing left to quantize.
    ordered = sorted(names, key=lambda name: rank((name,))) if worst(()) > points and len(names) > 1 else []
    tried: tuple[str, ...] = ()
    for name in ordered[: min(most, len(names) - 1)]:
        if worst(best) <= points:
            break
        tried = (*tried, name)
        best = min(best, tried, key=rank)
    return {
        "met": worst(best) <= points,
        "points": points,
        "languages": sorted(base),
        "skip": list(best),
        "lost": losses(best),  # in points, by language
        "lost_at_first": losses(()),
        "scan": {
            name: {"worst": worst((name,)), "gain": worst(()) - worst((name,)), "drift": drift_of((name,))}
            for name in ordered
        },
        "drift_at_first": drift_of(()),
        "measured": remembered.cache_info().currsize,
    }


def measure_with(
    build: Callable[[Path, Hashable], object], source: Path, dev: Mapping[str, Encoded]
) -> tuple[Callable[[Hashable], tuple[dict[str, float], float]], dict[str, float]]:
    """What measures int8 models in ONNX Runtime as `hold_floor` asks for it, and the float model's F1 by language.

    `build(folder, what)` writes the int8 model that is measured as `what`; `source` is the float model's folder; `dev`
    has the sentences of every language.
    """

    def logits(folder: Path) -> dict[str, list[np.ndarray]]:
        run = export.session(folder)
        return {language: word_logits(run, text) for language, text in dev.items()}

    def f1(of_words: dict[str, list[np.ndarray]]) -> dict[str, float]:
        predicted = {language: tags(rows, LABELS) for language, rows in of_words.items()}
        return {name: entity_scores(dev[name].tags, predicted[name], resamples=1)["f1"] for name in dev}

    in_float = logits(source)

    def measure(what: Hashable) -> tuple[dict[str, float], float]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "int8"
            build(folder, what)
            in_int8 = logits(folder)
        return f1(in_int8), drift([pair for name in dev for pair in zip(in_float[name], in_int8[name], strict=True)])

    return measure, f1(in_float)


def drift(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over words of KL(float model ‖ int8 model), from pairs of logits [words, labels]."""
    sides = [np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True)]
    shifted = [logits - logits.max(-1, keepdims=True) for logits in sides]
    ours, theirs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in shifted)  # log-softmax
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())
