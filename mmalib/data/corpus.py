"""The corpora: CoNLL-2003 English and CoNLL-2002 Spanish and Dutch, or the generated sample, all in IOB2.

CoNLL comes as the original files (Tjong Kim Sang 2002; Tjong Kim Sang and De Meulder 2003) or as the parquet
that the hub converted from them; both end in the same sentences. `dev` is testa, `test` is testb.

A folder may hold test sets of further languages beside them: `wikineural/xx.test` (WikiNEuRal, Tedeschi et al. 2021),
a word and its tag a line. They are scored and nothing else, and take no part in the paper's numbers.
"""

import codecs
import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, List, Value
from huggingface_hub import snapshot_download

from mmalib.data import LABELS, sample
from mmalib.data.sample import Sentence
from mmalib.profiles import Profile

LANGUAGES = ("en", "es", "nl")

# The two layouts a folder may have: language -> split -> file, relative to the folder.
ORIGINAL = {
    language: {"train": f"{name}.train", "dev": f"{name}.testa", "test": f"{name}.testb"}
    for language, name in (("en", "conll2003/eng"), ("es", "conll2002/esp"), ("nl", "conll2002/ned"))
}
_FOLDERS = {"train": "train", "dev": "validation", "test": "test"}
PARQUET = {
    language: {split: f"{name}/{folder}/0000.parquet" for split, folder in _FOLDERS.items()}
    for language, name in (("en", "conll2003"), ("es", "es"), ("nl", "nl"))
}

# The hub's own loading scripts no longer run (datasets 4 and later); this branch holds their output.
HUB_REVISION = "refs/convert/parquet"
HUB_REPOSITORIES = {"en": "eriktks/conll2003", "es": "eriktks/conll2002", "nl": "eriktks/conll2002"}
FURTHER = "wikineural/??.test"  # a language each, by its two letters


class Corpora(dict[str, DatasetDict]):
    """Train, dev and test by language, and `further` languages' test sets.

    `fingerprints` are of all sentences before any cap, by `of`: of the corpora under "", of each further language.
    """

    def __init__(
        self, corpora: Mapping, further: Mapping[str, DatasetDict] | None = None, of: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(corpora)
        self.further = dict(further or {})
        whole = (of or {}).items()
        self.fingerprints = {name: hashlib.sha256(repr(given).encode()).hexdigest() for name, given in whole}


def fewer(sentences: Dataset | list, cap: int | None) -> Dataset | list:
    """At most `cap` sentences, in their order; a smaller cap keeps a subset of what a larger one keeps."""
    order = list(range(len(sentences)))
    random.Random(0).shuffle(order)
    chosen = sorted(order[:cap])
    return sentences.select(chosen) if isinstance(sentences, Dataset) else [sentences[number] for number in chosen]


def fewer_to_score(corpora: dict[str, DatasetDict], cap: int | None) -> dict[str, DatasetDict]:
    """The corpora with at most `cap` sentences in every dev and test set, for scores along a curve."""
    return {
        language: DatasetDict({split: data if split == "train" else fewer(data, cap) for split, data in splits.items()})
        for language, splits in corpora.items()
    }


def read_conll(path: Path, columns: Sequence[int] = (3, 4), renamed: Callable[[str], str] = str) -> list[Sentence]:
    """The sentences of a file with a word a line, tags in IOB2; CoNLL-2002 has three `columns`, 2003 has four.

    `renamed` says which of the study's labels a tag of the file stands for.
    """
    sentences, words, tags, given = [], [], [], []
    lines = _lines(path)
    for number, line in enumerate([*lines, ""], start=1):
        # Only blanks and tabs separate: a word may hold U+00A0, U+0085 or U+2028, where str.split would cut.
        parts, where = re.findall(r"[^ \t]+", line.rstrip("\r")), f"{path}, line {number}"
        if not parts or parts[0] == "-DOCSTART-":
            if words:
                sentences.append((words, to_iob2(tags, given)))
                words, tags, given = [], [], []
            continue
        if len(parts) not in columns:
            wanted = f"{' or '.join(map(str, columns))}, word first and entity last"
            raise ValueError(f"{where}: found columns: {len(parts)}, expected: {wanted}. Repair the line.")
        columns = (len(parts),)  # the first word's are those of the file
        if (tag := renamed(parts[-1])) not in LABELS:
            wanted = "O, or B- or I- followed by PER, ORG, LOC or MISC"
            raise ValueError(f"{where}: unknown tag {parts[-1]!r}. The last column must be {wanted}.")
        words.append(parts[0])
        tags.append(tag)
        given.append(parts[-1])
    if not sentences:
        raise ValueError(f"{path}, line {len(lines)}: the file ends without any sentence. Copy it again.")
    return sentences


def to_iob2(tags: list[str], given: list[str] | None = None) -> list[str]:
    """The tags of one sentence, IOB1 or IOB2, in IOB2: an entity's first tag is always `B-`.

    IOB1 writes `B-` only where an entity follows another of its type at once, so an `I-` after anything but
    its own type starts an entity. IOB2 comes out unchanged. Types are told apart as they were `given`, by names of
    which two may have become one in `tags`.
    """
    types = [tag[2:] for tag in given or tags]
    changed = [one != last for last, one in zip(["", *types], types, strict=False)]
    return ["B" + tag[1:] if tag != "O" and new else tag for tag, new in zip(tags, changed, strict=True)]


def load(profile: Profile, data: str | None = None) -> Corpora:
    """The corpora of a profile by language, as train, dev and test of `words` and `tags` (lists of strings).

    `data` is "sample", "hub" or a folder; None takes the environment's MMALIB_DATA, then the profile's own.
    """
    source, others = source_of(profile, data), {}
    if source == "sample":
        corpora = sample.generate()
    elif source == "hub":
        corpora = _read(PARQUET, _download())
    else:
        folder = Path(source).expanduser()
        corpora = _read(layout(folder), dict.fromkeys(LANGUAGES, folder))
        paths = [path for path in sorted(folder.glob(FURTHER)) if path.stem not in LANGUAGES]
        others = {path.stem: read_conll(path, columns=(2,)) for path in paths}
    loaded = {}
    for language in LANGUAGES:
        train = profile.train_sentences if language == "en" else None  # no other language is ever trained on
        caps = {"train": train, "dev": profile.eval_sentences, "test": profile.eval_sentences}
        loaded[language] = DatasetDict({split: _dataset(corpora[language][split], cap) for split, cap in caps.items()})
    further = {name: DatasetDict(test=_dataset(test, profile.eval_sentences)) for name, test in others.items()}
    return Corpora(loaded, further, {"": corpora, **others})


def corpus_name(profile: Profile, data: str | None = None) -> str:
    """Which corpus `load` would give: "sample", or "conll" for a folder and the hub alike."""
    return "sample" if source_of(profile, data) == "sample" else "conll"


def evaluation_sentences(folder: Path) -> list[list[str]]:
    """The words of every dev and test sentence in a folder of original files, for whoever must not train on them."""
    files = [Path(folder) / of[split] for of in ORIGINAL.values() for split in ("dev", "test")]
    sentences = [words for file in files for words, _ in read_conll(file)]
    further = sorted(Path(folder).glob(FURTHER))
    return sentences + [words for file in further for words, _ in read_conll(file, columns=(2,))]


def describe(corpora: Corpora) -> pd.DataFrame:
    """Sentences, words and entities by type of every language and split."""
    rows = []
    for language, splits in [*corpora.items(), *corpora.further.items()]:
        for split, sentences in splits.items():
            tags = Counter(tag for sentence in sentences["tags"] for tag in sentence)
            sizes = {"sentences": len(sentences), "words": tags.total()}
            entities = {label[2:]: tags[label] for label in LABELS if label.startswith("B-")}
            rows.append({"language": language, "split": split} | sizes | entities)
    return pd.DataFrame(rows)


def source_of(profile: Profile, data: str | None) -> str:
    """Where the corpora come from: "sample", "hub" or a folder."""
    return data or os.environ.get("MMALIB_DATA") or profile.data


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x}). Convert the file first; "
            "the shared task's own files are Latin-1: iconv -f latin1 -t utf-8."
        ) from error
    return text.removesuffix("\n").split("\n")


def layout(folder: Path) -> dict[str, dict[str, str]]:
    """The layout that a folder has."""
    if not folder.is_dir():
        raise ValueError(
            f"There is no data folder {folder}. Point MMALIB_DATA at the folder that holds conll2003 and "
            "conll2002, or set it to 'sample' for the generated corpus."
        )
    roots = dict.fromkeys(LANGUAGES, folder)
    files = min((ORIGINAL, PARQUET), key=lambda files: len(_missing(files, roots)))
    if missing := _missing(files, roots):
        raise ValueError(
            f"The data folder {folder} is missing {', '.join(missing)}. It should hold .train, .testa and .testb of "
            "conll2003/eng, conll2002/esp and conll2002/ned, or the hub's parquet: conll2003, es and nl, each with "
            "train, validation and test/0000.parquet. Add it, or set MMALIB_DATA to 'sample' for the generated corpus."
        )
    return files


def _missing(layout: dict[str, dict[str, str]], roots: dict[str, Path]) -> list[str]:
    return [file for language, of in layout.items() for file in of.values() if not (roots[language] / file).is_file()]


def _read(layout: dict[str, dict[str, str]], roots: dict[str, Path]) -> dict[str, dict[str, list[Sentence]]]:
    read = read_conll if layout is ORIGINAL else read_parquet
    return {
        language: {split: read(roots[language] / file) for split, file in files.items()}
        for language, files in layout.items()
    }


def _download() -> dict[str, Path]:
    # Without a network this falls back on what the hub's client has in its cache, which may be only a part.
    how = {"repo_type": "dataset", "revision": HUB_REVISION}
    try:
        roots = {
            language: Path(snapshot_download(name, allow_patterns=list(PARQUET[language].values()), **how))
            for language, name in HUB_REPOSITORIES.items()
        }
        if missing := _missing(PARQUET, roots):
            raise OSError(f"there was no {', no '.join(missing)}")
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"CoNLL could not be fetched from the hub ({reason}). Set MMALIB_DATA to a folder that holds it, or to "
            "'sample' for the generated corpus."
        ) from error
    return roots


def read_parquet(path: Path) -> list[Sentence]:
    """The sentences of one file of the hub's converted parquet (columns `tokens` and `ner_tags`)."""
    try:
        table = pq.read_table(path)
        words_of, tags_of = (table[name].to_pylist() for name in ("tokens", "ner_tags"))
    except (pa.ArrowInvalid, KeyError) as error:
        what = f"no readable parquet file with tokens and ner_tags ({error})"
        raise ValueError(f"{path} is {what}. Fetch it again.") from error
    # Two corpora need not number their labels alike, so the names come from the file's own features and nowhere else.
    names = dict(enumerate(getattr(Features.from_arrow_schema(table.schema)["ner_tags"].feature, "names", ())))
    sentences = []
    for row, (words, numbers) in enumerate(zip(words_of, tags_of, strict=True)):
        if not words and not numbers:  # the conversion of CoNLL-2002 ends each split with an empty row
            continue
        tags = [names.get(number, number) for number in numbers]
        if len(words) != len(tags):
            raise ValueError(f"{path}, row {row}: {len(words)} words and {len(tags)} tags. Use the hub's own files.")
        if unknown := [tag for tag in tags if tag not in LABELS]:
            raise ValueError(f"{path}, row {row}: unknown tag {unknown[0]!r}. Use the hub's own files.")
        sentences.append((words, to_iob2(tags)))
    if not sentences:
        raise ValueError(f"{path} has not a single sentence. Fetch it again.")
    return sentences


def _dataset(sentences: list[Sentence], cap: int | None) -> Dataset:
    columns = {"words": [words for words, _ in sentences], "tags": [tags for _, tags in sentences]}
    return fewer(Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, List(Value("string"))))), cap)
