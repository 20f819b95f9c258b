"""The teacher's term by hand; words aligned across tokenizers, labels by name; cached = live; the ends of hardness."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from smoke import SMOKE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from mmalib.data import LABELS, corpus, subwords
from mmalib.model import backbones, distill
from mmalib.model.finetune import _Collator

SETTINGS = {"seed": 1, "epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "max_length": 64}
NAN = math.nan
WORDS = ["Madrid", "de", "Internationale", "unbelievably", ",", "José", "x" * 40, "1998", "\u00ad", "."]


@pytest.fixture(scope="module")
def corpora():
    loaded = corpus.load(SMOKE, "sample")
    return {
        language: {split: sentences.select(range(32)) for split, sentences in splits.items()}
        for language, splits in loaded.items()
    }


@pytest.fixture(scope="module")
def english(corpora):
    return corpora["en"]


@pytest.fixture(scope="module")
def student_tokenizer(tiny_backbone):
    return backbones.load_tokenizer(str(tiny_backbone))  # WordPiece, as BERT and DistilBERT have it


@pytest.fixture
def student(tiny_backbone):
    return backbones.load_model(str(tiny_backbone), seed=1)


@pytest.fixture(scope="module")
def teacher_tokenizer(sample_lines):
    """A unigram model over pieces that begin with a blank, as XLM-RoBERTa has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(sample_lines["en"][:500], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", pad_token="<pad>", sep_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def teacher(teacher_tokenizer):
    """A random XLM-RoBERTa with strong opinions, in double precision: how it is batched does not show in float32."""
    torch.manual_seed(5)
    config = XLMRobertaConfig(
        vocab_size=len(teacher_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.4,
        max_position_embeddings=600,
        id2label=dict(enumerate(LABELS)),
    )
    return XLMRobertaForTokenClassification(config).double().eval()


def relabelled(model, labels):
    """The same model with its labels in another order."""
    other = copy.deepcopy(model)
    order = [LABELS.index(label) for label in labels]
    with torch.no_grad():
        other.classifier.weight.copy_(model.classifier.weight[order])
        other.classifier.bias.copy_(model.classifier.bias[order])
    other.config.id2label = dict(enumerate(labels))
    other.config.label2id = {label: number for number, label in enumerate(labels)}
    return other


def long_sentences(number, seed):
    draw = np.random.default_rng(seed)
    return [[WORDS[i] for i in draw.integers(len(WORDS), size=draw.integers(1, 60))] for _ in range(number)]


@pytest.fixture(scope="module")
def teach(tune, english):
    def run(student, tokenizer, ask, folder, *, tags=None, sentences=None, hardness=0.5, **changes):
        sentences = english["train"]["words"] if sentences is None else sentences
        tags = english["train"]["tags"] if tags is None else tags
        text = subwords.encode(sentences, tokenizer, 64, tags)
        rows = subwords.training_rows(text, student.config.label2id, ask(sentences))
        loss = distill.loss(hardness=hardness, temperature=2.0)
        return tune(student, tokenizer, english, folder, rows=rows, loss=loss, **{**SETTINGS, **changes})[0]

    return run


def heard(model, tokenizer, sentences, max_length=64, folder=None):
    return distill.answers(model, subwords.encode(sentences, tokenizer, max_length), folder)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def softmax(logits, temperature=1.0):
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


# the loss


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_of_two_words_by_hand(hardness, temperature):
    # [CLS] word, second subword, word, [SEP], padding; the second word has no gold label
    student = [[9.0, 9, 9], [1.0, -2, 0.5], [7, 8, 9], [0.2, 0.1, -1], [4, 4, 4], [NAN, NAN, NAN]]
    teacher = [[NAN] * 3, [2.0, 0, -1], [NAN] * 3, [-1, 0.5, 3], [NAN] * 3, [NAN] * 3]
    gold = [-100, 2, -100, -100, -100, -100]

    def taught(place):
        wanted, own = softmax(teacher[place], temperature), softmax(student[place], temperature)
        return temperature**2 * sum(p * math.log(p / q) for p, q in zip(wanted, own, strict=True))

    task = -math.log(softmax(student[1])[2])
    expected = ((1 - hardness) * task + hardness * taught(1) + taught(3)) / 2
    found = distill.of_words(
        torch.tensor([student]),
        torch.tensor([teacher]),
        torch.tensor([gold]),
        hardness=hardness,
        temperature=temperature,
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_word_without_a_label_weighs_what_its_teacher_is_sure_of():
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, 3, generator=draw)
    gold = torch.tensor([[0, -100, 2, -100, -100, 1]])
    how = {"hardness": 0.4, "temperature": 2.0}
    alone = [distill.of_words(student[:, [i]], teacher[:, [i]], gold[:, [i]], **how) for i in range(6)]
    sure = [max(softmax(teacher[0, i].tolist())) if gold[0, i] == -100 else 1.0 for i in range(6)]
    expected = sum(weight * loss for weight, loss in zip(sure, alone, strict=True)) / sum(sure)
    found = distill.of_words(student, teacher, gold, **how, by_confidence=True)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found != distill.of_words(student, teacher, gold, **how)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gold = torch.full((2, 5), -100)
    found = distill.of_words(logits, logits.detach(), gold, hardness=1.0, temperature=2.0)
    found.backward()
    assert found == 0 and logits.grad.abs().max() < 1e-7


def test_the_loss_of_half_precision_logits_is_computed_in_full():
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 9, generator=draw)
    gold = torch.randint(9, (3, 4), generator=draw)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distill.of_words(half, targets, gold, hardness=0.5, temperature=2.0)
    assert found.dtype == torch.float32
    assert found == distill.of_words(half.float(), targets, gold, hardness=0.5, temperature=2.0)


# the teacher's words


def test_the_teacher_is_heard_at_the_first_subword(teacher, teacher_tokenizer, english):
    sentences = [*english["train"]["words"][:20], ["Internationale", "José", "x"]]
    said = heard(teacher, teacher_tokenizer, sentences, 512)
    for words, of_sentence in zip(sentences, said, strict=True):
        encoded = teacher_tokenizer(words, is_split_into_words=True)
        ids = [teacher_tokenizer.cls_token_id, *encoded["input_ids"], teacher_tokenizer.sep_token_id]
        first = [1 + encoded.word_ids().index(word) for word in range(len(words))]
        with torch.inference_mode():
            alone = teacher(input_ids=torch.tensor([ids])).logits[0, first]
        np.testing.assert_allclose(of_sentence, alone.numpy(), rtol=1e-5)


@pytest.mark.parametrize("max_length", [8, 31])
def test_words_of_long_sentences_are_all_heard(teacher, teacher_tokenizer, max_length):
    sentences = long_sentences(30, seed=max_length)
    said = heard(teacher, teacher_tokenizer, sentences, max_length)
    predicted = subwords.predict_tags(teacher, teacher_tokenizer, sentences, max_length=max_length)
    assert [[LABELS[i] for i in of_sentence.argmax(-1)] for of_sentence in said] == predicted


def test_labels_are_matched_by_name(teacher, teacher_tokenizer, student, student_tokenizer, english):
    backwards, sentences, tags = LABELS[::-1], english["train"]["words"][:16], english["train"]["tags"][:16]
    other = relabelled(teacher, backwards)
    said, said_by_other = (heard(m, teacher_tokenizer, sentences, 64) for m in (teacher, other))
    assert not np.allclose(said[0], said[0][:, ::-1])
    for one, another in zip(said, said_by_other, strict=True):
        np.testing.assert_array_equal(one, another)
    ask = partial(heard, teacher, teacher_tokenizer)
    losses = []
    for model in (student.eval(), relabelled(student, backwards).eval()):
        text = subwords.encode(sentences, student_tokenizer, 64, tags)
        rows = subwords.training_rows(text, model.config.label2id, ask(sentences))
        losses.append(batch_loss(rows, model, student_tokenizer, 0.5).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def batch_loss(rows, model, tokenizer, hardness):
    """The loss over these rows as one batch."""
    batch = _Collator(tokenizer, masked_words=0.0)(rows)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return distill.loss(hardness=hardness, temperature=2.0)(logits, batch)


@pytest.mark.parametrize("which", ["student_tokenizer", "teacher_tokenizer"])
def test_the_student_hears_of_each_word_at_its_own_first_subword(which, request, student):
    tokenizer, sentences = request.getfixturevalue(which), long_sentences(12, seed=3)
    answers = [np.zeros((len(words), len(LABELS)), dtype=np.float32) for words in sentences]
    for number, of_sentence in enumerate(answers):  # column 0 names the sentence, column 1 the word
        of_sentence[:, 0], of_sentence[:, 1] = number, np.arange(len(of_sentence))
    rows = subwords.training_rows(subwords.encode(sentences, tokenizer, 24), student.config.label2id, answers)
    batch = _Collator(tokenizer, masked_words=0.0)(rows)
    seen = []
    for ids, labels, targets in zip(batch["input_ids"], batch["labels"], batch["answers"], strict=True):
        assert (labels == subwords.IGNORED).all()
        for position in (~targets[:, 0].isnan()).nonzero().flatten().tolist():
            sentence, word = int(targets[position, 0]), int(targets[position, 1])
            pieces = tokenizer(sentences[sentence][word : word + 1], is_split_into_words=True, add_special_tokens=False)
            assert ids[position] == (pieces["input_ids"] or [tokenizer.unk_token_id])[0]
            seen.append((sentence, word))
    assert sorted(seen) == [(s, w) for s, words in enumerate(sentences) for w in range(len(words))]
    assert len(rows) > len(sentences)  # some were cut


def test_the_two_tokenizers_do_split_differently(student_tokenizer, teacher_tokenizer, english):
    cuts = [
        [len(window.ids) for window in subwords.encode(english["train"]["words"], tokenizer, 512).windows]
        for tokenizer in (student_tokenizer, teacher_tokenizer)
    ]
    assert cuts[0] != cuts[1]


# training


@pytest.fixture(scope="module")
def ask(teacher, teacher_tokenizer):
    return partial(heard, teacher, teacher_tokenizer)


@pytest.fixture(scope="module")
def taught(teach, tiny_backbone, student_tokenizer, ask, tmp_path_factory):
    student = backbones.load_model(str(tiny_backbone), seed=1)
    return teach(student, student_tokenizer, ask, tmp_path_factory.mktemp("taught") / "run")


def test_hardness_0_is_plain_fine_tuning(tune, teach, student, student_tokenizer, english, ask, taught, tmp_path):
    plain, _ = tune(copy.deepcopy(student), student_tokenizer, english, tmp_path / "a", **SETTINGS)
    assert equal(plain, teach(student, student_tokenizer, ask, tmp_path / "b", hardness=0.0))
    assert not equal(plain, taught)


def test_gold_labels_count_below_hardness_1_and_not_at_1(
    teach, student, student_tokenizer, english, ask, taught, tmp_path
):
    wrong = [["B-MISC" if tag == "O" else "O" for tag in tags] for tags in english["train"]["tags"]]

    def tuned(name, **given):
        return teach(copy.deepcopy(student), student_tokenizer, ask, tmp_path / name, **given)

    assert not equal(taught, tuned("half", tags=wrong))
    assert equal(tuned("right", hardness=1.0), tuned("wrong", hardness=1.0, tags=wrong))


def test_what_was_asked_once_is_read(teacher, teacher_tokenizer, english, ask, tmp_path):
    sentences, folder = english["train"]["words"], tmp_path / "cache"
    before = heard(teacher, teacher_tokenizer, sentences, folder=folder)
    assert len(list(folder.iterdir())) == 1  # nothing half written beside it
    mute = copy.deepcopy(teacher)
    mute.forward = None  # a teacher that cannot be asked says the same
    again = heard(mute, teacher_tokenizer, sentences, folder=folder)
    for one, other, live in zip(before, again, ask(sentences), strict=True):
        assert np.array_equal(one, other) and np.array_equal(one, live)


def test_another_teacher_or_text_is_asked_anew(teacher, teacher_tokenizer, english, tmp_path):
    sentences, other = list(english["train"]["words"][:8]), copy.deepcopy(teacher)
    with torch.no_grad():
        other.classifier.bias[0] += 1.0
    for model, some, max_length in (
        (teacher, sentences, 64),
        (other, sentences, 64),
        (relabelled(teacher, LABELS[::-1]), sentences, 64),
        (teacher, sentences[1:], 64),
        (teacher, sentences, 12),
    ):
        kept = heard(model, teacher_tokenizer, some, max_length, tmp_path)
        now = heard(model, teacher_tokenizer, some, max_length)
        assert all(np.array_equal(one, two) for one, two in zip(kept, now, strict=True))
    assert len(list(tmp_path.iterdir())) == 5


def test_killed_and_resumed_equals_unbroken(teach, student, student_tokenizer, ask, taught, tmp_path):
    class Kill(TrainerCallback):
        def on_save(self, *_, **__):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(copy.deepcopy(student), student_tokenizer, ask, tmp_path / "run", callbacks=[Kill()])
    assert equal(taught, teach(student, student_tokenizer, ask, tmp_path / "run"))


def test_what_is_pruned_in_training_stays_pruned(teach, student, student_tokenizer, ask, taught, tmp_path):
    pruned = backbones.parts(backbones.layers(student)[0]).widen.weight

    class Prune(TrainerCallback):
        def on_step_end(self, *_, **__):
            pruned.data[:, ::2] = 0

    tuned = teach(student, student_tokenizer, ask, tmp_path / "run", callbacks=[Prune()])
    weight = backbones.parts(backbones.layers(tuned)[0]).widen.weight
    assert (weight[:, ::2] == 0).all() and (weight[:, 1::2] != 0).all() and not equal(tuned, taught)


# sentences without gold labels


def test_an_unlabelled_sentence_has_the_teachers_term_alone(student, student_tokenizer, english, ask):
    student.eval()
    sentences, tags = list(english["train"]["words"][:6]), list(english["train"]["tags"][:6])

    def of(numbers, hardness, blank):
        given = [None if number in blank else gold for number, gold in enumerate(tags)]
        text = subwords.encode(sentences, student_tokenizer, 64, given)
        rows = subwords.training_rows(text, student.config.label2id, ask(sentences))
        return batch_loss([rows[number] for number in numbers], student, student_tokenizer, hardness).item()

    every, some, rest = range(6), [1, 4], [0, 2, 3, 5]
    size = {n: len(sentences[n]) for n in every}
    total, unlabelled = sum(size.values()), sum(size[n] for n in some)
    assert of(some, 0.3, blank=some) == pytest.approx(of(some, 1.0, blank=()), rel=1e-5)
    mixed = (unlabelled * of(some, 1.0, blank=()) + (total - unlabelled) * of(rest, 0.3, blank=())) / total
    assert of(every, 0.3, blank=some) == pytest.approx(mixed, rel=1e-5)
    assert of(every, 0.3, blank=some) != pytest.approx(of(every, 0.3, blank=()), rel=1e-3)


def test_a_student_comes_closer_to_its_teacher_on_unlabelled_text(
    teach, student, student_tokenizer, corpora, ask, tmp_path
):
    english, unlabelled = corpora["en"], list(corpora["es"]["train"]["words"])
    sentences = [*english["train"]["words"], *unlabelled]
    tags = [*english["train"]["tags"], *[None] * len(unlabelled)]

    def distance(model):
        own = heard(model, student_tokenizer, unlabelled, 64)
        pairs = [torch.from_numpy(np.concatenate(part)).log_softmax(-1) for part in (own, ask(unlabelled))]
        return functional.kl_div(*pairs, reduction="batchmean", log_target=True).item()

    before = distance(student)
    arguments = {"tags": tags, "sentences": sentences, "hardness": 0.0}
    after = distance(teach(student, student_tokenizer, ask, tmp_path / "run", **arguments))
    assert after < 0.9 * before


# mistakes


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hardness": 1.2}, "between 0 .* and 1"),
        ({"hardness": NAN}, "between 0 .* and 1"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        distill.loss(**{"hardness": 0.5, "temperature": 1.0, **changes})


def test_as_many_lists_of_tags_as_sentences(student_tokenizer):
    with pytest.raises(ValueError, match="2 sentences and 1 lists of tags"):
        subwords.encode([["a"], ["b"]], student_tokenizer, 64, [["O"]])


def test_a_teacher_with_other_labels_is_refused(teacher, teacher_tokenizer):
    other = relabelled(teacher, [*LABELS[:-1], LABELS[-1]])
    other.config.id2label = {**teacher.config.id2label, 8: "I-DATE"}
    with pytest.raises(ValueError, match="I-DATE.*Tune it on this study"):
        heard(other, teacher_tokenizer, [["a"]], 64)


def test_a_teacher_without_finite_answers_is_refused(teacher, teacher_tokenizer):
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.classifier.bias[3] = NAN
    with pytest.raises(ValueError, match="not all finite"):
        heard(broken, teacher_tokenizer, [["a", "b"]])


TURNED = [*LABELS[2:], *LABELS[:2]]  # a reversal would be its own inverse


def test_answers_stand_in_the_models_own_order(student_tokenizer):
    text = subwords.encode([["a", "b"]], student_tokenizer, 16)
    label2id = {label: number for number, label in enumerate(TURNED)}
    (row,) = subwords.training_rows(text, label2id, [np.tile(np.arange(9, dtype=np.float32), (2, 1))])
    place, _ = text.windows[0].scored[0]
    assert [LABELS[int(number)] for number in row["answers"][place]] == TURNED


def test_a_teachers_columns_are_in_the_studys_order():
    teacher = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(TURNED))))
    assert [TURNED[number] for number in distill._columns(teacher)] == list(LABELS)


def test_confidence_reaches_the_loss_of_a_batch():
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, 3, generator=draw)
    batch = {"answers": teacher, "labels": torch.tensor([[0, -100, 2, -100, -100, 1]])}
    how = {"hardness": 0.4, "temperature": 2.0}
    found = distill.loss(**how, by_confidence=True)(student, batch)
    assert found == distill.of_words(student, teacher, batch["labels"], **how, by_confidence=True)
