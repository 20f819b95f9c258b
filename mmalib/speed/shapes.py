"""Models that have the paper's shapes and nothing learned: what a speed depends on, without training anything.

Throughput depends on layers, widths, the pattern of zeros and the number format, not on what the weights are. So the
speed tables build their models here, from configuration, with random weights and zeros at random places. The
vocabulary is a matter of size on disk alone (one row of the embedding is read for each token whatever its height): it
is small unless it is asked for as it was, which only sizes need.
"""

import torch
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mmalib.data.corpus import LABELS
from mmalib.prune import sparsity

SMALL = 1000  # subwords, where only speed is asked for
# name → (architecture, layers, width, width of the feed-forward part, the vocabulary it has in the paper)
SHAPES = {
    "base": ("xlm", 12, 768, 3072, 250_002),  # xlm-roberta-base
    "mlbert": ("bert", 12, 768, 3072, 119_547),  # bert-base-multilingual-cased
    "distilbert": ("distilbert", 6, 768, 3072, 119_547),  # distilbert-base-multilingual-cased
    "minilm": ("bert", 12, 384, 1536, 250_037),  # Multilingual-MiniLM-L12-H384
    "bert": ("bert", 12, 768, 3072, 30_522),  # bert-base-uncased, of the Optimal BERT Surgeon
    "bert-6": ("bert", 6, 768, 3072, 30_522),
    "bert-3": ("bert", 3, 768, 3072, 30_522),
}
HEADS = 12  # all of them have as many


def shape(name: str, *, vocabulary: int | None = SMALL, layers: int | None = None, seed: int = 0) -> PreTrainedModel:
    """A random model of one of SHAPES; `vocabulary` None gives it the paper's own, `layers` another depth."""
    if name not in SHAPES:
        raise ValueError(f"There is no shape '{name}'. Choose one of: {', '.join(SHAPES)}.")
    architecture, depth, width, inner, subwords = SHAPES[name]
    depth, vocabulary = layers or depth, vocabulary or subwords
    labels = {
        "num_labels": len(LABELS),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: number for number, label in enumerate(LABELS)},
    }
    torch.manual_seed(seed)
    if architecture == "distilbert":
        config = DistilBertConfig(
            vocab_size=vocabulary, dim=width, hidden_dim=inner, n_layers=depth, n_heads=HEADS, **labels
        )
        return DistilBertForTokenClassification(config).eval()
    common = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": depth,
        "num_attention_heads": HEADS,
        **labels,
    }
    if architecture == "bert":
        return BertForTokenClassification(BertConfig(**common)).eval()
    # Its positions count from 2, hence 514; one type of token.
    config = XLMRobertaConfig(
        **common, max_position_embeddings=514, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2
    )
    return XLMRobertaForTokenClassification(config).eval()


def impose_(model: PreTrainedModel, share: float, pattern: str = "1", *, seed: int = 0) -> None:
    """Zero this share of the encoder's weights at random, singly ("1") or in blocks ("4"), in place."""
    draw = torch.Generator().manual_seed(seed)
    size = sparsity.block_size(pattern)
    scores = {
        name: torch.rand(weight.shape[0], weight.shape[1] // size, generator=draw)
        for name, weight in sparsity.weights(model).items()
    }
    sparsity.apply_(model, sparsity.choose(scores, share, pattern))
