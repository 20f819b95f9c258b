"""Short name → model and tokenizer; and what the three architectures call their layers and linear maps."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from mmalib.data import LABELS, named
from mmalib.model import packed

SHIPPED = ("e5", "e5-half", "e5-narrow")
HUB = {
    "xlm": "FacebookAI/xlm-roberta-base",
    "mlbert": "google-bert/bert-base-multilingual-cased",
    "distilbert": "distilbert/distilbert-base-multilingual-cased",
    "minilm": "microsoft/Multilingual-MiniLM-L12-H384",
}
# Multilingual-MiniLM ships without a fast tokenizer; its vocabulary is XLM-R's (its model card says so).
TOKENIZERS = {"minilm": HUB["xlm"]}
# Weights of few bits have exact zeros, and a weight that is exactly 0 counts as pruned in this study.
ALMOST_ZERO = 1e-8


class Parts(NamedTuple):
    """The six linear maps of one transformer layer, under one name each for every architecture."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    mix: nn.Linear  # takes the heads' outputs together
    widen: nn.Linear  # the feed-forward pair
    narrow: nn.Linear


def locate(name: str) -> str:
    """Where a backbone comes from: the folder of a shipped one, a model id of the hub, or a local folder."""
    if name in SHIPPED:
        return str(packed.unpacked(name))
    if name in HUB:
        return HUB[name]
    if (Path(name) / "config.json").is_file():
        return str(name)
    known = ", ".join([*SHIPPED, *HUB])
    raise ValueError(f"'{name}' is neither a backbone ({known}) nor a folder with a config.json.")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a backbone."""
    return _loaded(AutoTokenizer, TOKENIZERS.get(name) or locate(name), name)


def load_model(name: str, *, seed: int = 0, labels: Sequence[str] = LABELS, sparse: bool = False) -> PreTrainedModel:
    """A backbone with a head for the labels of a task (drawn from `seed` where it brings none), in float32.

    Of one that is `sparse`, the zeros were pruned and stay.
    """
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # the report on missing weights is read here, not by the user
    logging.disable_progress_bar()
    how = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = _loaded(AutoModelForTokenClassification, locate(name), name, **named(labels), **how)
    if lost := sorted(key for key in report["missing_keys"] if not key.startswith("classifier.")):
        raise ValueError(f"The weights of '{name}' are missing {len(lost)} tensors, {lost[0]} first. Fetch them again.")
    with torch.no_grad():
        for linear in () if sparse else linears(model).values():
            linear.weight[linear.weight == 0] = ALMOST_ZERO
    return model


def _loaded(kind: type, source: str, name: str, **settings):
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **settings)
    except (OSError, ValueError) as error:
        where = "fetched from the hub" if name in HUB else "loaded"
        raise ValueError(
            f"The backbone '{name}' ({source}) could not be {where}: {str(error).splitlines()[0]} "
            "Give a local folder in its place, or use --profile quick, which needs nothing from outside."
        ) from error


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a BERT, XLM-RoBERTa or DistilBERT, with or without a head."""
    body = model.base_model
    return (body.transformer if hasattr(body, "transformer") else body.encoder).layer


def parts(layer: nn.Module) -> Parts:
    """The linear maps of one layer of a BERT, XLM-RoBERTa or DistilBERT."""
    attention = layer.attention
    if hasattr(attention, "q_lin"):  # DistilBERT
        ffn = layer.ffn
        return Parts(attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, ffn.lin1, ffn.lin2)
    own, after = attention.self, attention.output.dense
    return Parts(own.query, own.key, own.value, after, layer.intermediate.dense, layer.output.dense)


def head_size(model: PreTrainedModel) -> int:
    """How many numbers one head puts out; pruning does not change it."""
    return model.config.hidden_size // model.config.num_attention_heads


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear maps of the encoder's layers by the names of their modules, in the order in which they run."""
    names = {module: name for name, module in model.named_modules()}
    return {names[linear]: linear for layer in layers(model) for linear in parts(layer)}


@contextmanager
def evaluating(model: nn.Module, weights: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """No dropout inside, and gradients for these weights where they are frozen; afterwards all is as it was."""
    training, frozen = model.training, [weight for weight in weights if not weight.requires_grad]
    model.eval()
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        model.train(training)


def hooked(handles: Iterable[RemovableHandle]) -> ExitStack:
    """Hooks that are there inside the context alone."""
    stack = ExitStack()
    for handle in handles:
        stack.callback(handle.remove)
    return stack


def freeze_(model: PreTrainedModel, share: float | None) -> None:
    """Keep the embeddings and this share of the layers, from below, as they are in training; None freezes nothing."""
    if share is not None:
        for module in [model.base_model.embeddings, *layers(model)[: round(share * len(layers(model)))]]:
            module.requires_grad_(False)
