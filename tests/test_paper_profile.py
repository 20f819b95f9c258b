"""The `paper` profile from start to record, with tiny random folders in the place of the hub's four models.

Nobody has run it at its own size yet; what differs from `quick` is the models: three architectures, three tokenizers, a
student whose tokenizer is another model's, and vocabularies that hold much more than the study's languages need.
"""

import dataclasses

import pandas as pd
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    DistilBertTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from mmalib import plan, profiles, reports
from mmalib.model import backbones, disk
from mmalib.studies.study import Study

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
CAPS = dict(
    seeds=(1,), data="sample", train_sentences=32, eval_sentences=8, epochs=1, batch_size=8, max_length=64,
    curve_sentences=8, head_share=0.25, importance_sentences=8, recovery_sentences=8, pruning_seeds=(1,),
    pruning_epochs=1, sparse_epochs=1, fisher_gradients=4, fisher_batch=2, fisher_block=8, unlabelled_sentences=8,
    distil_epochs=1, calibration_sentences=4, calibration_methods=("minmax",), qat_sentences=8, floor_sentences=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory, word_pieces, unigram_pieces):
    """Four folders under the names of the hub's models."""
    home = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sentence_pieces = XLMRobertaTokenizer(vocab=unigram_pieces)
    longest = dict(max_position_embeddings=160)
    made = {
        "xlm": (
            XLMRobertaModel(XLMRobertaConfig(vocab_size=len(sentence_pieces), **SMALL, **longest)),
            sentence_pieces,
        ),
        "mlbert": (
            BertModel(BertConfig(vocab_size=len(word_pieces), **SMALL, **longest)),
            BertTokenizer(vocab=word_pieces, do_lower_case=False),
        ),
        "distilbert": (
            DistilBertModel(
                DistilBertConfig(vocab_size=len(word_pieces), dim=16, n_layers=1, n_heads=4, hidden_dim=32, **longest)
            ),
            DistilBertTokenizer(vocab=word_pieces, do_lower_case=False),
        ),
        # a BERT that reads XLM-R's pieces and brings no tokenizer of its own
        "minilm": (BertModel(BertConfig(vocab_size=len(sentence_pieces), **SMALL, **longest)), None),
    }
    for name, (model, tokenizer) in made.items():
        model.save_pretrained(home / name)
        if tokenizer:
            tokenizer.save_pretrained(home / name)
    return home


def test_every_notebooks_runs_go_through_with_the_papers_four_kinds_of_models(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "HUB", {name: str(hub / name) for name in backbones.HUB})
    monkeypatch.setattr(backbones, "TOKENIZERS", {"minilm": str(hub / "xlm")})
    paper = dataclasses.replace(profiles.PROFILES["paper"], **CAPS)
    study = Study.open(paper, tmp_path)
    for run in study.runs("06", "combination"):  # brings runs of notebooks 02, 04 and 05 with it, each on XLM-R
        study.make(run)
    for name in paper.backbones:
        study.make(plan.named("02", "heads", name, "sample", 1))
        study.make(plan.named("05", "static-qoperator", name, "sample", 1))
    cut = study.make(plan.named("02", "vocabulary", "xlm", "sample", 1))
    for criterion in plan.CRITERIA:
        study.make(plan.gradual_name(criterion, 0.9, plan.SCHEDULE[criterion], "mlbert", "sample", 1))
    for setting in ("plain", "teacher", "unlabelled"):
        study.make(plan.student_name("minilm", setting, "sample", 1))
    records = study.records()
    assert {r["settings"]["backbone"] for r in records} == set(backbones.HUB)
    assert {r["settings"]["notebook"] for r in records} == {"01", "02", "03", "04", "05", "06"}
    drawn = reports.draw(records)
    assert {"table_1", "table_3", "table_4", "table_6", "table_8", "figure_1", "table_sums"} <= set(drawn)
    ours = [table["source"].str.startswith("this study").sum() for table in drawn.values() if _beside(table)]
    assert len(ours) >= 5 and min(ours) >= 1
    models = [disk.load(study.folder(name))[0] for name in (cut["run"], cut["needs"]["base"])]
    fewer, every = (model.get_input_embeddings().num_embeddings for model in models)
    assert fewer < every


def _beside(table) -> bool:
    return isinstance(table, pd.DataFrame) and "source" in table
