"""The shipped weights: what is stored comes back, once, whole, by its hash, whoever else unpacks it at that moment."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from smoke import FILE
from transformers import AutoModel, AutoTokenizer

from mmalib.model import backbones, disk, packed
from mmalib.records import store


def random_tensors(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "encoder.a.weight": draw.normal(size=(6, 64)).astype(np.float32),
        "encoder.a.bias": draw.normal(size=6).astype(np.float32),
        "encoder.norm.weight": np.ones(64, np.float32),
    }


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder as `mmalib/weights` with one small backbone, and a cache of its own."""
    folder = tmp_path / "weights"
    for name in ("vocabulary", "tiny"):
        (folder / name).mkdir(parents=True)
    save_file({"embeddings.position": np.ones((2, 3), np.float32)}, folder / "vocabulary" / "embeddings.safetensors")
    (folder / "vocabulary" / "tokenizer.json").write_text("{}")
    save_file(packed.pack(random_tensors()), folder / "tiny" / "layers.safetensors")
    (folder / "tiny" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tiny" / "training.json").write_text("told, not unpacked")
    packed.write_sums(folder)
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path / "cache"))
    return folder


def test_whole_numbers_are_stored_two_a_byte():
    values = np.random.default_rng(0).integers(-8, 8, size=(5, 96)).astype(np.int8)
    blocks = (values.reshape(5, 3, 32) + 8).astype(np.uint8)
    stored = (blocks[..., :16] | blocks[..., 16:] << 4).reshape(5, 48)  # as the file has them
    assert np.array_equal(packed.whole_numbers(stored), values)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_a_value_is_off_by_half_a_step_at_most_and_rounded_twice_the_same(bits, most):
    matrix = random_tensors()["encoder.a.weight"]
    again = packed.scaled(*packed.rounded(matrix, bits))
    steps = np.abs(matrix.reshape(6, 2, 32)).max(-1, keepdims=True) / most
    off = np.abs(again - matrix).reshape(6, 2, 32)
    assert again.dtype == np.float32 and (off <= 0.51 * steps + 1e-3).all() and off.max() > 0
    once_more = packed.scaled(*packed.rounded(again, bits))
    np.testing.assert_allclose(once_more, again, rtol=2e-3, atol=1e-4)


def test_what_is_packed_comes_back_in_float32():
    tensors = random_tensors()
    again = packed.unpack(packed.pack(tensors))
    assert {name: value.dtype for name, value in again.items()} == dict.fromkeys(tensors, np.float32)
    np.testing.assert_allclose(again["encoder.a.bias"], tensors["encoder.a.bias"], rtol=1e-3)
    np.testing.assert_allclose(again["encoder.a.weight"], tensors["encoder.a.weight"], atol=0.02)


def test_a_block_of_tiny_values_keeps_its_size():
    matrix = random_tensors()["encoder.a.weight"] * np.float32(1e-3)  # scales under what float16 has at full precision
    again = packed.scaled(*packed.rounded(matrix, 8))
    np.testing.assert_allclose(np.abs(again).sum(), np.abs(matrix).sum(), rtol=0.02)


def test_a_block_of_zeros_stays_zero():
    assert not packed.unpack(packed.pack({"w": np.zeros((2, 32), np.float32)}))["w"].any()


def test_it_is_unpacked_once_with_what_all_backbones_share(weights):
    folder = packed.unpacked("tiny", weights)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    tensors = load_file(folder / "model.safetensors")
    expected = packed.unpack(packed.pack(random_tensors())) | {"embeddings.position": np.ones((2, 3), np.float32)}
    assert tensors.keys() == expected.keys() and all(np.array_equal(tensors[name], expected[name]) for name in tensors)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert packed.unpacked("tiny", weights) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_other_weights_get_another_folder(weights):
    one = packed.unpacked("tiny", weights)
    save_file(packed.pack(random_tensors(1)), weights / "tiny" / "layers.safetensors")
    packed.write_sums(weights)
    other = packed.unpacked("tiny", weights)
    assert one != other and one.is_dir() and other.is_dir()


@pytest.mark.parametrize("damage", ["byte", "gone"])
def test_a_wrong_hash_is_one_clear_line_and_leaves_nothing(weights, tmp_path, damage):
    path = weights / "tiny" / "layers.safetensors"
    if damage == "byte":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"layers\.safetensors is missing or damaged: .* Reinstall"):
        packed.unpacked("tiny", weights)
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())
    with pytest.raises(ValueError, match="does not know 'huge'"):
        packed.unpacked("huge", weights)


def test_killed_half_way_it_starts_over_and_leaves_no_litter(weights, tmp_path, monkeypatch):
    program = (
        "import os, sys; from pathlib import Path; from mmalib.model import packed\n"
        "packed.save_file = lambda tensors, path, **_: (path.write_bytes(b'half'), os._exit(9))\n"
        "packed.unpacked('tiny', Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(weights)], env=dict(os.environ), timeout=60)
    cache = tmp_path / "cache"
    assert done.returncode == 9 and [path.name for path in cache.iterdir() if path.is_dir()][0].startswith(".tiny-")
    folder = packed.unpacked("tiny", weights)
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]
    assert "encoder.a.weight" in load_file(folder / "model.safetensors")


def test_several_at_once_all_find_it_whole(weights, tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        folders = pool.map(partial(packed.unpacked, "tiny"), [weights] * 8)  # a function that needs no torch
    assert set(folders) == {packed.unpacked("tiny", weights)}
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_a_package_that_cannot_be_written_to_is_no_obstacle(weights):
    paths = [weights, *weights.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert packed.unpacked("tiny", weights).is_dir()
    finally:
        for path in paths:
            path.chmod(0o755)


def test_a_cache_that_cannot_be_written_to_is_one_clear_line(weights, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMALIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="'tiny' could not be unpacked into .*file .*set MMALIB_CACHE"):
        packed.unpacked("tiny", weights)


@pytest.mark.parametrize("name", backbones.SHIPPED)
def test_a_shipped_backbone_loads_offline_in_float32(name):
    model, tokenizer = (kind.from_pretrained(backbones.locate(name)) for kind in (AutoModel, AutoTokenizer))
    assert model.dtype == torch.float32 and model.config.vocab_size == len(tokenizer) == 50_000
    words = tokenizer("El Niño über Øresund, Kraków ¿vino? 'S-Hertogenbosch").input_ids
    assert (words[0], words[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.unk_token_id not in words  # no word of Latin script is unknown


def test_shipped_backbones_give_translations_the_same_direction():
    """The check that the description of e5's file gives, without its prefix."""
    for name, least in (("e5", 0.9), ("e5-half", 0.85), ("e5-narrow", 0.8)):
        model, tokenizer = (kind.from_pretrained(backbones.locate(name)) for kind in (AutoModel, AutoTokenizer))
        lines = [
            "The president visited Madrid yesterday.",
            "El presidente visitó Madrid ayer.",
            "De president bezocht gisteren Madrid.",
            "I like cooking fish at home.",
        ]
        with torch.inference_mode():
            means = [model.eval()(**tokenizer(x, return_tensors="pt")).last_hidden_state.mean(dim=1)[0] for x in lines]
        spanish, dutch, other = torch.nn.functional.cosine_similarity(torch.stack(means[1:]), means[0][None])
        assert min(spanish, dutch) > least and min(spanish, dutch) > other + 0.05


def test_the_shipped_backbones_stay_under_eighty_megabytes():
    assert sum(path.stat().st_size for path in packed.WEIGHTS.rglob("*") if path.is_file()) < 80e6


def test_rounding_once_more_changes_the_layers_and_nothing_else(random_model, tokenizer, tmp_path, capsys):
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "rounding.py"))
    model, dense = random_model("bert"), random_model("bert")
    script["round_"](model, 4)
    for (name, after), before in zip(model.named_parameters(), dense.parameters(), strict=True):
        assert torch.equal(after, before) == (".encoder." not in name or after.dim() < 2)
    disk.save(model, tokenizer, tmp_path / "model")
    script["main"]([str(tmp_path / "model"), "--profile", str(FILE), "--out", str(tmp_path)])
    assert [row["language"] for row in store.read(tmp_path)[0]["rows"]] == ["English", "Spanish", "Dutch"]
    assert "| Dutch | " in capsys.readouterr().out
