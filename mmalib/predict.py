"""Named entities in raw text, by any model that a study leaves in a folder: PyTorch weights or an exported graph.

    find = predict.load("runs/quick/models/01-e5-half-sample-seed1")
    find(["Angela Merkel besuchte Madrid."])

gives for each text a list of {"type", "text", "start", "end", "score"}: `start` and `end` are places of characters, so
that text[start:end] is the entity, and `score` is the mean probability of its words' tags.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities

from mmalib.data.subwords import encode, run_of, word_logits
from mmalib.graph import export
from mmalib.model import disk
from mmalib.model.backbones import load_tokenizer

WINDOW = 128  # subwords, as the models were tuned; a longer text is read in windows that overlap
AT_ONCE = 64  # lines of a file

# As the shared tasks' text is cut: punctuation is a word of its own, unless it is inside a word (U.N., 3.5, O'Neill).
LETTER = r"[\w\u0300-\u036f]"  # with the accents that stand alone in decomposed text
WORD = re.compile(rf"(?:[^\W\d_]\.){{2,}}|{LETTER}+(?:[-.,'’&/]{LETTER}+)*|\S")

Find = Callable[[Sequence[str]], list[list[dict]]]


def load(folder: Path) -> Find:
    """A function from texts to their entities."""
    folder = Path(folder)
    if (folder / export.GRAPH).is_file():
        run, tokenizer, names = export.session(folder), load_tokenizer(str(folder.resolve())), export.labels(folder)
    elif (folder / disk.WEIGHTS).is_file():
        model, tokenizer = disk.load(folder)
        run, names = run_of(model), [model.config.id2label[number] for number in range(model.config.num_labels)]
    else:
        raise ValueError(
            f"{folder} holds neither {export.GRAPH} nor {disk.WEIGHTS}. "
            "Give the folder of a model, such as those in runs/quick/models."
        )

    def find(texts: Sequence[str]) -> list[list[dict]]:
        cut = [list(WORD.finditer(text)) for text in texts]
        sentences = [[unicodedata.normalize("NFC", word.group()) for word in words] for words in cut]
        logits = word_logits(run, encode(sentences, tokenizer, WINDOW))
        return [_entities(*one, names) for one in zip(texts, cut, logits, strict=True)]

    return find


def lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a UTF-8 stream without their ends; an empty line is an empty text."""
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Line {number} is not UTF-8: byte 0x{line[error.start]:02x} at place {error.start + 1}. "
                "Convert the text first, for example with iconv."
            ) from error


def run(folder: Path, texts: Iterator[str], *, as_json: bool, at_once: int = AT_ONCE) -> Iterator[str]:
    """What the command prints: for each text a line of JSON, or a line for every entity and an empty one after them.

    Where a text cannot be read, the answers to those before it come first.
    """
    find, waiting, problem = load(folder), [], None
    while True:
        try:
            waiting.append(next(texts))
        except StopIteration:
            break
        except ValueError as error:
            problem = error
            break
        if len(waiting) == at_once:
            yield from _shown(waiting, find, as_json)
            waiting = []
    yield from _shown(waiting, find, as_json)
    if problem:
        raise problem


def _shown(texts: list[str], find: Find, as_json: bool) -> Iterator[str]:
    for text, entities in zip(texts, find(texts), strict=True):
        if as_json:
            yield json.dumps({"text": text, "entities": entities}, ensure_ascii=False)
        else:
            for one in entities:
                yield f"{one['type']:4}  {one['start']}:{one['end']}  {one['score']:.2f}  {one['text']}"
            yield ""


def _entities(text: str, words: list[re.Match], logits: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The entities of one text from its words and their logits [words, labels]."""
    if not words:
        return []
    scaled = np.exp(logits - logits.max(-1, keepdims=True))
    sure, entities = scaled.max(-1) / scaled.sum(-1), []
    for kind, first, last in get_entities([names[number] for number in logits.argmax(-1)]):
        start, end = words[first].start(), words[last].end()
        score = round(float(sure[first : last + 1].mean()), 4)
        entities.append({"type": kind, "text": text[start:end], "start": start, "end": end, "score": score})
    return entities
