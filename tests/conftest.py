"""What every test may count on: no network, no data from outside the repository, few threads."""

import copy
import dataclasses
import json
import os
import signal

# Set while pytest loads, before any test module imports a library that reads these once, at import.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
for folder in ("MMALIB_DATA", "MMALIB_TEXT"):
    os.environ.pop(folder, None)
SIDE_BY_SIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
if SIDE_BY_SIDE:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

# In the background of a script, pytest inherits that interrupts are ignored, and so would all children of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402

torch.set_num_threads(1 if SIDE_BY_SIDE else 2)

import pytest  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, processors, trainers  # noqa: E402
from tokenizers import pre_tokenizers as before  # noqa: E402
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mmalib.data import sample  # noqa: E402
from mmalib.model import backbones  # noqa: E402


def pytest_collection_modifyitems(items: list) -> None:
    """The study from end to end takes as long as all other tests together: begun last, it would run on alone."""
    items.sort(key=lambda item: "from_end_to_end" not in item.name)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def sample_lines() -> dict[str, list[str]]:
    """The sample's training sentences as plain lines by language."""
    corpora = sample.generate()
    return {language: [" ".join(words) for words, _ in splits["train"]] for language, splits in corpora.items()}


@pytest.fixture(scope="session")
def tiny_vocabulary(sample_lines) -> Tokenizer:
    """A cased vocabulary of 1,000 WordPieces of the sample, accents kept."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
    tokenizer.pre_tokenizer = before.BertPreTokenizer()
    lines = [line for language in sorted(sample_lines) for line in sample_lines[language]]
    # Without its letters given, the trainer numbers them as it meets them, another way in each process.
    letters = [f"##{letter}" for letter in sorted(set("".join(lines)) - {" "})]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1000, special_tokens=SPECIAL + letters, min_frequency=5, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.model = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def random_backbone(tiny_vocabulary):
    """A folder with a random BERT of so many narrow layers: real enough for every code path, too small to be good."""

    def build(folder, layers):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=tiny_vocabulary.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=1024,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        BertTokenizer(
            tokenizer_object=tiny_vocabulary, do_lower_case=False, strip_accents=False, model_max_length=1024
        ).save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def tiny_backbone(random_backbone, tmp_path_factory):
    """Such a folder, of two layers."""
    return random_backbone(tmp_path_factory.mktemp("tiny-backbone"), 2)


@pytest.fixture(scope="session")
def tiny_study(tiny_backbone, tmp_path_factory):
    """A study of the smallest sizes on the tiny backbone, in a folder of its own; some settings may be changed."""
    from smoke import SMOKE

    from mmalib.studies.study import Study

    def build(**changes):
        tiny = str(tiny_backbone)
        own = {"name": "tiny", "backbones": (tiny,), "teacher": tiny, "students": (tiny,)}
        own |= {"unlabelled_students": (tiny,), "frozen": None, "frozen_after": None}  # its embeddings are random
        profile = dataclasses.replace(SMOKE, **own | changes)
        return Study.open(profile, tmp_path_factory.mktemp("runs"), "sample")

    return build


@pytest.fixture(scope="session")
def word_pieces(tiny_vocabulary) -> dict[str, int]:
    """A vocabulary in the order of mBERT's: special tokens are not in front, and many pieces are never used."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rest = [piece for piece in sorted(tiny_vocabulary.get_vocab()) if piece not in [*special, "[PAD]"]]
    order = ["[PAD]", *(f"[unused{i}]" for i in range(1, 20)), *special, *rest, "Ж", "##ж", "Жук", "\u4e2d"]
    return {piece: number for number, piece in enumerate(order)}


@pytest.fixture(scope="session")
def unigram_pieces(sample_lines) -> list[tuple[str, float]]:
    """Pieces with scores in the order of XLM-RoBERTa's: four special tokens in front, <mask> at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = before.Sequence([before.WhitespaceSplit(), before.Metaspace()])
    lines = [line for language in sample_lines.values() for line in language[:600]]
    trainer = trainers.UnigramTrainer(vocab_size=900, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer=trainer)
    learnt = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "<unk>"]
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    return [*special, *learnt, ("\u4e2d", -9.0), ("\u0416\u0443\u043a", -8.0), ("<mask>", 0.0)]


@pytest.fixture(scope="session")
def tokenizer(tiny_backbone):
    return backbones.load_tokenizer(str(tiny_backbone))


@pytest.fixture(scope="session")
def random_model(tiny_backbone):
    """A random model of an architecture, with the tiny backbone's vocabulary."""
    bert = backbones.load_model(str(tiny_backbone))
    common = {"vocab_size": bert.config.vocab_size, "id2label": bert.config.id2label, "initializer_range": 0.4}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    distil = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}

    def build(architecture):
        torch.manual_seed(0)
        if architecture == "xlm-r":
            return XLMRobertaForTokenClassification(XLMRobertaConfig(**common, **sizes)).eval()
        if architecture == "distilbert":
            return DistilBertForTokenClassification(DistilBertConfig(**common, **distil)).eval()
        return copy.deepcopy(bert).eval()

    return build


@pytest.fixture(scope="session")
def tune():
    """`finetune` with a split of a corpus in place of rows, and the recipe's settings beside the rest."""
    from mmalib.data.subwords import encode_split, training_rows
    from mmalib.model import finetune

    def run(model, tokenizer, english, folder, *, max_length, seed, loss=None, callbacks=(), rows=None, **recipe):
        if rows is None:
            rows = training_rows(encode_split(english["train"], tokenizer, max_length), model.config.label2id)
        dev, how = encode_split(english["dev"], tokenizer, max_length), finetune.Recipe(**recipe)
        return finetune.finetune(model, rows, dev, how, folder=folder, seed=seed, loss=loss, callbacks=callbacks)

    return run


@pytest.fixture(scope="session")
def gated():
    """The model with some heads switched off for as long as a context lasts; its weights stay as they are."""
    from mmalib.prune import heads

    return lambda model, masked: heads.scaled(heads.gates_of(model, masked))
