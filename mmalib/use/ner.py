"""Named entities in text, by the keys and conventions of Transformers' token-classification pipeline.

    ner = NER.load()                       # a shipped model, or "fast", "faithful", the folder of any model of a study
    ner("Angela Merkel besuchte Madrid.")  # [{"entity_group": "PER", "score": 0.98, "word": "Angela Merkel", ...}, ...]

A string gives a list of entities, a list of strings a list of such lists, any other iterable a generator of them.
`text[start:end]` is the entity, always: text is cut into words as the corpora are, so that a subword belongs to one
word and never begins with a blank, and the tokenizer's library keeps account of every character that it rewrites.
A graph needs ONNX Runtime (or OpenVINO) and the tokenizer's library alone, weights need PyTorch.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer, normalizers

from mmalib import runtimes
from mmalib.data import WORD
from mmalib.data.subwords import Run, encode, read, run_of, tags, window_logits, word_logits
from mmalib.records import machine
from mmalib.use import shipped

WINDOW = 128  # subwords, as the models were tuned; a longer text is read in windows that overlap
BATCH = 8 * WINDOW  # subwords in one call of the model; more at once are slower
WORDS = ("first", "average", "max")  # a word is labelled as a whole
STRATEGIES = ("none", "simple", *WORDS)
AT_ONCE = 4096  # words that are read before the first are answered
LONGEST = 4096  # characters that a word shows the tokenizer: more than its window's subwords have
PART = 1000  # words after which a long text is cut at the next end of a sentence, or at half as many more


class Part(NamedTuple):
    """A text, or as much of a long one as is read at once."""

    text: str
    words: list[re.Match]
    last: bool


class Units(NamedTuple):
    """What is labelled, subwords or words."""

    rows: np.ndarray  # [units, labels]
    spans: Sequence[tuple[int, int]]
    names: Sequence[str] = ()


class NER:
    """A model with its tokenizer; call it with text."""

    def __init__(
        self, run: Run, vocabulary: SimpleNamespace, labels: list[str], strategy: str, size: int | None, runtime: str
    ) -> None:
        self.labels, self.aggregation_strategy, self.batch_size = labels, _known(strategy), size
        self.runtime, self._run, self._vocabulary = runtime, run, vocabulary

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        aggregation_strategy: str = "first",
        batch_size: int | None = None,
        runtime: str | None = None,
        threads: int | None = None,
    ) -> "NER":
        """A shipped model ("fast", "faithful") or the one in a folder.

        `runtime` and `threads` are of graphs (weights run in PyTorch, as it is set): by default OpenVINO where it is
        installed, but ONNX Runtime on a CPU without VNNI, where int8 is twice as fast in it.
        "first", the default strategy, is how the models were tuned and scored: a word's first subword decides.
        """
        folder = shipped.locate(model)
        runtime = runtime or ("onnxruntime" if runtimes.available("openvino") or machine.saturates() else "openvino")
        if runtimes.graph_in(folder):
            run: Run = runtimes.load(folder, threads or machine.threads(), runtime)
        else:
            from mmalib.model import disk  # brings in PyTorch

            run, runtime = run_of(disk.load(folder)[0]), "torch"
        return cls(run, *_files(folder), aggregation_strategy, batch_size, runtime)

    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        aggregation_strategy: str | None = None,
        batch_size: int | None = None,
        ignore_labels: Collection[str] = ("O",),
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """The entities of a text, or of each of several; `batch_size` texts are read at once, by default many words."""
        strategy = _known(aggregation_strategy or self.aggregation_strategy)
        single = isinstance(inputs, str)
        if isinstance(inputs, (bytes, bytearray)) or not isinstance(inputs, Iterable):
            raise ValueError(f"The text is {type(inputs).__name__}, not a string. Give a string, or several.")
        answers = self._answers([inputs] if single else inputs, strategy, batch_size or self.batch_size, ignore_labels)
        if single:
            return next(answers)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def tags(self, sentences: Sequence[list[str]]) -> list[list[str]]:
        """One tag for every word of sentences that are cut into words already, as the study scores them."""
        text = encode(sentences, self._vocabulary, WINDOW)
        return tags(word_logits(self._run, text, batch_tokens=BATCH), self.labels)

    def _answers(
        self, texts: Iterable[str], strategy: str, size: int | None, ignored: Collection[str]
    ) -> Iterator[list[dict]]:
        """The entities of each text, whose parts come in order."""
        found: list[dict] = []
        before = 1  # subwords, the special one in front included
        for parts in _bunches(texts, size):
            for part, (rows, encoding, of_words) in zip(parts, self._read(parts), strict=True):
                if strategy in WORDS:
                    units = _words(part, rows, of_words, strategy)
                else:
                    units = _subwords(part, rows, of_words, encoding)
                found += _entities(part.text, units, self.labels, strategy, ignored, before)
                before += len(rows)
                if part.last:
                    yield found
                    found, before = [], 1

    def _read(self, parts: list[Part]) -> Iterator[tuple[np.ndarray, Encoding, list[list[int | None]]]]:
        """Of every part the probabilities [subwords, labels], the encoding, and the places of words' subwords there."""
        if not parts:
            return
        words = [[word.group()[:LONGEST] for word in part.words] for part in parts]
        encodings, places, windows = read(words, self._vocabulary, WINDOW)
        logits = [[np.zeros((0, len(self.labels)), np.float32)] for _ in parts]
        for window, rows in zip(windows, window_logits(self._run, windows, self._vocabulary, BATCH), strict=True):
            logits[window.sentence].append(rows[window.scored[0][0] : window.stop])
        lengths = [sum(map(len, rows)) for rows in logits]
        every = np.concatenate([rows for of_part in logits for rows in of_part])  # all at once: texts are short
        every = np.exp(every - every.max(-1, keepdims=True))
        every /= every.sum(-1, keepdims=True)
        yield from zip(np.split(every, np.cumsum(lengths[:-1])), encodings, places, strict=True)


def lines(stream: Iterable[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 stream without their ends; an empty line is an empty text."""
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Line {number} is not UTF-8: byte 0x{line[error.start]:02x} at place {error.start + 1}. "
                "Convert the text first, for example with iconv."
            ) from error


def _files(folder: Path) -> tuple[SimpleNamespace, list[str]]:
    """A tokenizer as `subwords` asks for it, from the files of a model's folder, and the model's labels."""
    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        special = {}
        for name in ("cls", "sep", "pad", "unk"):
            token = config[f"{name}_token"]
            special[f"{name}_token_id"] = backend.token_to_id(token["content"] if isinstance(token, dict) else token)
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        labels = [names[str(number)] for number in range(len(names))]
        if None in special.values():
            raise ValueError("tokenizer.json has no special token")
    except Exception as error:  # of the tokenizer's library as well, which has no kind of its own
        raise ValueError(f"{folder} is damaged ({runtimes.one_line(error)}). Make or copy it again.") from error
    own = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *own])  # decomposed text is read as composed
    return SimpleNamespace(backend_tokenizer=backend, **special), labels


def _known(strategy: str) -> str:
    if strategy not in STRATEGIES:
        raise ValueError(f"There is no aggregation_strategy '{strategy}'. Choose one of: {', '.join(STRATEGIES)}.")
    return strategy


def _bunches(texts: Iterable[str], size: int | None) -> Iterator[list[Part]]:
    """Parts of texts, of `size` texts or about `AT_ONCE` words at once.

    Where the next text cannot be had, those before it are answered first.
    """
    waiting: list[Part] = []
    words = done = 0
    try:
        for number, text in enumerate(texts, 1):
            for part in _parts(text, number):
                waiting.append(part)
                words, done = words + len(part.words), done + part.last
                if words >= AT_ONCE or done >= (size or AT_ONCE):
                    yield waiting
                    waiting, words, done = [], 0, 0
    except ValueError:
        yield waiting
        raise
    yield waiting


def _parts(text: str, number: int) -> Iterator[Part]:
    """A text in parts of about `PART` words; no entity reaches over their ends."""
    if not isinstance(text, str):
        raise ValueError(f"Text {number} is {type(text).__name__}, not a string. Give strings.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"the character at place {error.start + 1} of text {number} is half of a pair or a stray byte"
        raise ValueError(f"This is not UTF-8: {what}. Convert the text first, for example with iconv.") from error
    if len(text) < PART:  # one part, then, and sooner than below
        yield Part(text, [*WORD.finditer(text)], True)
        return
    words: list[re.Match] = []
    for word in WORD.finditer(text):
        words.append(word)
        if len(words) >= PART and (word.group() in ".!?" or len(words) >= PART * 3 // 2):
            yield Part(text, words, False)
            words = []
    yield Part(text, words, True)


def _subwords(part: Part, rows: np.ndarray, of_words: list[list[int | None]], encoding: Encoding) -> Units:
    tokens, offsets = encoding.tokens, encoding.offsets
    spans, names = [], []
    for word, places in zip(part.words, of_words, strict=True):
        begins = [0 if place is None else offsets[place][0] for place in places]
        for place, first, following in zip(places, begins, [*begins[1:], len(word.group())], strict=True):
            # what the tokenizer leaves out, as an accent that it composes, belongs to the subword before
            after = following if place is None else max(following, offsets[place][1])
            spans.append((word.start() + first, word.start() + after))
            names.append(word.group() if place is None else tokens[place])
    return Units(rows, spans, names)


def _words(part: Part, rows: np.ndarray, of_words: list[list[int | None]], strategy: str) -> Units:
    if len(rows):
        lengths = np.array([len(places) for places in of_words])
        first = np.cumsum(lengths) - lengths
        if strategy == "average":
            rows = np.add.reduceat(rows, first) / lengths[:, None]
        elif strategy == "max":
            sure, ends = rows.max(-1), zip(first.tolist(), (first + lengths).tolist(), strict=True)
            rows = rows[[begin + int(sure[begin:end].argmax()) for begin, end in ends]]
        else:
            rows = rows[first]
    return Units(rows, [word.span() for word in part.words])


def _entities(
    text: str, units: Units, labels: list[str], strategy: str, ignored: Collection[str], before: int
) -> list[dict]:
    """The labels that count as entities, or as parts of them; `before` is the number of the first subword."""
    kinds = [label if strategy == "none" else label.split("-", 1)[-1] for label in labels]
    best, sure, spans = units.rows.argmax(-1).tolist(), units.rows.max(-1).tolist(), units.spans
    groups: list[list[int]] = []  # of units that make an entity
    for unit in (unit for unit, number in enumerate(best) if kinds[number] not in ignored):
        last = groups[-1][-1] if groups and strategy != "none" else None
        if last == unit - 1 and kinds[best[last]] == kinds[best[unit]] and not labels[best[unit]].startswith("B-"):
            groups[-1].append(unit)
        else:
            groups.append([unit])
    entities = []
    for group in groups:
        start, end, kind = spans[group[0]][0], spans[group[-1]][1], kinds[best[group[0]]]
        score = sum(sure[unit] for unit in group) / len(group)
        if strategy == "none":
            one = {"entity": kind, "score": score, "index": before + group[0], "word": units.names[group[0]]}
        else:
            one = {"entity_group": kind, "score": score, "word": text[start:end]}
        entities.append(one | {"start": start, "end": end})
    return entities
