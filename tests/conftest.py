"""What every test may count on: no network, no data from outside the repository, few threads."""

import os

# Set while pytest loads, before any test module imports a library that reads these once, at import.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("MMALIB_DATA", None)

import torch  # noqa: E402

torch.set_num_threads(2)

import pytest  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

from mmalib import sample  # noqa: E402
from mmalib.pretrain import text  # noqa: E402


@pytest.fixture(scope="session")
def sample_lines() -> dict[str, list[str]]:
    """The sample's training sentences as plain lines by language."""
    corpora = sample.generate()
    return {language: [" ".join(words) for words, _ in splits["train"]] for language, splits in corpora.items()}


@pytest.fixture(scope="session")
def tiny_vocabulary(sample_lines) -> Tokenizer:
    """A vocabulary of 1,000 subwords of the sample."""
    return text.train_vocabulary(sample_lines, size=1000)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory, tiny_vocabulary):
    """A folder with a random BERT of two narrow layers: real enough for every code path, too small to be good."""
    folder = tmp_path_factory.mktemp("tiny-backbone")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tiny_vocabulary.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=1024,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    text.as_bert(tiny_vocabulary, 1024).save_pretrained(folder)
    return folder
