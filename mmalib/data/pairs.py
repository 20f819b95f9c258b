"""Pairs of sentences and how similar they are, 0 to 5: STS-B with its translations, or a generated sample.

A data folder holds STS-B as `stsb/en-train.csv` and `stsb/xx-dev.csv`, `stsb/xx-test.csv` for every language: sentence,
sentence, score. The sample takes two sentences of the sample corpus's templates: half of the score is for a template
that they share, half for the share of their entities that they have in common.
"""

import csv
import random
from functools import cache
from pathlib import Path

from mmalib.data import sample

LANGUAGES = tuple(sample.LOCALES)
FOLDER = "stsb"
Pair = tuple[str, str, float]


def read(folder: Path, language: str, split: str) -> list[Pair]:
    """The pairs of one file of a data folder."""
    path, pairs = Path(folder) / FOLDER / f"{language}-{split}.csv", []
    if not path.is_file():
        raise ValueError(f"There is no {path}. Put STS-B there, or leave the second task out: pairs=False.")
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                first, second, score = row
                pairs.append((first, second, float(score)))
            except ValueError:
                wanted = "sentence, sentence and a score from 0 to 5"
                raise ValueError(f"{path}, line {number}: {len(row)} columns, expected {wanted}. Repair it.") from None
            if not 0 <= pairs[-1][2] <= 5:
                raise ValueError(f"{path}, line {number}: the score {score} is not from 0 to 5. Repair the line.")
    return pairs


def load(source: str, train: int | None, scored: int | None) -> dict[str, dict[str, list[Pair]]]:
    """Language → split → pairs, of "sample" or of a folder; English alone has a train split. Caps as in a profile."""
    return {
        language: {
            split: (
                generate(language, split) if source == "sample" else read(Path(source).expanduser(), language, split)
            )[: train if split == "train" else scored]
            for split in (("train", "dev", "test") if language == "en" else ("dev", "test"))
        }
        for language in LANGUAGES
    }


def generate(language: str, split: str, seed: int = 2024) -> list[Pair]:
    """The sample's pairs of one language and split, the same on every machine."""
    rng = random.Random(f"{seed} pairs {language} {split}")
    file, names = _files()[language], _names(seed)[language][split]
    templates, kinds = file[split]["templates"], file["all"]["kinds"] | file[split]["kinds"] | names
    pairs = []
    while len(pairs) < sample.SIZES[split]:
        # few names to choose from, so that two sentences often share some
        few = {kind: rng.sample(words, min(len(words), rng.choice((1, 2, 4)))) for kind, words in kinds.items()}
        one, same = rng.choice(templates), rng.random() < 0.5
        other = one if same else rng.choice(templates)
        made = [sample.write_sentence(template, few, rng) for template in (one, other)]
        entities = [set(sample.entity_names(*sentence)) for sentence in made]
        union = entities[0] | entities[1]
        common = len(entities[0] & entities[1]) / len(union) if union else float(one == other)
        score = round(2.5 * (one == other) + 2.5 * common, 1)
        pairs.append((" ".join(made[0][0]), " ".join(made[1][0]), score))
    return pairs


@cache
def _files() -> dict[str, dict]:
    return {name: sample.read_templates(name) for name in LANGUAGES}


@cache
def _names(seed: int) -> dict:
    return sample.draw_names(_files(), seed)
