"""Pairs of sentences and how similar they are, 0 to 5: STS-B with its translations, or a generated sample.

A data folder holds STS-B as `stsb/en-train.csv` and `stsb/xx-dev.csv`, `stsb/xx-test.csv` for every language: sentence,
sentence, score. The sample takes two sentences of the sample corpus's templates: half of the score is for a template
that they share, half for the share of their entities that they have in common.
"""

import csv
import random
from pathlib import Path

from mmalib.data import sample
from mmalib.data.corpus import LANGUAGES, fewer

Pair = tuple[str, str, float]


def there(source: str) -> bool:
    """Whether a source has pairs; the hub has none for us."""
    return source == "sample" or (Path(source).expanduser() / "stsb" / "en-train.csv").is_file()


def read(folder: Path, language: str, split: str) -> list[Pair]:
    """The pairs of one file of a data folder."""
    path, pairs = Path(folder) / "stsb" / f"{language}-{split}.csv", []
    if not path.is_file():
        raise ValueError(f"There is no {path}. Put all of STS-B into that folder, or take it away.")
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                first, second, score = row
                if not 0 <= float(score) <= 5:
                    raise ValueError
            except ValueError:
                wanted = "a sentence, another and a score from 0 to 5"
                raise ValueError(f"{path}, line {number}: this is not {wanted}. Repair the line.") from None
            pairs.append((first, second, float(score)))
    return pairs


def load(source: str, train: int | None, scored: int | None) -> dict[str, dict[str, list[Pair]]]:
    """Language → split → pairs, of "sample" or of a folder; English alone has a train split. Caps as in a profile."""
    loaded: dict[str, dict[str, list[Pair]]] = {language: {} for language in LANGUAGES}
    for language, splits in loaded.items():
        for split in ("train", "dev", "test") if language == "en" else ("dev", "test"):
            own = source == "sample"
            number = train if split == "train" else scored
            every = generate(language, split, number) if own else read(Path(source).expanduser(), language, split)
            splits[split] = fewer(every, number)  # as they come, STS-B begins with captions and ends with headlines
    return loaded


def generate(language: str, split: str, number: int | None = None, seed: int = 2024) -> list[Pair]:
    """The sample's pairs of one language and split, or the first of them, the same on every machine."""
    rng = random.Random(f"{seed} pairs {language} {split}")
    templates, kinds = sample.material(seed)[language, split]
    pairs, number = [], min(sample.SIZES[split], number or sample.SIZES[split])
    while len(pairs) < number:
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
