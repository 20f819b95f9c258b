"""The component `mmalib_ner` for spaCy: `nlp.add_pipe("mmalib_ner", config={"model": "fast"})` sets `doc.ents`.

It needs no trained pipeline, only a tokenizer: `spacy.blank("de")`. The installed package tells spaCy of it, so nothing
has to be imported. `nlp.to_disk` takes the model along.
"""

import shutil
import warnings
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

from mmalib.use import shipped
from mmalib.use.ner import NER


@Language.factory(
    "mmalib_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    default_config={"model": None, "aggregation_strategy": "first", "runtime": None},
)
def make(nlp: Language, name: str, model: str | None, aggregation_strategy: str, runtime: str | None) -> "Component":
    """The component; its model is loaded when the first text comes."""
    return Component(model, aggregation_strategy, runtime)


class Component:
    """Finds entities in documents; those that stand there already are kept."""

    def __init__(self, model: str | Path | None, aggregation_strategy: str, runtime: str | None) -> None:
        if aggregation_strategy == "none":
            raise ValueError("spaCy's entities are whole: choose an aggregation_strategy other than 'none'.")
        self._model, self._how = model, {"aggregation_strategy": aggregation_strategy, "runtime": runtime}
        self._ner: NER | None = None

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 128) -> Iterator[Doc]:
        """The documents with their entities, `batch_size` read at once."""
        self._ner = self._ner or NER.load(self._model, **self._how)
        docs, texts = tee(stream)
        answers = self._ner((doc.text for doc in texts), batch_size=batch_size)
        for doc, entities in zip(docs, answers, strict=True):
            yield _marked(doc, entities)

    def to_disk(self, path: Path, exclude: Iterable[str] = ()) -> None:
        """Copy the model's folder, so that the pipeline can be moved."""
        if (model := shipped.locate(self._model)) != Path(path).resolve():  # as it is where it was loaded from
            shutil.copytree(model, path, dirs_exist_ok=True)

    def from_disk(self, path: Path, exclude: Iterable[str] = ()) -> "Component":
        """Use the model that `to_disk` has put there."""
        self._model, self._ner = path, None
        return self


def _marked(doc: Doc, entities: list[dict]) -> Doc:
    """A document with these entities; one that ends inside a token takes it whole."""
    spans = [
        doc.char_span(one["start"], one["end"], label=one["entity_group"], alignment_mode="expand") for one in entities
    ]
    before = {token.i for span in doc.ents for token in span}
    fresh = [span for span in spans if not before & set(range(span.start, span.end))]
    kept: list[Span] = filter_spans(fresh)
    if lost := [span for span in fresh if span not in kept]:
        names = ", ".join(f"{span.text!r} ({span.label_})" for span in lost)
        warnings.warn(f"spaCy's tokens leave no room for {names} beside another entity in the same token", stacklevel=2)
    doc.ents = [*doc.ents, *kept]
    return doc
