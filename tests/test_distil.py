"""Students: what they start from, what their losses measure, and the whole recipe at toy size."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from mmalib.pretrain import batches, distil, recipe, text


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=200,
            hidden_size=32,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 200, (4, 12), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = torch.where((torch.rand(ids.shape, generator=draw) < 0.3) & (mask > 0), ids, -100)
    positions = torch.arange(12).expand(4, 12)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


def test_half_depth_takes_whole_layers_of_the_teacher(teacher):
    student = distil.half_depth(teacher)
    assert student.config.num_hidden_layers == 3
    for layer, source in zip(student.bert.encoder.layer, (0, 2, 5), strict=True):
        for name, weight in layer.state_dict().items():
            assert torch.equal(weight, teacher.bert.encoder.layer[source].state_dict()[name])


def test_a_student_equal_to_its_teacher_has_only_the_words_left_to_learn(teacher, batch):
    same = BertForMaskedLM(teacher.config)
    same.load_state_dict(teacher.state_dict())
    words = distil.word_loss(distil.masked_logits(same, batch)[0], batch)
    assert distil.depth_loss(teacher)(same, batch).item() == pytest.approx(2 * words.item(), abs=1e-5)
    assert distil.width_loss(teacher)(same, batch).item() == pytest.approx(words.item(), abs=1e-5)


def test_soft_targets_by_hand():
    ours, theirs = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    p, q = (theirs / 2).softmax(-1)[0], (ours / 2).softmax(-1)[0]
    by_hand = 4 * sum(p[i] * (p[i] / q[i]).log() for i in range(2))
    assert distil.soft_targets(ours, theirs).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_relations_by_hand_and_blind_to_padding():
    draw = torch.Generator().manual_seed(2)
    ours, theirs = torch.randn(2, 5, 8, generator=draw), torch.randn(2, 5, 16, generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    total, rows = 0.0, 0
    for sentence, length in enumerate((5, 3)):
        for head in range(2):
            a = ours[sentence, :length, head * 4 : head * 4 + 4]
            b = theirs[sentence, :length, head * 8 : head * 8 + 8]
            a, b = (a @ a.T / 4**0.5).softmax(-1), (b @ b.T / 8**0.5).softmax(-1)
            total += (b * (b / a).log()).sum()
            rows += length
    found = distil.relation_loss(ours, theirs, mask, heads=2)
    assert found.item() == pytest.approx((total / rows).item(), rel=1e-5)
    ours[1, 3:], theirs[1, 3:] = 100.0, -100.0
    assert distil.relation_loss(ours, theirs, mask, heads=2).item() == pytest.approx(found.item(), rel=1e-5)


def test_half_width_keeps_the_geometry_of_the_embedding(teacher, batch):
    """With hidden states that lie in half of the directions, projecting loses nothing of them."""
    low_rank = BertForMaskedLM(teacher.config)
    low_rank.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            getattr(low_rank.bert.embeddings, table).weight[:, 16:] = 0
    for norm in (m for m in low_rank.bert.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.zeros_(norm.weight[16:])
    student = distil.half_width(low_rank, [batch])
    old, new = (m.bert.embeddings.word_embeddings.weight for m in (low_rank, student))
    assert torch.allclose(old @ old.T, new @ new.T, atol=1e-5)
    assert student.config.num_attention_heads == 2 and student.config.hidden_size == 16
    distil.width_loss(low_rank)(student, batch).backward()
    assert all(p.grad is not None for n, p in student.bert.named_parameters() if "pooler" not in n)


@pytest.fixture(scope="module")
def raw(tmp_path_factory, sample_lines):
    """Text and aligned folders of the recipe's layout, from the sample; and an English encoder to start from."""
    folder = tmp_path_factory.mktemp("raw")
    for name in ("text", "parallel", "encoder"):
        (folder / name).mkdir()
    for language, lines in sample_lines.items():
        (folder / "text" / f"{language}.txt").write_text("\n".join(lines[:800]), encoding="utf-8")
    rows = zip(*(sample_lines[k][:300] for k in ("en", "es", "nl")), strict=True)
    aligned = "\n".join(["en\tes\tnl", *("\t".join(row) for row in rows)])
    (folder / "parallel" / "some.tsv").write_text(aligned, encoding="utf-8")
    vocabulary = text.train_vocabulary({"en": [line.lower() for line in sample_lines["en"]]}, size=300)
    config = BertConfig(
        vocab_size=vocabulary.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    text.as_bert(vocabulary, 128).save_pretrained(folder / "encoder")
    return folder


def test_the_recipe_from_raw_text_to_shipped_folders(raw, tmp_path):
    def make():
        prepared = recipe.prepare(raw / "text", raw / "parallel", tmp_path / "work", vocabulary=500, held_out=50)
        mini = recipe.mini(prepared, raw / "encoder", tmp_path / "work", minutes=0.01, tokens=256)
        students = [make(prepared, mini, tmp_path / "work", minutes=0.01, tokens=256) for make in STUDENTS]
        return prepared, [mini, *students]

    prepared, models = make()
    _, again = make()  # every stage is on disk: nothing is trained twice
    for one, same in zip(models, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    for name, model in zip(("mini", "mini-distil", "mini-narrow"), models, strict=True):
        folder = recipe.ship(model, prepared.tokenizer, name, tmp_path / "weights")
        loaded, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert loaded.dtype == torch.float32 and tokenizer("Peter van Dam").input_ids[0] == text.CLS
        assert load_file(folder / "model.safetensors")["cls.predictions.bias"].dtype == torch.float16
        inputs = tokenizer(["Peter lives in Madrid ."], return_tensors="pt")
        with torch.inference_mode():
            ours = model.eval().bert(**inputs).last_hidden_state
            theirs = loaded.eval()(**inputs).last_hidden_state
        assert torch.allclose(ours, theirs, atol=2e-2)


STUDENTS = (recipe.mini_distil, recipe.mini_narrow)


def test_lines_with_an_evaluation_sentence_are_left_out(raw, sample_lines, tmp_path):
    secret = next(line.split() for line in sample_lines["nl"] if len(line.split()) > 8)
    prepare = partial(recipe.prepare, raw / "text", raw / "parallel", vocabulary=500)
    clean, plain = prepare(tmp_path / "clean", secret=[secret]), prepare(tmp_path / "plain")
    assert clean.facts["left_out"] == 1 and plain.facts["left_out"] == 0
    assert clean.facts["lines"]["nl"] < plain.facts["lines"]["nl"]
    assert clean.facts["aligned"] <= plain.facts["aligned"]
    with pytest.raises(ValueError, match="prepared with other settings .vocabulary"):
        recipe.prepare(raw / "text", raw / "parallel", tmp_path / "plain", vocabulary=400)


def test_draw_keeps_languages_in_balance(raw, tmp_path):
    prepared = recipe.prepare(raw / "text", raw / "parallel", tmp_path, vocabulary=500, held_out=50)
    rng = batches.np.random.default_rng(0)
    rows = batches._text_rows(prepared.material, rng, 600)
    by_language = [sum(language == k for language, _ in rows) for k in ("en", "es", "nl")]
    assert min(by_language) == max(by_language) > 0
