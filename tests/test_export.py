"""An exported folder is the model: the same logits, weights and tags, for a reader that knows nothing of torch."""

import copy
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mmalib.data import sample, subwords
from mmalib.graph import export, trace
from mmalib.model import backbones, disk
from mmalib.prune.heads import remove_heads_

ARCHITECTURES = ("bert", "xlm-r", "distilbert")


def uneven_(model):
    remove_heads_(model, {0: [0, 2, 3], 1: [1]})
    for layer, number in zip(backbones.layers(model), (10, 37), strict=True):
        own = backbones.parts(layer)
        disk.keep_([own.widen], own.narrow, torch.arange(number))
    disk.record_pruning_(model)


def sparse_(model, share=0.75):
    draw = torch.Generator().manual_seed(0)
    for linear in trace.linears(model).values():
        linear.weight.data[torch.rand(linear.weight.shape, generator=draw) < share] = 0


PRUNED = {"dense": lambda _: None, "sparse": sparse_, "uneven": uneven_}


def graph_of(folder):
    return onnx.load(folder / "model.onnx").graph


@pytest.mark.parametrize(
    ("architecture", "pruned"),
    [("bert", "dense"), ("bert", "uneven"), ("xlm-r", "sparse"), ("xlm-r", "uneven"), ("distilbert", "uneven")],
)
def test_logits_are_those_of_pytorch_for_any_batch_and_length(random_model, tokenizer, tmp_path, architecture, pruned):
    model = random_model(architecture)
    PRUNED[pruned](model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    about = export.export(model, tokenizer, tmp_path / "out", provenance={"run": "01-x"})
    assert about["parity"]["max_abs_difference"] < 1e-4
    assert json.loads((tmp_path / "out" / "mmalib.json").read_text()) == about and about["run"] == "01-x"
    onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "out" / "model.onnx"), strict_mode=True)  # widths of maps
    run = export.session(tmp_path / "out", 1)
    for rows, length in ((1, 2), (5, 23)):
        ids = torch.randint(5, 900, (rows, length), generator=torch.Generator().manual_seed(rows))
        mask = torch.ones_like(ids)
        mask[0, length // 2 + 1 :] = 0
        ids[mask == 0] = model.config.pad_token_id
        with torch.no_grad():
            theirs = model(input_ids=ids, attention_mask=mask).logits
        ours = torch.from_numpy(run(ids.numpy(), mask.numpy()))
        torch.testing.assert_close(ours[mask == 1], theirs[mask == 1], atol=1e-4, rtol=0)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert model.config._attn_implementation != "eager"  # the model itself is left as it was


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_the_graph_has_the_weights_and_zeros_of_the_model(random_model, tokenizer, tmp_path, architecture):
    model = random_model(architecture)
    sparse_(model)
    about = export.export(model, tokenizer, tmp_path / "out")
    graph = graph_of(tmp_path / "out")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    linears = trace.linears(model)
    assert list(trace.matmuls(graph)) == list(linears) and len(linears) == 12
    for name, linear in linears.items():
        assert np.array_equal(stored[f"{name}.weight"], linear.weight.detach().numpy().T)
    weights = torch.cat([linear.weight.flatten() for linear in linears.values()])
    assert about["sparsity"] == int((weights == 0).sum()) / len(weights) > 0.7
    assert about["encoder_weights"] == len(weights)


def test_maps_that_are_pruned_away_keep_a_node_each(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    for linear in trace.linears(model).values():
        linear.weight.data.zero_()
    about = export.export(model, tokenizer, tmp_path / "out")
    assert about["sparsity"] == 1 and about["parity"]["max_abs_difference"] < 1e-4
    graph = graph_of(tmp_path / "out")
    found = trace.matmuls(graph)
    assert list(found) == list(trace.linears(model))
    # what the maps read says whether each got its own name
    for layer in range(2):
        read = {part: node.input[0] for part, node in found.items() if f"layer.{layer}." in part}
        query, key, value, mix, widen, narrow = read.values()
        assert query == key == value and len({query, mix, widen, narrow}) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_mask_is_made_in_few_nodes(random_model, tmp_path, architecture):
    model = random_model(architecture)
    model.set_attn_implementation("eager")
    trace.trace(model, tmp_path / "model.onnx")
    kinds = {node.op_type for node in graph_of(tmp_path).node}
    assert not kinds & {"Where", "Expand", "Range", "GatherElements"}
    assert {entry.version for entry in onnx.load(tmp_path / "model.onnx").opset_import} == {14}


def test_tags_are_those_of_pytorch(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    export.export(model, tokenizer, tmp_path / "out")
    sentences = [words for words, _ in sample.generate()["en"]["dev"][:40]] + [[], ["x"] * 70]
    run = export.session(tmp_path / "out")
    assert subwords.tagged(run, tokenizer, sentences, 32) == subwords.predict_tags(
        model, tokenizer, sentences, max_length=32
    )


READER = """
import json, sys
import numpy, onnxruntime
from tokenizers import Tokenizer
folder = sys.argv[1]
encoded = Tokenizer.from_file(folder + "/tokenizer.json").encode(["Angela", "Merkel", "visited"], is_pretokenized=True)
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
feed = {"input_ids": numpy.array([encoded.ids]), "attention_mask": numpy.array([encoded.attention_mask])}
logits = session.run(None, feed)[0][0]
labels = json.load(open(folder + "/config.json"))["id2label"]
assert not {"torch", "transformers", "mmalib"} & set(sys.modules)
print(json.dumps({"ids": encoded.ids, "tags": [labels[str(best)] for best in logits.argmax(-1)]}))
"""


def test_the_folder_is_enough_for_onnxruntime_and_the_tokenizer_file(random_model, tokenizer, tmp_path):
    model = random_model("bert")
    export.export(model, tokenizer, tmp_path / "out")
    command = [sys.executable, "-c", READER, str(tmp_path / "out")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with torch.no_grad():
        best = model(torch.tensor([found["ids"]])).logits[0].argmax(-1)
    assert found["tags"] == [model.config.id2label[int(i)] for i in best]
    assert found["ids"][0] == tokenizer.cls_token_id and found["ids"][-1] == tokenizer.sep_token_id


def test_a_model_in_mixed_precision_is_exported_in_float32(random_model, tokenizer, tmp_path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model = random_model("bert")
    AcceleratorState._reset_state(True)
    try:
        wrapped = Accelerator(mixed_precision="bf16", cpu=True).prepare(copy.deepcopy(model))
        assert "forward" in vars(wrapped)
        export.export(wrapped, tokenizer, tmp_path / "out")
    finally:
        AcceleratorState._reset_state(True)
    ids = torch.randint(5, 900, (2, 9))
    with torch.no_grad():
        theirs = model(ids).logits
    ours = export.session(tmp_path / "out")(ids.numpy(), np.ones((2, 9), np.int64))
    torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=0)


def test_what_differs_from_pytorch_is_refused_and_leaves_the_old_folder(random_model, tokenizer, tmp_path, monkeypatch):
    model = random_model("bert")
    export.export(model, tokenizer, tmp_path / "out")
    old = (tmp_path / "out" / "model.onnx").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="differ from PyTorch's by"):
        patch.setattr(export, "TOLERANCE", 0.0)
        export.export(random_model("xlm-r"), tokenizer, tmp_path / "out")
    model.classifier.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="differ from PyTorch's by nan"):
        export.export(model, tokenizer, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_a_graph_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="has no model.onnx"):
        export.session(tmp_path)
