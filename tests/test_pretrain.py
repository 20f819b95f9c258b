"""The pretraining room on a tiny invented trilingual text: oracles, properties, kills at the worst moments."""

import json
import lzma
import random
from collections import defaultdict
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, BertTokenizer

from mmalib import figures
from mmalib.pretrain import batches, probe, text, train, transplant
from mmalib.pretrain.text import CLS, MASK, PAD, SEP, SPECIAL, UNK, Pairs

LANGUAGES = ("en", "es", "nl")
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
    """A two-layer BERT of width 32; dropout is on, so that a resumed run must also repeat the dice."""
    torch.manual_seed(more.pop("seed", 0))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=vocabulary_size, max_position_embeddings=64, **(shape | more)))


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
def tokenizer(lines):
    return text.train_vocabulary(lines, size=300)


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]


@pytest.fixture(scope="module")
def aligned(lines):
    return [
        Pairs(a, b, list(zip(lines[a], lines[b], strict=True))) for a, b in (("en", "es"), ("en", "nl"), ("es", "nl"))
    ]


@pytest.fixture(scope="module")
def material(lines, tokenizer, vocabulary, aligned):
    lexicons = transplant.learn_lexicons(tokenizer, aligned)
    return batches.Material(
        vocabulary,
        {language: text.tokenize(tokenizer, lines[language]) for language in LANGUAGES},
        [tuple(text.tokenize(tokenizer, list(side)) for side in zip(*pairs.lines, strict=True)) for pairs in aligned],
        {
            a: [transplant.best_translation(lexicons[a, b], len(vocabulary)) for b in LANGUAGES if b != a]
            for a in LANGUAGES
        },
    )


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
    (tmp_path / "ntrex.tsv").write_text("en\tes\na\tb\n")
    with pytest.raises(ValueError, match=rf"No aligned text in .*{tmp_path.name}"):
        text.read_pairs(tmp_path)  # the held-out file alone is nothing to train on


def test_aligned_lines_come_for_every_pair_of_columns(tmp_path):
    (tmp_path / "b.tsv").write_text("en\tes\tnl\nyes\tsí\tja\nno\t\tnee\n", encoding="utf-8")
    (tmp_path / "ntrex.tsv").write_text("en\tes\nheld\tout\n")
    assert text.read_pairs(tmp_path) == [
        Pairs("en", "es", [("yes", "sí")]),
        Pairs("en", "nl", [("yes", "ja"), ("no", "nee")]),
        Pairs("es", "nl", [("sí", "ja")]),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en\tes\na\tb\na b\n", "line 3: 1 columns, the header has 2"),
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
    kept = text.read_text(tmp_path, old_dutch=0.3)
    assert [s for s in kept["nl"] if s in set(new)] == new
    assert 80 < len(kept["nl"]) - len(new) < 160
    assert kept["en"] == ["He sat in the zoo in den haag ."]
    assert text.read_text(tmp_path, old_dutch=0.3) == kept
    assert text.read_text(tmp_path, old_dutch=0.0)["nl"] == new
    assert text.read_text(tmp_path, old_dutch=1.0)["nl"] == old + new


def test_a_leak_is_found_despite_blanks_case_and_punctuation():
    secret = [
        ["El", "niño", ",", "de", "Madrid", ",", "no", "volvió", "nunca", "."],
        ["I", "do", "not", "know", "."],  # too short to be a secret
    ]
    training = ["El niño, de Madrid, no volvió NUNCA", "El nino de Madrid no volvió nunca", "I do not know.", ""]
    assert text.leaked(training, secret) == training[:1]
    assert text.leaked(training, secret, shortest=4) == [training[0], training[2]]
    assert text.leaked(["---", ""], [["-"] * 6]) == []  # nothing is left of a sentence of dashes


def test_the_vocabulary_is_cased_keeps_accents_and_begins_with_the_special_tokens(tokenizer, vocabulary):
    assert vocabulary[:5] == SPECIAL
    assert [PAD, UNK, CLS, SEP, MASK] == [0, 1, 2, 3, 4]
    assert {"Madrid", "río", "vendió"} <= set(vocabulary)
    ids = tokenizer.encode("Los niños").ids
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert tokenizer.encode("los ninos").ids != ids
    assert tokenizer.encode("雪").ids == [CLS, UNK, SEP]


def test_a_saved_folder_gives_the_same_tokens_and_the_same_model(tmp_path, lines, tokenizer, vocabulary):
    model = tiny(len(vocabulary)).eval()
    model.save_pretrained(tmp_path)
    text.as_bert(tokenizer, 64).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    some = [s for language in LANGUAGES for s in lines[language][:30]] + ["Señor PÉREZ's 雪, niño...", ""]
    assert [loaded(s)["input_ids"] for s in some] == [tokenizer.encode(s).ids for s in some]
    assert loaded("a", "b")["input_ids"] == tokenizer.encode("a", "b").ids
    assert (loaded.pad_token_id, loaded.mask_token_id, loaded.model_max_length) == (PAD, MASK, 64)
    assert loaded.is_fast  # words can be traced through subwords
    batch = loaded(some, padding=True, return_tensors="pt")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_long_lines_are_cut_and_nothing_is_lost(tokenizer, lines):
    some = [*lines["en"][:20], "", lines["nl"][0]]
    whole, cut = text.tokenize(tokenizer, some), text.tokenize(tokenizer, some, longest=5)
    assert [whole[i].tolist() for i in range(len(whole))] == [
        tokenizer.encode(s, add_special_tokens=False).ids for s in some
    ]  # one sequence a line, the empty one too: aligned lines stay aligned
    assert np.array_equal(whole.flat, cut.flat)
    assert max(len(cut[i]) for i in range(len(cut))) == 5
    assert set(np.cumsum(np.diff(whole.offsets))) <= set(cut.offsets)  # no sequence spans two lines
    assert len(text.tokenize(tokenizer, [])) == 0


# --- transplant


def as_tokens(sequences):
    offsets = np.cumsum([0, *map(len, sequences)])
    return text.Tokens(np.array([i for s in sequences for i in s], dtype=np.uint16), offsets)


def slow_model_1(sentences, rounds):
    """t(word | given) as in the textbook: dictionaries, one word at a time, each word once a sentence."""
    t = {(a, b): 1.0 for first, second in sentences for a in first for b in second}
    for _ in range(rounds):
        count, total = defaultdict(float), defaultdict(float)
        for first, second in sentences:
            for a in first:
                normaliser = sum(t[a, b] for b in second)
                for b in second:
                    count[a, b] += t[a, b] / normaliser
                    total[b] += t[a, b] / normaliser
        t = {(a, b): count[a, b] / total[b] for a, b in t}
    return t


def test_the_lexicon_is_ibm_model_1_in_both_directions():
    rng, size = random.Random(1), 12
    first = [[rng.randrange(size) for _ in range(rng.randrange(1, 7))] for _ in range(25)]
    second = [[rng.randrange(size) for _ in range(rng.randrange(1, 7))] for _ in range(25)]
    first[3], second[5] = [], []  # a side may be empty
    sets = [(sorted(set(a)), sorted(set(b))) for a, b in zip(first, second, strict=True)]
    forward = slow_model_1(sets, 4)
    backward = slow_model_1([(b, a) for a, b in sets], 4)
    too_long = list(range(size))
    rows, columns, weights = transplant.lexicon(
        as_tokens([*first, too_long]), as_tokens([*second, [0]]), size, rounds=4, longest=size - 1
    )
    found = {(a, b): w for a, b, w in zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True)}
    assert found.keys() == forward.keys()
    assert found == pytest.approx({(a, b): forward[a, b] * backward[b, a] for a, b in forward})


def test_one_round_of_model_1_by_hand():
    # "the house / la casa", "the / la": uniform start, so t(the|la) = (1/2 + 1) / (1/2 + 1 + 1/2)
    rows, columns, weights = transplant.lexicon(as_tokens([[5, 6], [5]]), as_tokens([[7, 8], [7]]), 9, rounds=1)
    found = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), weights.tolist(), strict=True))
    assert found == pytest.approx({(5, 7): 0.75**2, (5, 8): 0.5 * 0.25, (6, 7): 0.25 * 0.5, (6, 8): 0.5**2})


def test_translations_are_shares_and_only_a_sure_one_is_best():
    pairs = (np.array([1, 1, 2, 2, 3]), np.array([4, 5, 5, 6, 6]), np.array([0.4, 0.2, 0.3, 0.3, 0.001]))
    matrix = transplant.translations(pairs, 8)
    assert matrix.tolist() == [[1, 1, 2, 2], [4, 5, 5, 6], pytest.approx([0.8, 0.2, 0.5, 0.5])]
    assert transplant.best_translation(matrix, 8, sure=0.6).tolist() == [-1, 4, -1, -1, -1, -1, -1, -1]
    best = transplant.best_translation(matrix, 8, sure=0.1)
    assert best[1] == 4 and best[2] in (5, 6) and best[3] == -1


def test_words_of_the_invented_text_find_their_translation(tokenizer, vocabulary, aligned):
    lexicons = transplant.learn_lexicons(tokenizer, aligned)
    assert set(lexicons) == {(a, b) for a in LANGUAGES for b in LANGUAGES if a != b}
    table = transplant.best_translation(lexicons["en", "nl"], len(vocabulary))
    number = {word: i for i, word in enumerate(vocabulary)}
    for english, dutch in (("Madrid", "Madrid"), ("sold", "verkocht"), ("found", "vond"), ("again", "opnieuw")):
        assert vocabulary[table[number[english]]] == dutch


OLD = ["[PAD]", "the", "th", "##ory", "nino", *"abcdehilmnorstuvwxyz", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OLD += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.mark.parametrize(
    ("token", "pieces"),
    [
        ("Théory", ["the", "##ory"]),  # longest first, no case, no accents
        ("niño", ["nino"]),
        ("##Ory", ["##ory"]),
        ("##the", ["##t", "##h", "##e"]),
        ("a", ["a"]),
        ("a!", ["[UNK]"]),
        ("##", ["[UNK]"]),
    ],
)
def test_a_new_subword_starts_from_the_old_pieces_it_falls_into(token, pieces):
    number = {piece: i for i, piece in enumerate(OLD)}
    old = np.random.default_rng(0).standard_normal((len(OLD), 8))
    expected = old[[number[piece] for piece in pieces]].mean(axis=0)
    assert transplant._from_pieces(token, number, old) == pytest.approx(expected)


def test_start_vectors_follow_pieces_lexicon_and_case():
    new = [*SPECIAL, "the", "The", "THE", "nino", "Nino", "NINO", "zut"]
    number = {piece: i for i, piece in enumerate(OLD)}
    old = np.random.default_rng(0).standard_normal((len(OLD), 16))
    length = np.linalg.norm(old, axis=1).mean()
    usage = {"en": np.ones(len(new)), "nl": np.ones(len(new))}
    usage["en"][new.index("zut")] = 0  # a Dutch word only, and it means "nino"
    lexicon = np.array([[new.index("zut")], [new.index("nino")], [1.0]])
    start = transplant.start_vectors(new, number, old, usage, {("nl", "en"): lexicon})
    assert start[: len(SPECIAL)] == pytest.approx(old[[number[token] for token in SPECIAL]])
    vector = {token: start[i] for i, token in enumerate(new)}
    for word in ("the", "nino"):
        assert vector[word] == pytest.approx(length * old[number[word]] / np.linalg.norm(old[number[word]]))
    assert vector["zut"] == pytest.approx(vector["nino"], rel=1e-5)
    capital, all_capital = vector["The"] - vector["the"], vector["THE"] - vector["the"]
    assert vector["Nino"] - vector["nino"] == pytest.approx(capital)
    assert vector["NINO"] - vector["nino"] == pytest.approx(all_capital)
    assert np.linalg.norm(capital) == pytest.approx(0.4 * length)
    assert np.linalg.norm(capital - all_capital) > 0.1 * length


def test_transplant_keeps_the_body_and_changes_the_vocabulary(tmp_path, tokenizer, vocabulary, material):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    old = BertModel(BertConfig(vocab_size=len(OLD), max_position_embeddings=96, **shape))
    with torch.no_grad():  # fresh biases and norms are 0 and 1: a lost one would go unseen
        for parameter in old.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    old.save_pretrained(tmp_path)
    BertTokenizer(vocab={piece: i for i, piece in enumerate(OLD)}).save_pretrained(tmp_path)
    counts = {language: transplant.usage(material.text[language], len(vocabulary)) for language in LANGUAGES}
    new = transplant.transplant(tmp_path, tokenizer, counts, {}, positions=64)
    ours, theirs = new.bert.embeddings, old.embeddings
    for name, weight in old.encoder.state_dict().items():
        assert torch.equal(new.bert.encoder.state_dict()[name], weight), name
    for name, weight in theirs.LayerNorm.state_dict().items():
        assert torch.equal(ours.LayerNorm.state_dict()[name], weight), name
    assert torch.equal(ours.position_embeddings.weight, theirs.position_embeddings.weight[:64])
    assert torch.equal(ours.token_type_embeddings.weight, theirs.token_type_embeddings.weight)
    assert ours.word_embeddings.weight.shape == (len(vocabulary), 32)
    special = [OLD.index(token) for token in SPECIAL]
    torch.testing.assert_close(ours.word_embeddings.weight[:5], theirs.word_embeddings.weight[special])
    assert new.cls.predictions.decoder.weight is ours.word_embeddings.weight
    # before any training the head's bias knows which subwords are frequent, each language counting the same
    share = sum(c / c.sum() for c in counts.values()) / 3
    torch.testing.assert_close(new.cls.predictions.decoder.bias, torch.tensor(np.log(share + 1e-6)).float())
    assert sum(c.sum() for c in counts.values()) == sum(len(t.flat) for t in material.text.values())


# --- batches


def padded(rows):
    """The unmasked batch that `mask` starts from, built the slow way."""
    built = [[CLS, *(i for part in parts for i in [*part.tolist(), SEP])] for _, parts in rows]
    width = max(map(len, built))
    return torch.tensor([b + [PAD] * (width - len(b)) for b in built])


def many_rows(material, repeats=40):
    return [(language, [material.text[language][i]]) for language in LANGUAGES for i in range(repeats)] + [
        ("", [first[i], second[i]]) for first, second in material.aligned for i in range(repeats)
    ]


def test_a_batch_is_a_function_of_seed_and_step_alone(material):
    fresh = batches.Material(material.vocabulary, material.text, material.aligned, material.swaps)
    kinds = set()
    for step in range(12):
        batch = batches.draw(material, step, seed=1, tokens=512)
        again = batches.draw(fresh, step, seed=1, tokens=512)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        kinds.add(bool((batch["input_ids"] == SEP).sum(dim=1).max() > 1))
        for other in (
            batches.draw(material, step + 1, seed=1, tokens=512),
            batches.draw(material, step, seed=2, tokens=512),
        ):
            assert other["input_ids"].shape != batch["input_ids"].shape or not torch.equal(
                other["input_ids"], batch["input_ids"]
            )
    assert kinds == {False, True}  # single lines and aligned ones


def test_labels_are_the_original_tokens_where_chosen_and_nothing_else_changes(material):
    rows = [*many_rows(material), ("", [np.array([UNK, 9, UNK], dtype=np.uint16)])]
    original = padded(rows)
    batch = batches.mask(material, rows, np.random.default_rng(0), mask_rate=0.3)
    chosen = batch["labels"] >= 0
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert (batch["labels"][~chosen] == -100).all()
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    assert not chosen[original < len(SPECIAL)].any()
    assert torch.equal(batch["attention_mask"], (original != PAD).long())
    shown = batch["input_ids"][chosen]
    assert (shown == MASK).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (shown == original[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.04)
    assert ((shown == MASK) | (shown >= len(SPECIAL))).all()


def test_whole_words_are_chosen_together(material):
    rows = many_rows(material)
    original = padded(rows).numpy()
    chosen = (batches.mask(material, rows, np.random.default_rng(0), mask_rate=0.3)["labels"] >= 0).numpy()
    inside = material.continues[original[:, 1:]] & (original[:, :-1] >= len(SPECIAL))
    assert inside.sum() > 100
    assert np.array_equal(chosen[:, 1:][inside], chosen[:, :-1][inside])
    between = ~material.continues[original[:, 1:]] & (original[:, 1:] >= len(SPECIAL))
    assert (chosen[:, 1:] != chosen[:, :-1])[between].any()


def test_capitalised_neighbours_are_joined_half_of_the_time():
    words = ["Jan", "Wil", "##lem", "smit", "##je", "loopt"]
    material = batches.Material([*SPECIAL, *words], {}, [], {})
    ids = np.tile([CLS, 5, 6, 7, 8, 9, 10, SEP, PAD], (400, 1))
    unit = batches._units(material, ids, np.random.default_rng(0))
    same = unit[:, 1:] == unit[:, :-1]  # does each token belong to the unit of the one before?
    shares = same.mean(axis=0)
    assert shares[[0, 3, 5, 6, 7]].tolist() == [0, 0, 0, 0, 0]
    assert shares[[2, 4]].tolist() == [1, 1]  # continuations
    assert 0.4 < shares[1] < 0.6  # Jan + Wil


@pytest.mark.parametrize("rate", [0.15, 0.25, 0.4])
def test_the_mask_rate_is_the_share_of_tokens_chosen(material, rate):
    chosen = total = 0
    for step in range(150):
        batch = batches.draw(material, step, seed=0, tokens=1024, mask_rate=rate, swap_rate=0)
        original = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
        chosen += int((batch["labels"] >= 0).sum())
        total += int((original >= len(SPECIAL)).sum())
    assert chosen / total == pytest.approx(rate, abs=0.01)


def test_positions_restart_in_the_second_line(material):
    rows = [("", [np.array([9, 10, 11]), np.array([12, 13])]), ("", [np.array([9])])]
    batch = batches.mask(material, rows, np.random.default_rng(0), mask_rate=0)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 1, 2, 3], [0, 1, 2, 0, 0, 0, 0, 0]]
    assert batch["input_ids"].tolist() == [[CLS, 9, 10, 11, SEP, 12, 13, SEP], [CLS, 9, SEP] + [PAD] * 5]


def test_only_whole_one_subword_words_are_swapped():
    vocabulary = [*SPECIAL, "house", "ca", "##sa", "huis", "boat"]  # ids 5 to 9
    table = np.array([-1, -1, -1, -1, -1, 8, 8, 8, -1, -1])
    material = batches.Material(vocabulary, {}, [], {"en": [table]})
    rows = [("en", [np.array([5, 6, 7, 5, 9])])] * 40 + [("nl", [np.array([5, 5, 5, 5, 5])])]
    shown = batches.mask(material, rows, np.random.default_rng(0), mask_rate=0, swap_rate=1.0)["input_ids"]
    plain, swapped = [CLS, 5, 6, 7, 5, 9, SEP], [CLS, 8, 6, 7, 8, 9, SEP]
    assert sorted({tuple(row) for row in shown[:-1].tolist()}) == [tuple(plain), tuple(swapped)]
    assert 10 < shown[:-1].tolist().count(swapped) < 30  # half of the lines are left alone
    assert shown[-1].tolist() == [CLS, 5, 5, 5, 5, 5, SEP]  # no table for this language
    some = batches.mask(material, rows, np.random.default_rng(0), mask_rate=0, swap_rate=0.3)["input_ids"][:-1]
    assert 0 < (some == 8).sum() < (shown == 8).sum()


def test_the_label_of_a_swapped_word_is_the_original(material):
    vocabulary = [*SPECIAL, "house", "huis"]
    material = batches.Material(vocabulary, {}, [], {"en": [np.array([-1] * 5 + [6, -1])]})
    rows = [("en", [np.full(20, 5)])] * 30
    batch = batches.mask(material, rows, np.random.default_rng(0), mask_rate=0.5, swap_rate=1.0)
    assert set(batch["labels"].unique().tolist()) == {-100, 5}


def test_every_language_has_the_same_number_of_rows_of_about_one_length(material):
    for step in range(20):
        rows = batches._text_rows(material, np.random.default_rng(step), 1024)
        languages = [language for language, _ in rows]
        assert {languages.count(language) for language in LANGUAGES} == {len(rows) // 3}
        lengths = [len(parts[0]) for _, parts in rows]
        assert sum(lengths) + 2 * len(rows) <= 1024 * 1.3
        lines = {language: {material.text[language][i].tobytes() for i in range(160)} for language in LANGUAGES}
        assert all(parts[0].tobytes() in lines[language] for language, parts in rows)


def test_aligned_rows_are_translations_of_one_another_either_side_first(material):
    known = {(first[i].tobytes(), second[i].tobytes()) for first, second in material.aligned for i in range(len(first))}
    forward = backward = 0
    for step in range(10):
        for _, (a, b) in batches._aligned_rows(material, np.random.default_rng(step), 1024):
            pair = (a.tobytes(), b.tobytes())
            assert pair in known or pair[::-1] in known
            forward, backward = forward + (pair in known), backward + (pair[::-1] in known)
    assert forward > 50 and backward > 50


def test_near_takes_the_window_of_lengths_and_otherwise_the_nearest():
    lengths = np.array([9, 5, 6, 30, 7, 8, 2, 31])
    by_length = batches._by_length(lengths)
    assert by_length[0].tolist() == [1, 2, 4, 5, 0, 3, 7]  # the line of 2 tokens is left out
    rng = np.random.default_rng(0)
    assert set(batches._near(by_length, 8, 200, rng)) == {1, 2, 4, 5}  # lengths 5 to 8
    assert set(batches._near(by_length, 100, 2, np.random.default_rng(1))) <= {3, 7}
    assert set(batches._near(by_length, 20, 1, np.random.default_rng(2))) <= {0, 3}
    assert len(batches._near(by_length, 1, 500, rng)) == 500


def test_a_length_is_drawn_as_often_as_its_tokens_are_many():
    by_length = batches._by_length(np.array([10] * 6 + [20] * 2))  # 60 tokens against 40
    drawn = [batches._some_length(by_length, np.random.default_rng(i)) for i in range(2000)]
    assert drawn.count(10) / 2000 == pytest.approx(0.6, abs=0.04)
    assert set(drawn) == {10, 20}


# --- train


class Killed(BaseException):
    """Stands for the process being killed; no handler for exceptions may swallow it."""


def killed(*_):
    raise Killed


@pytest.fixture(scope="module")
def pretrain(material):
    def run(folder, *, kill_at=None, model=None, model_seed=0, steps=6, save_every_s=-1.0, **more):
        """Train a tiny model; saves after every step unless told otherwise."""
        model = model or tiny(len(material.vocabulary), seed=model_seed)

        def draw(step):
            if step == kill_at:
                raise Killed
            return batches.draw(material, step, seed=0, tokens=256)

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
    assert log[1]["loss"] < log[0]["loss"] - 0.3


def test_a_kill_between_the_two_renames_costs_one_checkpoint(pretrain, tmp_path, unbroken, monkeypatch):
    folder, replace = tmp_path / "run", train.os.replace

    def killed_while_swapping(source, target):
        if source.name == "checkpoint.new" and (folder / "checkpoint.old").exists():
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(train.os, "replace", killed_while_swapping)
        with pytest.raises(Killed):
            pretrain(folder)
    assert not (folder / "checkpoint").exists()
    with monkeypatch.context() as patch:  # and once more, while the next checkpoint is being written
        patch.setattr(train, "save_file", killed)
        with pytest.raises(Killed):
            pretrain(folder, model_seed=9)
    model, _ = pretrain(folder, model_seed=9)
    assert_same(model, unbroken)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint"]


def test_a_half_written_checkpoint_is_never_read(pretrain, tmp_path, unbroken, monkeypatch):
    with pytest.raises(Killed):
        pretrain(tmp_path / "run", kill_at=3)

    def half(tensors, path):
        path.write_bytes(b"half a file")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_file", half)
        with pytest.raises(Killed):
            pretrain(tmp_path / "run", model_seed=9)
    model, _ = pretrain(tmp_path / "run", model_seed=9)
    assert_same(model, unbroken)


def test_other_settings_are_refused_but_more_time_is_not(pretrain, tmp_path, unbroken):
    with pytest.raises(Killed):
        pretrain(tmp_path / "run", kill_at=3)
    with pytest.raises(ValueError, match="made with other settings .learning_rate"):
        pretrain(tmp_path / "run", learning_rate=1e-3)
    with pytest.raises(ValueError, match="made with other settings .text"):
        pretrain(tmp_path / "run", about={"text": "another"})
    _, log = pretrain(tmp_path / "run", steps=8)
    assert log[-1]["step"] == 8


@pytest.mark.parametrize(("minutes", "expected"), [(4.0, 120), (0.01, 60)])
def test_minutes_become_steps_once_the_speed_is_known(material, tmp_path, monkeypatch, minutes, expected):
    now, drawn = [100.0], []
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now[0]))
    small = batches.draw(material, 0, seed=0, tokens=64, aligned_share=0)

    def draw(step):
        drawn.append(step)
        now[0] += 2.0  # every step takes two seconds
        return small

    model = tiny(len(material.vocabulary), num_hidden_layers=1)
    log = train.train(model, draw, tmp_path / "run", minutes=minutes, save_every_s=1e9)
    assert drawn == list(range(expected))
    assert log[-1] == {"step": expected, "loss": log[-1]["loss"], "seconds": 2 * expected}
    assert json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["pace"] == 2.0


def test_pretraining_without_a_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`minutes` or `steps`"):
        train.train(tiny(10), killed, tmp_path)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_checkpoint_before_it(pretrain, tmp_path):
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = train.masked_lm_loss(model, batch)
        return value * float("nan") if len(calls) == 4 else value

    with pytest.raises(ValueError, match="diverged at step 3 .loss nan.. Lower the learning rate"):
        pretrain(tmp_path / "run", loss=loss)
    assert json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["step"] == 3


def test_the_schedule_rises_to_one_and_falls_towards_zero():
    rates = [train._schedule(step, 1000, 50) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50)
    assert max(rates) == 1.0 and rates.index(1.0) == 49
    assert all(a >= b for a, b in zip(rates[49:], rates[50:], strict=False))
    assert 0 < rates[-1] < 0.002
    assert train._schedule(99, 1000, 500) == 1.0  # warm-up is never longer than a tenth of the run
    assert train._schedule(29, None, 200) == train._schedule(29, 10_000, 200)  # no jump when the length is known
    assert train._schedule(0, 1, 50) == 1.0


def test_the_loss_looks_at_the_masked_places_only(material):
    model = tiny(len(material.vocabulary)).eval()
    batch = batches.draw(material, 0, seed=0, tokens=256)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids")}
    with torch.inference_mode():
        everywhere = model(**inputs, labels=batch["labels"]).loss
        torch.testing.assert_close(train.masked_lm_loss(model, batch), everywhere)


# --- probe


def test_perplexity_of_uniform_logits_is_the_size_of_the_vocabulary(material):
    model = tiny(len(material.vocabulary))
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.zero_()  # tied to the head
        model.cls.predictions.bias.zero_()
    bare = batches.Material(material.vocabulary, {}, [], {})
    measured = probe.perplexity(model, material.text, bare)
    assert measured == pytest.approx(dict.fromkeys(LANGUAGES, len(material.vocabulary)), rel=1e-6)
    assert model.training  # left as it was found


def test_perplexity_of_a_model_that_knows_only_frequencies(material):
    model, size = tiny(len(material.vocabulary)), len(material.vocabulary)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.zero_()
        model.cls.predictions.bias.zero_()[9] = np.log(size - 1)  # half of everything is word 9
    held_out = {"en": as_tokens([[9] * 12] * 70), "nl": as_tokens([[9] * 12] * 70 + [[10] * 12] * 70)}
    measured = probe.perplexity(model, held_out, material, mask_rate=1.0)
    assert measured["en"] == pytest.approx(2, rel=1e-5)
    assert measured["nl"] == pytest.approx(np.sqrt(2 * 2 * (size - 1)), rel=1e-5)  # the geometric mean


def test_perplexity_repeats_hides_every_chosen_word_and_cuts_long_lines(material):
    model = tiny(len(material.vocabulary))
    seen = []
    handle = model.bert.embeddings.word_embeddings.register_forward_hook(lambda _, i, __: seen.append(i[0]))
    held_out = {"en": material.text["en"], "es": as_tokens([list(range(5, 205)) * 2])}
    first = probe.perplexity(model, held_out, material)
    assert all(ids.shape[1] <= 64 for ids in seen)
    handle.remove()
    assert probe.perplexity(model, held_out, material) == first
    assert probe.perplexity(model, held_out, material, seed=1) != first
    shown, total = sum((i == MASK).sum() for i in seen), sum((i >= MASK).sum() for i in seen)
    assert (shown / total).item() == pytest.approx(0.15, abs=0.03)
    with pytest.raises(ValueError, match="No word was masked"):
        probe.perplexity(model, {"en": as_tokens([])}, material)


@pytest.fixture(scope="module")
def reader(tokenizer):
    return text.as_bert(tokenizer, 64)


def test_retrieval_finds_every_line_among_its_copies_and_none_where_all_are_moved(lines, vocabulary, reader):
    model, some = tiny(len(vocabulary)), list(dict.fromkeys(lines["en"]))
    same = Pairs("en", "en", list(zip(some, some, strict=True)))
    moved = Pairs("en", "en", list(zip(some, some[1:] + some[:1], strict=True)))
    half = Pairs("en", "en", same.lines[:80] + list(zip(some[80:], some[81:] + some[80:81], strict=True)))
    for layer in (None, 0, 2):
        assert probe.retrieval(model, reader, same, layer=layer) == 1.0
    assert probe.retrieval(model, reader, moved) == 0.0
    assert probe.retrieval(model, reader, half) == pytest.approx(80 / len(some))
    assert model.training


def test_a_line_is_the_mean_of_its_real_tokens_whatever_the_padding(lines, vocabulary, reader):
    model = tiny(len(vocabulary)).eval()
    some = [*lines["es"][:70], "río", "Madrid " * 100]
    with torch.inference_mode():
        pooled = probe._pooled(model, reader, some, 1)
        for i in (0, 33, 70, 71):
            inputs = reader(some[i], return_tensors="pt", truncation=True, max_length=64)
            states = model.bert(**inputs, output_hidden_states=True).hidden_states[1][0]
            torch.testing.assert_close(pooled[i], states[1:-1].mean(dim=0))  # no [CLS], no [SEP]


def test_retrieval_refuses_a_layer_that_is_not_there_and_an_empty_file(vocabulary, reader):
    model = tiny(len(vocabulary))
    with pytest.raises(ValueError, match=r"Layer 3 .* to 2 \(last\)"):
        probe.retrieval(model, reader, Pairs("en", "es", [("a", "b")]), layer=3)
    with pytest.raises(ValueError, match="No aligned lines of en and es"):
        probe.retrieval(model, reader, Pairs("en", "es", []))


def test_the_learning_curves_are_named_at_their_ends(tmp_path):
    log = [{"step": 50 * i, "loss": 9.0 / i, "seconds": i} for i in range(1, 9)]
    later = [entry | {"loss": entry["loss"] + 0.01} for entry in log]  # labels would lie on one another
    figure = probe.learning_curve_figure({"mini": log, "mini-distil": later, "not begun": []})
    (axes,) = figure.axes
    assert [line.get_ydata()[-1] for line in axes.lines if len(line.get_ydata())] == pytest.approx([1.125, 1.135])
    figure.draw_without_rendering()
    first, second = (label.get_window_extent() for label in axes.texts)
    assert [label.get_text() for label in axes.texts] == ["mini", "mini-distil"]
    assert not first.overlaps(second)
    assert max(first.x1, second.x1) <= figure.bbox.x1  # not cut off at the column's edge
    assert all(path.stat().st_size > 1000 for path in figures.save(figure, tmp_path, "curve"))


def test_the_retrieval_figure_shows_every_number_and_chance():
    accuracy = {"mini": {"en→es": 0.91, "en→nl": 0.9}, "mini-distil": {"en→es": 0.05}}
    figure = probe.retrieval_figure(accuracy, 1997)
    (axes,) = figure.axes
    assert sorted(t.get_text() for t in axes.texts) == ["en→es 0.05", "en→es 0.91", "en→nl 0.90"]
    dots = {line.get_gid(): line.get_xdata()[0] for line in axes.lines if line.get_gid()}
    assert dots == {"mini en→es": 0.91, "mini en→nl": 0.9, "mini-distil en→es": 0.05}
    assert [line.get_xdata()[0] for line in axes.lines if not line.get_gid()] == [pytest.approx(1 / 1997)]
    figure.draw_without_rendering()
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 and label.x1 <= figure.bbox.x1  # not cut off at the column's edge
    boxes = [t.get_window_extent() for t in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
