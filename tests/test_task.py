"""Tasks beside entities: similarity by hand and by other implementations, and a folder of tsv as a third one."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from mmalib.data import pairs
from mmalib.data.subwords import IGNORED, encode_split, run_of, word_logits
from mmalib.model import backbones, disk, task, tsv
from mmalib.model.evaluate import score
from mmalib.model.finetune import Recipe, finetune

SOME = [("A man sings .", "A woman sings .", 3.8), ("Madrid", "Berlin", 0.0), ("It rains .", "It rains .", 5.0)]


def test_correlations_against_pandas():
    draw = np.random.default_rng(3)
    gold, predicted = draw.integers(0, 6, 60).astype(float), draw.normal(size=60).round(1)
    frame = pd.DataFrame({"gold": gold, "predicted": predicted})
    found = task.correlations(gold, predicted)
    for name in ("pearson", "spearman"):
        ranked = frame if name == "pearson" else frame.rank()
        assert found[name] == pytest.approx(ranked.corr().iloc[0, 1])
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert task.correlations(gold, np.ones(60))["pearson"] == 0.0


def test_the_rows_of_a_pair_hold_the_gold_distribution_and_the_loss_is_its_cross_entropy(tokenizer, random_model):
    text = task.SIMILARITY.encode(SOME, tokenizer, 32)
    label2id = {grade: number for number, grade in enumerate(task.GRADES)}
    rows = task.SIMILARITY.rows(text, label2id)
    assert [row["labels"][0] for row in rows] == [4, 0, 5] and all(set(row["labels"][1:]) == {IGNORED} for row in rows)
    torch.testing.assert_close(
        torch.tensor(rows[0]["answers"][0]).exp(), torch.tensor([0, 0, 0, 0.2, 0.8, 0]), atol=1e-4, rtol=0
    )
    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    answers = torch.full((3, 4, 6), torch.nan)
    answers[:, 0] = torch.tensor(np.stack([row["answers"][0] for row in rows]))
    gold = answers[:, 0].exp()
    entropy = -(gold * answers[:, 0]).sum(1)
    by_hand = (functional.cross_entropy(logits[:, 0], gold, reduction="none") - entropy).mean()
    labels = torch.full((3, 4), IGNORED)
    torch.testing.assert_close(task.SIMILARITY.loss(logits, {"answers": answers, "labels": labels}), by_hand)
    at_gold = task.grades([answers[number, :1].numpy() for number in range(3)])
    np.testing.assert_allclose(at_gold, [3.8, 0.0, 5.0], atol=1e-3)


def test_a_pair_is_read_as_the_tokenizer_reads_it_and_is_cut_to_its_window(tokenizer):
    text = task.SIMILARITY.encode(SOME, tokenizer, 32)
    assert text.windows[0].ids == tokenizer(SOME[0][0], SOME[0][1])["input_ids"]
    long = task.sentences([("a " * 50, "b " * 9)], ["1"], tokenizer, 24)
    assert len(long.windows[0].ids) == 24
    assert len(encode_split({"words": [["a"] * 50], "tags": [["O"] * 50]}, tokenizer, 128).windows[0].ids) > 24


def test_entities_as_a_task_are_scored_as_ever(tokenizer, random_model):
    model = random_model("bert")
    split = {"words": [["Madrid", "and", "Rome"], ["Anna", "sings"]], "tags": [["B-LOC", "O", "B-LOC"], ["B-PER", "O"]]}
    data = {"en": {"dev": split, "test": split}}
    found = task.ENTITIES.scores(run_of(model), data, tokenizer, 32)
    assert found == score(model, tokenizer, data, max_length=32)


def test_the_generated_pairs_are_graded_by_what_they_share():
    made = pairs.generate("es", "dev")
    assert made == pairs.generate("es", "dev") and len(made) == 400 and made[:7] == pairs.generate("es", "dev", 7)
    scores = np.array([score for *_, score in made])
    assert scores.min() == 0 and scores.max() == 5 and scores.std() > 1
    common = [len(set(a.split()) & set(b.split())) / len(set(a.split()) | set(b.split())) for a, b, _ in made]
    assert np.corrcoef(scores, common)[0, 1] > 0.6
    assert {a for a, *_ in made}.isdisjoint(a for a, *_ in pairs.generate("es", "test"))


def test_a_folder_of_stsb_is_read_and_its_mistakes_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="There is no .*en-train.csv.*all of STS-B"):
        pairs.load(str(tmp_path), None, None)
    (tmp_path / "stsb").mkdir()
    for name in ("en-train", *(f"{language}-{split}" for language in pairs.LANGUAGES for split in ("dev", "test"))):
        (tmp_path / "stsb" / f"{name}.csv").write_text('"One, two",Two.,2.5\nA,B,5.0\n')
    data = pairs.load(str(tmp_path), 1, None)
    assert data["en"]["train"] == [("One, two", "Two.", 2.5)] and len(data["nl"]["test"]) == 2
    for wrong in ("A,B\n", "A,B,good\n"):
        (tmp_path / "stsb" / "es-dev.csv").write_text("A,B,1.0\n" + wrong)
        with pytest.raises(ValueError, match="es-dev.csv, line 2: this is not a sentence, another"):
            pairs.load(str(tmp_path), None, None)
    (tmp_path / "stsb" / "es-dev.csv").write_text("A,B,7\n")
    with pytest.raises(ValueError, match="line 1: this is not .* from 0 to 5"):
        pairs.load(str(tmp_path), None, None)


def test_a_cap_takes_pairs_from_all_over_a_file_and_the_same_ones_in_every_language(tmp_path):
    (tmp_path / "stsb").mkdir()
    for name in ("en-train", *(f"{language}-{split}" for language in pairs.LANGUAGES for split in ("dev", "test"))):
        lines = [f"{name} {number},{number},1.0\n" for number in range(100)]
        (tmp_path / "stsb" / f"{name}.csv").write_text("".join(lines))
    data = pairs.load(str(tmp_path), 40, 20)
    numbers = {language: [int(second) for _, second, _ in splits["test"]] for language, splits in data.items()}
    assert numbers["en"] == numbers["es"] == numbers["nl"] == sorted(numbers["en"]) and len(numbers["en"]) == 20
    assert 30 < np.mean(numbers["en"]) < 70 and 30 < np.mean([int(second) for _, second, _ in data["en"]["train"]]) < 70


COLA = "label\tsentence\n" + "1\tThe cat sat .\n0\tCat the sat .\n" * 8
MRPC = "label\tsentence1\tsentence2\n" + "1\tIt rains .\tIt rains .\n0\tIt rains .\tAnna sings .\n" * 8


@pytest.mark.parametrize("shape", ["CoLA", "MRPC"])
def test_a_third_task_from_a_folder_of_tsv(shape, tmp_path, tiny_backbone, tokenizer):
    text, columns = (COLA, ("sentence",)) if shape == "CoLA" else (MRPC, ("sentence1", "sentence2"))
    folder = tmp_path / shape
    folder.mkdir()
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(text)
    (folder / "test.tsv").write_text("\t".join(columns) + "\n" + "\t".join(columns) + "\n")  # no labels, as in GLUE
    own, data = tsv.load(folder, columns, measured="matthews" if shape == "CoLA" else "f1")
    assert data["en"]["test"] == data["en"]["dev"]
    model = backbones.load_model(str(tiny_backbone), seed=1, labels=own.labels)
    rows = own.rows(own.encode(data["en"]["train"], tokenizer, 32), model.config.label2id)
    dev = own.dev(data["en"]["dev"], tokenizer, 32)
    recipe = Recipe(epochs=8, batch_size=4, learning_rate=5e-3)
    model, history = finetune(model, rows, dev, recipe, folder=tmp_path / "tuning", seed=1, loss=own.loss)
    found = own.scores(run_of(model), data, tokenizer, 32)["en"]["dev"]
    assert found[own.measured] == max(history["dev_f1"])
    assert found["examples"] == 16 and set(found) == {"accuracy", "f1", "matthews", "examples"}
    disk.save(model, tokenizer, tmp_path / "model")
    logits = word_logits(run_of(disk.load(tmp_path / "model")[0]), dev)
    assert own.score(dev, logits) == found


def test_scores_of_classes_against_formulas(tmp_path):
    folder = tmp_path / "T"
    folder.mkdir()
    labels = "110100"
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("label\tsentence\n" + "".join(f"{one}\ta\n" for one in labels))
    own, _ = tsv.load(folder)
    text = type("Text", (), {"tags": [[one] for one in labels]})
    guessed = [1, 1, 0, 1, 1, 0]
    logits = [np.eye(2)[[guess]] for guess in guessed]
    found = own.score(text, logits)
    assert found["accuracy"] == pytest.approx(5 / 6) and found["f1"] == pytest.approx(2 * 3 / (3 + 4))
    assert found["matthews"] == pytest.approx(np.corrcoef([int(one) for one in labels], guessed)[0, 1])


def test_a_labelled_test_set_is_read_letter_by_letter(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text(f'label\tsentence\n1\t"{split} NA\n0\tNA\n')
    _, data = tsv.load(tmp_path)
    assert data["en"]["test"] == [(('"test NA',), "1"), (("NA",), "0")]


def test_a_folder_where_something_is_missing_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="There is no .*train.tsv"):
        tsv.load(tmp_path)
    (tmp_path / "train.tsv").write_text("label\ttext\n1\ta\n")
    with pytest.raises(ValueError, match="no column 'sentence'; it has label, text"):
        tsv.load(tmp_path)
    (tmp_path / "train.tsv").write_text("label\tsentence\n1\ta\n")
    (tmp_path / "dev.tsv").write_text("label\tsentence\n2\ta\n")
    with pytest.raises(ValueError, match="label '2' of dev or test is not in train.tsv"):
        tsv.load(tmp_path)
