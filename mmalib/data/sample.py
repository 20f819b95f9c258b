"""The generated sample corpus: English, Spanish and Dutch sentences with PER, ORG, LOC and MISC in IOB2.

It stands in for CoNLL-2002/2003 where those cannot be had, so that the whole study runs offline. Names come from Faker
(people, towns) and Babel's CLDR data (countries, cities, languages). Sentences come from templates, one file per
language: `mmalib/data/templates/en.txt`, `es.txt`, `nl.txt`; what they share, and their notation, is in `common.txt`.
Two rules make the corpus a test rather than an echo:

* a name belongs to one of train, dev and test, in all three languages at once (`share_out`);
* a template belongs to one of them too, since every template stands under the heading of its split.

Convention: nationalities and languages are MISC in every language, also in Spanish, which writes them in
lower case. (CoNLL-2002 leaves those Spanish words unlabelled; here the languages are kept alike.) Titles
("Dr.") and quotation marks stay outside the entity; the whole of a nested organisation name is one entity.
"""

import itertools
import random
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import resources

from babel import Locale
from babel.core import get_global
from faker import Faker

LOCALES = {"en": "en_US", "es": "es_ES", "nl": "nl_NL"}
SIZES = {"train": 2000, "dev": 400, "test": 400}

PERSON = r"((van|de|den|der|ter|ten) ){0,2}[^\W\d_a-z]\w+"  # "Vermeer", "van der Meer"
PLACE = r"[^\W\d_a-z]\w+([ -][^\W\d_a-z]\w+)?"  # "Leeuwarden", "New York", "Velsen-Noord"

Sentence = tuple[list[str], list[str]]  # words, IOB2 tags
Kinds = dict[str, list[str]]  # what a kind of word or name may be
Concept = tuple[str, ...]  # one thing under its names in one or more languages


def generate(seed: int = 2024) -> dict[str, dict[str, list[Sentence]]]:
    """The corpus as language -> split -> sentences, the same on every machine for the same `seed`."""
    return {
        language: {
            split: write_sentences(*material(seed)[language, split], size, random.Random(f"{seed} {language} {split}"))
            for split, size in SIZES.items()
        }
        for language in LOCALES
    }


@cache
def material(seed: int) -> dict[tuple[str, str], tuple[list[str], Kinds]]:
    """For every language and split the templates, and the words and names of every kind."""
    files = {language: read_templates(language) for language in LOCALES}
    names, made = draw_names(files, seed), {}
    for language, file in files.items():
        for split in SIZES:
            kinds = file["all"]["kinds"] | file[split]["kinds"] | names[language][split]
            made[language, split] = file[split]["templates"], kinds
    return made


# Templates: reading them, and turning one into a sentence.


def read_templates(language: str) -> dict[str, dict]:
    """The file of one language: section ("all" or a split) -> {"kinds": {kind: list}, "templates": list}."""
    sections: dict[str, dict] = {name: {"kinds": {}, "templates": []} for name in ("all", *SIZES)}
    section = sections["all"]
    text = resources.files("mmalib.data").joinpath("templates", f"{language}.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        kind = re.match(r"([\w.]+) = (.+)", line)
        if line.startswith("== "):
            section = sections.get(line[3:], sections["all"])
        elif kind:
            section["kinds"][kind[1]] = kind[2].split(" | ")
        elif line and not line.startswith("#"):
            section["templates"].append(line)
    return sections


def write_sentences(templates: list[str], kinds: Kinds, count: int, rng: random.Random) -> list[Sentence]:
    """`count` different sentences, every template used about equally often, in random order."""
    order, sentences = list(templates), {}
    while len(sentences) < count:
        rng.shuffle(order)
        for template in order:
            words, tags = write_sentence(template, kinds, rng)
            names = entity_names(words, tags)
            if len(set(names)) == len(names):  # no one meets herself, no team plays itself
                sentences.setdefault(" ".join(words), (words, tags))
    return list(sentences.values())[:count]


def write_sentence(template: str, kinds: Kinds, rng: random.Random) -> Sentence:
    """One sentence from one template."""
    words, tags = [], []
    for item in fill(template.removeprefix("^ "), kinds, rng).split():
        if slot := re.fullmatch(r"\{((\w+)[\w.]*)(\^?)\}", item):
            name = fill(rng.choice(kinds[slot[1]]), kinds, rng)
            part = (name.upper() if slot[3] else name).split()
            words += part
            tags += [f"B-{slot[2]}"] + [f"I-{slot[2]}"] * (len(part) - 1)
        else:
            words.append(item)
            tags.append("O")
    if template.startswith("^ "):
        words = [word.upper() for word in words]
    words[0] = words[0][0].upper() + words[0][1:]
    return words, tags


def fill(text: str, kinds: Kinds, rng: random.Random) -> str:
    """`text` with every [a|b] decided and every <kind> replaced, from the innermost outwards."""
    while choice := re.search(r"\[([^\[\]]*)\]", text):
        text = text[: choice.start()] + rng.choice(choice[1].split("|")) + text[choice.end() :]
    while slot := re.search(r"<([A-Za-z]+)>", text):
        text = text[: slot.start()] + rng.choice(kinds[slot[1]]) + text[slot.end() :]
    return text


def entity_names(words: list[str], tags: list[str]) -> list[str]:
    """The entities of a sentence, as text."""
    names = []
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("B-"):
            names.append(word)
        elif tag.startswith("I-"):
            names[-1] += " " + word
    return names


# Names: collecting them, and dealing them out to the splits.


def draw_names(files: dict[str, dict], seed: int) -> dict[str, dict[str, Kinds]]:
    """All names, as language -> split -> kind -> list; no name is in two splits."""
    rng = random.Random(f"{seed} names")
    home: dict[str, str] = {}  # name -> the split that owns it, whatever its type or language
    for file in files.values():
        for split in SIZES:
            home |= {key(name): split for name in file[split]["kinds"]["wordname"]}

    names: dict[str, dict] = {language: {split: {} for split in SIZES} for language in LOCALES}

    def share(languages: tuple[str, ...], concepts_of: dict[str, list[Concept]]) -> None:
        for kind, concepts in concepts_of.items():
            for split, kept in share_out(concepts, home, rng).items():
                for number, language in enumerate(languages):
                    names[language][split].setdefault(kind, []).extend(concept[number] for concept in kept)

    share(tuple(LOCALES), cldr_names())
    for language, file in files.items():
        own = {"twin": file["all"]["kinds"]["twin"], **faker_names(language, seed), "acronym": acronyms(rng)}
        share((language,), {kind: [(name,) for name in drawn] for kind, drawn in own.items()})
        for split in SIZES:
            add_derived_(names[language][split], language)
    return names


def share_out(concepts: list[Concept], home: dict[str, str], rng: random.Random) -> dict[str, list[Concept]]:
    """Deal names to the splits, three to train for one to dev and one to test.

    A concept follows a name that `home` knows already; where its names live in different splits it is dropped. `home`
    learns the new names.
    """
    deal = itertools.cycle(("train", "test", "train", "dev", "train"))
    shared: dict[str, list[Concept]] = {split: [] for split in SIZES}
    concepts = list(concepts)
    rng.shuffle(concepts)
    for concept in concepts:
        owners = {home[key(name)] for name in concept if key(name) in home}
        if len(owners) < 2:
            split = owners.pop() if owners else next(deal)
            home.update((key(name), split) for name in concept)
            shared[split].append(concept)
    return shared


def key(name: str) -> str:
    """What makes a name this name: its last word without accents or case ("van der Meer" -> "meer")."""
    letters = unicodedata.normalize("NFD", name.split()[-1])
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def add_derived_(names: Kinds, language: str) -> None:
    """Add what follows from other kinds: any first name, one-word surnames, Dutch capitals and endings."""
    names["first"] = list(dict.fromkeys(names["man"] + names["woman"]))
    names["plain"] = [name for name in names["last"] if " " not in name]
    names["Last"] = [name[0].upper() + name[1:] for name in names["last"]]  # "Van der Meer zei ..."
    names["language"] = names["nation"] + names["tongue"]
    if language == "nl":  # Duits -> Duitse, Chinees -> Chinese
        names["nation"] = [re.sub("ees$", "es", name) + "e" for name in names["nation"]]


def cldr_names() -> dict[str, list[Concept]]:
    """Countries, nationalities, further languages and cities as triples of names (en, es, nl)."""
    locales = [Locale(language) for language in LOCALES]
    territories = {name for locale in locales for name in locale.territories.values()}
    cities = []
    for zone in sorted({zone for zones in get_global("territory_zones").values() for zone in zones}):
        default = zone.split("/")[-1].replace("_", " ")  # CLDR names a city only where it differs from this
        triple = tuple(locale.time_zones.get(zone, {}).get("city", default) for locale in locales)
        of_a_continent = re.match("Africa|America|Asia|Australia|Europe", zone)
        if of_a_continent and territories.isdisjoint(triple) and all(re.fullmatch(PLACE, name) for name in triple):
            cities.append(triple)
    codes = read_templates("common")["all"]["kinds"]
    tables = {"nation": "languages", "tongue": "languages", "country": "territories"}
    return {
        kind: [tuple(getattr(locale, table)[code] for locale in locales) for code in codes[kind]]
        for kind, table in tables.items()
    } | {"city": cities}


def faker_names(language: str, seed: int) -> Kinds:
    """First names, surnames and towns of one language."""
    fake = Faker(LOCALES[language], use_weighting=False)
    fake.seed_instance(seed)

    def drawn(draw: Callable[[], str], shape: str) -> list[str]:
        each_once = dict.fromkeys(draw() for _ in range(1500))  # in the order drawn
        return [name for name in each_once if re.fullmatch(shape, name)]

    return {
        "city": drawn(fake.state if language == "es" else fake.city, PLACE),  # es_ES: provinces, named after capitals
        "last": drawn(fake.last_name, PERSON),
        "man": drawn(fake.first_name_male, PERSON),
        "woman": drawn(fake.first_name_female, PERSON),
    }


def acronyms(rng: random.Random) -> list[str]:
    """Acronyms for unions, parties and agencies."""
    drawn = ["".join(rng.choice("ABCDEFGIKLMNOPRSTUV") for _ in range(3 + number % 2)) for number in range(150)]
    plain = read_templates("common")["all"]["kinds"]["acronym"]
    return [name for name in dict.fromkeys(drawn) if name not in plain]
