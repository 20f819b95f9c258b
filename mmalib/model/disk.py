"""A tuned or pruned model in a folder, and back from it with the same logits; what pruning does to its config.

The folder holds the weights (safetensors), the config and the tokenizer. A model whose layers have lost heads or
neurons says so under one key of its config:

    "pruned": {
        "heads_left": [10, 12, ...],         one number a layer
        "heads_removed": [[1, 5], [], ...],  for every layer, by the numbers that the heads had at first
        "neurons_left": [1536, 512, ...]     width of every feed-forward pair
    }

All other entries of the config (heads, hidden and feed-forward size) stay those of the whole model. A layer may have
lost all heads, or all neurons: what is left of that part is the bias of its last linear map. The key is written and
read in this module only. `AutoModel` does not know it and refuses the folder for its shapes; use `load`.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MethodType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from mmalib.model import adapters
from mmalib.model.backbones import head_size, layers, load_tokenizer, parts
from mmalib.model.cache import complete_folder

PRUNED = "pruned"  # the key in config.json
WEIGHTS = "model.safetensors"
PROVENANCE = "mmalib.json"  # which run left the folder, and with which settings


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, about: dict | None = None
) -> None:
    """Model, tokenizer and what is told `about` them in one folder; the folder is complete or not there."""
    with complete_folder(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        if about:
            tell(fresh, about)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model (float32, ready to predict) and the tokenizer that `save` put into `folder`, pruned or not."""
    folder = Path(folder).resolve()
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}. Give a folder that mmalib.model.disk.save has written.")
    with no_init_weights():  # all are read
        model = skeleton(folder)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}). Make the model again.") from error
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()[:300]  # of what is missing, unexpected or of another shape
        raise ValueError(f"{folder / WEIGHTS} does not fit its config.json: {first} Save the model again.") from error
    return model.eval(), tokenizer_in(folder)


def tokenizer_in(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer beside a model."""
    return load_tokenizer(str(Path(folder).resolve()))  # so that no folder is mistaken for a backbone's short name


def skeleton(folder: Path) -> PreTrainedModel:
    """The model that the config in a folder tells of, in its shapes, with random weights in float32."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all overwritten: leave no trace
        model = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
        _shrink_(model, folder)
        if width := getattr(config, adapters.WIDTH, None):
            adapters.add_(model, width)
    return model


def tell(folder: Path, about: dict) -> None:
    """Leave what is known of a model beside it."""
    (folder / PROVENANCE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def size_mb(folder: Path, file: str = WEIGHTS) -> float:
    """Size of a saved model's weights, or of its graph, in megabytes of a million bytes."""
    return (Path(folder) / file).stat().st_size / 1e6


def record_pruning_(model: PreTrainedModel, heads: Mapping[int, Iterable[int]] | None = None) -> None:
    """Bring the config up to date after layers have shrunk: `heads` went now, the sizes are read from the layers."""
    gone = _heads_removed(model)
    for number, more in (heads or {}).items():
        gone[number] = sorted({*gone[number], *more})
    total = model.config.num_attention_heads
    left = {"heads_left": [total - len(of_layer) for of_layer in gone], "neurons_left": neurons_left(model)}
    setattr(model.config, PRUNED, left | {"heads_removed": gone})
    bypass_(model)


def keep_layers_(model: PreTrainedModel, kept: Collection[int]) -> None:
    """Leave a model only the layers with these numbers, and say so in the config."""
    stack, kept = layers(model), sorted({*kept})
    if not kept or kept[0] < 0 or kept[-1] >= len(stack):
        raise ValueError(f"The layers {kept} cannot be what stays of {len(stack)}, numbered from 0.")
    for number in sorted({*range(len(stack))} - {*kept}, reverse=True):
        del stack[number]
    model.config.num_hidden_layers = len(stack)
    if entry := getattr(model.config, PRUNED, None):
        setattr(model.config, PRUNED, {name: [of[number] for number in kept] for name, of in entry.items()})


def bypass_(model: PreTrainedModel) -> None:
    """Skip attention without heads and feed-forward parts without neurons; copies of the model skip them too."""
    for layer in layers(model):
        own, is_bert = parts(layer), hasattr(layer, "intermediate")
        if not own.mix.in_features:
            layer.attention.forward = MethodType(_no_heads if is_bert else _no_heads_distilbert, layer.attention)
        if not own.narrow.in_features:
            part = layer.output if is_bert else layer.ffn
            part.forward = MethodType(_no_neurons if is_bert else _no_neurons_distilbert, part)


def _no_heads(attention: nn.Module, hidden: Tensor, *_, **__) -> tuple[Tensor, None]:
    return attention.output.LayerNorm(hidden + attention.output.dense.bias), None


def _no_heads_distilbert(attention: nn.Module, hidden: Tensor, *_, **__) -> tuple[Tensor, None]:
    return attention.out_lin.bias.expand_as(hidden), None


def _no_neurons(output: nn.Module, _: Tensor, hidden: Tensor) -> Tensor:
    return output.LayerNorm(hidden + output.dense.bias)


def _no_neurons_distilbert(ffn: nn.Module, hidden: Tensor) -> Tensor:
    return ffn.lin2.bias.expand_as(hidden)


def heads_left(model: PreTrainedModel) -> list[list[int]]:
    """For every layer the heads that are still there, by their first numbers, in the order of their slices."""
    total = model.config.num_attention_heads
    return [[head for head in range(total) if head not in gone] for gone in _heads_removed(model)]


def neurons_left(model: PreTrainedModel) -> list[int]:
    """The feed-forward width of every layer."""
    return [parts(layer).widen.out_features for layer in layers(model)]


def keep_(writers: Iterable[nn.Linear], reader: nn.Linear, kept: Tensor) -> None:
    """Leave maps only these outputs, and the map that reads them only these inputs; make the optimizer after this."""
    for linear in writers:
        linear.weight, linear.bias = (_part(old, 0, kept) for old in (linear.weight, linear.bias))
        linear.out_features = len(kept)
    reader.weight = _part(reader.weight, 1, kept)
    reader.in_features = len(kept)


def _part(old: nn.Parameter, dimension: int, kept: Tensor) -> nn.Parameter:
    return nn.Parameter(old.detach().index_select(dimension, kept.to(old.device)), requires_grad=old.requires_grad)


def _heads_removed(model: PreTrainedModel) -> list[list[int]]:
    entry = getattr(model.config, PRUNED, None)
    return [list(gone) for gone in entry["heads_removed"]] if entry else [[] for _ in layers(model)]


def _shrink_(model: PreTrainedModel, folder: Path) -> None:
    """Give a whole model the shapes that its config tells of; which weights go does not matter here."""
    entry = getattr(model.config, PRUNED, None)
    if not entry:
        return
    try:
        shapes = list(zip(layers(model), entry["heads_left"], entry["neurons_left"], strict=True))
        consistent = [len(left) for left in heads_left(model)] == entry["heads_left"]
    except (KeyError, TypeError, ValueError):
        consistent = False
    if not consistent:
        raise ValueError(f"'{PRUNED}' in {folder / 'config.json'} does not fit the model. Save the model again.")
    for layer, heads, neurons in shapes:
        own = parts(layer)
        keep_((own.query, own.key, own.value), own.mix, torch.arange(heads * head_size(model)))
        keep_([own.widen], own.narrow, torch.arange(neurons))
    bypass_(model)
