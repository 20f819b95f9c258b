"""What is known of a shipped backbone: a report as JSON beside its weights, and the model card made from reports."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from transformers import BertModel

from mmalib import reports
from mmalib.model.backbones import SHIPPED
from mmalib.model.packed import SHARED
from mmalib.plan import RECIPE_TRIAL
from mmalib.pretrain.probe import retrieval
from mmalib.pretrain.recipe import SHARES, TOKENS, Prepared
from mmalib.profiles import load_profile
from mmalib.records import machine, store
from mmalib.records.machine import WEIGHTS
from mmalib.reports import tables
from mmalib.reports.backbones import REPORT

TEMPLATE = Path(__file__).with_name("card.md")
ORIGINS = {
    "e5": "multilingual-e5-small, 4 bits a weight",
    "e5-half": "e5's layers 2, 4, 6, 8, 10 and 12",
    "e5-narrow": "the same with a quarter of the feed-forward neurons",
}


def report(
    name: str, model: BertModel, prepared: Prepared, log: list[dict], news: Mapping[str, list[str]], weights=WEIGHTS
) -> None:
    """Leave shape, size, cost and retrieval of one backbone beside its weights; with e5's, the vocabulary's cost."""
    about, steps = machine.describe(), log[-1]["step"] if log else 0
    own = sum(path.stat().st_size for path in (weights / name).iterdir() if path.name != REPORT)
    told = {"origin": ORIGINS[name], "layers": model.config.num_hidden_layers, "width": model.config.hidden_size}
    told |= {"neurons": model.config.intermediate_size, "parameters": model.num_parameters()}
    told |= {"layer_parameters": sum(p.numel() for p in model.encoder.parameters()), "megabytes": own / 1e6}
    told |= {"steps": steps, "seconds": log[-1]["seconds"] if log else 0, "tokens_seen": steps * TOKENS}
    on_cpu = f"{about['cpu']}, {about['cores']} core{'s' * (about['cores'] > 1)}"
    told |= {"machine": about["gpu"] or on_cpu, "text": prepared.facts}
    if name == "e5":
        told["coverage"] = prepared.coverage
    others = {f"en to {language}": lines for language, lines in news.items() if language != "en"}
    found = {pair: retrieval(model, prepared.tokenizer, news["en"], lines) for pair, lines in others.items()}
    told |= {"retrieval": found, "retrieval_lines": len(news["en"]), "log": log}
    store.write_atomic(weights / name / REPORT, json.dumps(told, indent=1) + "\n")


def card(
    about: dict[str, dict], quality: pd.DataFrame, rounding: pd.DataFrame | None = None, weights: Path = WEIGHTS
) -> str:
    """The backbones' card; `quality` is a frame of runs tuned from them, `rounding` what 4 bits cost such a run."""
    read = next(iter(about.values()))
    lines, tokens = read["text"]["lines"], read["text"]["tokens"]
    drawn, profile = reports.backbones.draw(about), load_profile("small")
    frozen = "nothing" if profile.frozen is None else f"the embedding and the lowest {profile.frozen:.0%} of the layers"
    mean = f"the mean of ten checkpoints of each epoch after the first {profile.average_from:g}"
    end = "the epoch that is best on English dev" if profile.average_from is None else mean
    return TEMPLATE.read_text().format(
        backbones=tables.markdown(drawn["table_backbones"]),
        shared=sum(path.stat().st_size for path in (weights / SHARED).iterdir()) / 1e6,
        machine=read["machine"],
        quality=_quality(quality),
        profile=profile,
        frozen=frozen,
        end=end,
        tried=RECIPE_TRIAL["trial_sentences"],
        rounding="Not measured yet." if rounding is None else tables.markdown(rounding),
        subwords=tables.markdown(drawn["table_subwords"]),
        text=", ".join(f"{k} {lines[k]:,} lines and {tokens[k] / 1e6:.1f} million subwords" for k in lines),
        read=", ".join(f"`{k}` read {of['tokens_seen'] / 1e6:.1f} million" for k, of in about.items() if of["steps"]),
        share=sum(tokens[k] for k in tokens if k not in SHARES) / sum(tokens.values()),
        checked=read["text"]["checked_against"],
        left_out=read["text"]["left_out"],
    )


def _quality(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Not measured yet."
    plain = frame["method"].eq("baseline") | frame.get("setting", pd.Series(index=frame.index, dtype=str)).eq("plain")
    test = frame[(frame["split"] == "test") & plain & frame["backbone"].isin(SHIPPED)]
    median = test.pivot_table(index=["backbone", "corpus"], columns="language", values="f1", aggfunc="median")
    seeds = test.groupby(["backbone", "corpus"])["seed"].nunique()
    table = median.map("{:.3f}".format).assign(seeds=seeds).reset_index()
    return f"Entity F1 on test, median over seeds.\n\n{tables.markdown(table)}"
