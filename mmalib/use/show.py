"""Entities in colour: a text as several models read it, side by side; and the texts on which two models differ most."""

import html
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmalib.use.ner import NER

# Okabe and Ito's colours, lightened; the type stands beside each entity, whoever cannot tell them apart reads that.
COLOURS = {"PER": "#CDE8F6", "ORG": "#FBE3B3", "LOC": "#BFE6D9", "MISC": "#F3D3E3"}
MARK = (
    '<mark style="background:{colour};border:1px solid #777;border-radius:3px;padding:0 2px">'
    '{text} <small style="font-weight:bold">{kind}</small></mark>'
)


class Page(str):
    """HTML that Jupyter shows as such."""

    def _repr_html_(self) -> str:
        return self


def show(text: str, models: Mapping[str, NER | str | Path] | Iterable[str | Path] | str | Path | None = None) -> Page:
    """The text with its entities marked, a row for every model: folders or shipped names, or `NER`s by any name."""
    if models is None or isinstance(models, (str, Path)):
        models = {str(models or "shipped"): models}
    if not isinstance(models, Mapping):
        models = list(models)
        names = [Path(model).name for model in models]
        models = {str(m) if names.count(name) > 1 else name: m for name, m in zip(names, models, strict=True)}
    loaded = {name: model if isinstance(model, NER) else NER.load(model) for name, model in models.items()}
    rows = "".join(
        f'<tr><th style="text-align:left;white-space:nowrap;vertical-align:top">{html.escape(name)}</th>'
        f'<td style="text-align:left;white-space:pre-wrap">{marked(text, ner(text))}</td></tr>'
        for name, ner in loaded.items()
    )
    return Page(f"<table>{rows}</table>")


def marked(text: str, entities: list[dict]) -> str:
    """The text as HTML."""
    parts, done = [], 0
    for one in entities:
        kind, inside = one.get("entity_group") or one["entity"], html.escape(text[one["start"] : one["end"]])
        mark = MARK.format(colour=COLOURS.get(kind.split("-")[-1], "#DDDDDD"), text=inside, kind=kind)
        parts += [html.escape(text[done : one["start"]]), mark]
        done = one["end"]
    return "".join([*parts, html.escape(text[done:])])


def differing(texts: list[str], one: NER, other: NER) -> list[tuple[int, str]]:
    """The texts in which two models differ, those with most entities that only one of them finds first."""

    def found(ner: NER) -> list[set]:
        return [{(e["start"], e["end"], e.get("entity_group") or e["entity"]) for e in those} for those in ner(texts)]

    counted = [len(ours ^ theirs) for ours, theirs in zip(found(one), found(other), strict=True)]
    return sorted(((n, text) for n, text in zip(counted, texts, strict=True) if n), key=lambda pair: -pair[0])
