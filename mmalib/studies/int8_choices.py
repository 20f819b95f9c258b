"""What notebook 05 chooses on dev sets: the calibration of static graphs, and the maps left in float for a floor.

English dev alone decides, but where a search is told to look at all languages.
"""

from functools import partial
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedTokenizerFast

from mmalib.data.corpus import fewer
from mmalib.data.subwords import Encoded, encode_split
from mmalib.graph import floor, quantize, ranges
from mmalib.plan import FLOOR_MAPS, FLOOR_POINTS


def calibrated(settings: dict, source: Path, train: Encoded, dev: Encoded) -> dict[str, dict]:
    """The ranges of the method that is best on English dev, and what every method came to."""
    rows, by_method, tried = [window.ids for window in train.windows], {}, {}
    for method in settings["calibration_methods"]:
        by_method[method] = ranges.calibrate(source, rows, method=method)
        build = partial(quantize.quantize, source, kind="static", ranges=by_method[method])
        measure, _ = floor.measure_with(build, source, {"en": dev})
        f1, drift = measure(frozenset())
        tried[method] = {"f1": f1["en"], "drift": drift}
    chosen = max(tried, key=lambda method: (tried[method]["f1"], -tried[method]["drift"]))
    return {"ranges": by_method[chosen], "calibration": {"chosen": chosen, "tried": tried}}


def searched(
    settings: dict,
    source: Path,
    known: quantize.Ranges,
    tokenizer: PreTrainedTokenizerFast,
    corpora: dict[str, DatasetDict],
    where: dict[str, list],
) -> dict:
    """The maps to leave in float; and, on English, how far from the float graph each of them in int8 alone leads."""
    languages = settings["floor_languages"]
    # Only the languages that the search looks at are run: the others are measured in the end, on the graph found.
    splits = {language: fewer(corpora[language]["dev"], settings["floor_sentences"]) for language in languages}
    dev = {language: encode_split(split, tokenizer, settings["max_length"]) for language, split in splits.items()}
    build = partial(quantize.quantize, source, kind="static", ranges=known)
    measure, base = floor.measure_with(build, source, dev)
    names = scanned(where, settings["floor_layers"])
    result = floor.hold_floor(measure, names, base, points=FLOOR_POINTS, most=FLOOR_MAPS)
    if len(languages) > 1:
        return {"floor": result}
    # For the picture, one map alone is int8: the errors of several partly cancel, so leaving one out tells less.
    alone = {name: measure(frozenset(where) - {name})[1] for name in names}
    rows = [{"map": name, "layer": where[name][0], "part": where[name][1], "drift": alone[name]} for name in names]
    return {"floor": result, "sensitivity": rows}


def scanned(where: dict[str, list], number: int | None) -> list[str]:
    """The maps of `number` layers, evenly from the first to the last; of all layers, if it is None."""
    there = sorted({layer for layer, _ in where.values()})
    if number is not None and number < len(there):
        there = [there[round(place)] for place in np.linspace(0, len(there) - 1, number)]
    return [name for name, (layer, _) in where.items() if layer in there]
