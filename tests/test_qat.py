"""Fake quantization computes what the int8 graph computes, learns its ranges, and leaves a plain model behind."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp
from test_export import sparse_, uneven_
from torch import nn
from transformers import TrainerCallback

from mmalib.data import corpus, subwords
from mmalib.graph import export, qat, quantize, trace
from mmalib.model import backbones, disk
from mmalib.profiles import load_profile
from mmalib.records import machine

SETTINGS = {"seed": 1, "batch_size": 16, "learning_rate": 3e-3, "max_length": 64}


@pytest.fixture(scope="module")
def english():
    return corpus.load(load_profile("quick"), "sample")["en"]


class Watch(TrainerCallback):
    """Notes one range at the end of every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **_):
        self.seen.append(next(iter(trace.linears(model).values())).input_range.tolist())


def to_int8(model, tokenizer, folder, format):
    plain = copy.deepcopy(model)
    qat.remove_(plain)
    export.export(plain, tokenizer, folder / "float")
    given = quantize.tensor_ranges(folder / "float", qat.ranges(model))
    quantize.quantize(folder / "float", folder / "int8", kind="qat", ranges=given, format=format)


@pytest.fixture(scope="module", params=quantize.FORMATS)
def learnt(request, tune, tiny_backbone, tokenizer, english, tmp_path_factory):
    """A tiny model that was tuned for ten steps under fake quantization, in the format of the parameter."""
    folder = tmp_path_factory.mktemp("qat")
    model, watch = backbones.load_model(str(tiny_backbone), seed=1), Watch()
    qat.prepare_(model, format=request.param)
    some = {"train": english["train"].select(range(80)), "dev": english["dev"].select(range(10))}
    callbacks = [qat.FreezeRanges(), watch]
    model, _ = tune(model, tokenizer, some, folder, epochs=2, callbacks=callbacks, **SETTINGS)
    to_int8(model, tokenizer, folder, request.param)
    return model, folder, watch.seen


def in_float32(model):
    """The model without the mixed precision that the Trainer leaves on."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False).eval()


@pytest.mark.parametrize("format", quantize.FORMATS)
def test_the_int8_graph_predicts_as_the_fake_quantized_model(tiny_backbone, tokenizer, english, tmp_path, format):
    # A tiny random model can learn 32 sentences by heart: then it is sure of what it says, as a trained one is.
    torch.manual_seed(0)
    model, some = backbones.load_model(str(tiny_backbone), seed=1), english["train"].select(range(32))
    rows = subwords.training_rows(subwords.encode_split(some, tokenizer, 64), model.config.label2id)
    qat.prepare_(model, format=format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(160):
        for linear in qat._quantized(model).values():
            linear.frozen = step >= 80
        (batch,) = subwords.batches(rows, tokenizer, len(rows))
        model.train()(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    to_int8(model, tokenizer, tmp_path, format)
    fake = subwords.predict_tags(model, tokenizer, some["words"], max_length=64)
    graph = subwords.tagged(export.session(tmp_path / "int8", 1), tokenizer, some["words"], 64)
    flat = [[tag for tags in side for tag in tags] for side in (list(some["tags"]), fake, graph)]
    gold, fake, graph = map(np.array, flat)
    assert (fake == graph).mean() >= 0.995
    assert (fake == gold).mean() > 0.95 and len(set(fake)) > 5  # and not because all is O


def test_every_map_of_the_graph_computes_what_the_fake_one_does(learnt):
    # Given the very same input: over several layers single values fall to either side of a step. A value half-way
    # between two steps may do so even here, and puts its row off by no more than one step of that value.
    model, folder, _ = learnt
    proto = onnx.load(folder / "int8" / "model.onnx")
    whole = trace.matmuls(onnx.load(folder / "float" / "model.onnx").graph)
    tensors = {name for node in whole.values() for name in (node.input[0], node.output[0])}
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in sorted(tensors))
    how = onnxruntime.SessionOptions()
    if machine.saturates():  # u8 x s8 products, as of ONNX Runtime's fused kernels; node by node, qdq has none
        if any(node.op_type == "QLinearMatMul" for node in proto.graph.node):
            pytest.skip("products saturate on this CPU: the graph computes otherwise")
        how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), how, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    ids = torch.randint(5, 900, (3, 20), generator=torch.Generator().manual_seed(1)).numpy()
    found = dict(zip(names, session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}), strict=True))
    linears = trace.linears(in_float32(model))
    for name, node in whole.items():
        linear = linears[name]
        with torch.no_grad():
            ours = linear(torch.from_numpy(found[node.input[0]])) - linear.bias
        apart = np.abs(ours.numpy() - found[node.output[0]])
        levels = {end: (max(*pair, 0.0) - min(*pair, 0.0)) / 255 for end, pair in qat.ranges(model)[name].items()}
        half_way = (np.abs(found[node.input[0]] / levels["input"] % 1 - 0.5) < 1e-4).any(-1)
        close = np.isclose(ours.numpy(), found[node.output[0]], atol=1e-4 * float(ours.abs().max()))
        assert close[~half_way].mean() > 0.999, name
        step = levels["input"] * float(linear.weight.abs().max()) + levels.get("output", 0.0)
        assert half_way.mean() < 0.1 and apart[half_way].max(initial=0) < 1.1 * step, name


def test_ranges_move_and_freeze_half_way_and_come_back_with_the_model(learnt):
    model, _, seen = learnt
    half = len(seen) // 2
    assert len({tuple(pair) for pair in seen[:half]}) == half
    assert len({tuple(pair) for pair in seen[half:]}) == 1
    name, found = next(iter(qat.ranges(model).items()))
    assert list(found["input"]) == pytest.approx(seen[-1])
    assert name == "bert.encoder.layer.0.attention.self.query"


def test_a_plain_model_is_left_behind(learnt, tokenizer, tmp_path):
    model, folder, _ = learnt
    with pytest.raises(ValueError, match="qat.remove_"):
        export.export(model, tokenizer, tmp_path / "out")
    plain = in_float32(model)
    qat.remove_(plain)
    assert all(type(linear) is nn.Linear for linear in trace.linears(plain).values())
    assert not [name for name in plain.state_dict() if "range" in name]
    disk.save(plain, tokenizer, tmp_path / "saved")
    again, _ = disk.load(tmp_path / "saved")
    ids = torch.randint(5, 900, (2, 9))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, plain(ids).logits)


def test_levels_are_those_of_the_library():
    draw = np.random.default_rng(0)
    for low, high in [(-1.5, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), *draw.normal(size=(20, 2)).tolist()]:
        low, high = min(low, high), max(low, high)
        zero, scale = compute_scale_zp(np.float32(low), np.float32(high), np.uint8(0), np.uint8(255))
        values = torch.from_numpy(draw.normal(0, 3, 200).astype(np.float32))
        ours = qat.fake_activation(values, torch.tensor([low, high]))
        levels = np.clip(np.round(values.numpy() / scale) + zero, 0, 255)
        # a value between two levels may go either way, by the last bit
        close = np.isclose(ours.numpy(), (levels - zero) * scale, atol=1e-6 * max(scale * 255, 1))
        assert close.mean() > 0.99


@pytest.mark.parametrize("per_output", [True, False])
def test_weights_keep_zeros_and_gradients_pass_where_the_grid_reaches(per_output):
    weight = torch.tensor([[0.0, 1.27, -0.013], [0.0, 0.0, 0.0], [12.7, 0.06, -12.7]], requires_grad=True)
    fake = qat.fake_weight(weight, per_output=per_output)
    step = torch.tensor([[0.01], [1.0], [0.1]]) if per_output else torch.full((3, 1), 0.1)
    torch.testing.assert_close(fake, (weight / step).round() * step)
    assert (fake[weight == 0] == 0).all()
    fake.sum().backward()
    assert torch.equal(weight.grad, torch.ones(3, 3))
    values = torch.tensor([-5.0, 0.3, 5.0], requires_grad=True)
    qat.fake_activation(values, torch.tensor([-1.0, 1.0])).sum().backward()
    assert values.grad.tolist() == [0, 1, 0]


def test_ranges_are_moving_averages_without_padding(random_model):
    seen = torch.full((2,), torch.nan)
    mask = torch.tensor([[1, 1, 0]])
    for values in ([[-1.0], [2.0], [99.0]], [[-3.0], [1.0], [-99.0]]):
        qat.observe_(seen, torch.tensor([values]), mask)
    assert seen.tolist() == pytest.approx([-1.0 * 0.99 - 3.0 * 0.01, 2.0 * 0.99 + 1.0 * 0.01])
    model, ids = random_model("distilbert"), torch.randint(5, 900, (2, 12))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    found = []
    for given in (ids, torch.where(mask == 1, ids, 7)):  # other subwords in the padding
        one = copy.deepcopy(model)
        one.config.attention_dropout = one.config.dropout = 0.0
        for module in one.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        qat.prepare_(one)
        one.train()(input_ids=given, attention_mask=mask)
        found.append(qat.ranges(one))
    for name, pair in found[0].items():
        assert pair["input"] == pytest.approx(found[1][name]["input"], abs=1e-5)


@pytest.mark.parametrize(("architecture", "prune_"), [("xlm-r", sparse_), ("distilbert", uneven_)])
def test_a_pruned_model_goes_the_whole_way(random_model, tokenizer, tmp_path, architecture, prune_):
    model = random_model(architecture)
    prune_(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    qat.prepare_(model)
    ids = torch.randint(5, 900, (4, 12))
    model.train()(input_ids=ids, attention_mask=torch.ones_like(ids))
    found = qat.ranges(model)
    qat.remove_(model.eval())
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    whole = export.export(model, tokenizer, tmp_path / "float")
    given = quantize.tensor_ranges(tmp_path / "float", found)
    about = quantize.quantize(tmp_path / "float", tmp_path / "int8", kind="qat", ranges=given)
    assert about["quantization"]["sparsity"] == whole["sparsity"]


def test_mistakes_are_one_clear_line(random_model):
    model = random_model("bert")
    qat.prepare_(model)
    with pytest.raises(ValueError, match="has seen no data"):
        model(torch.ones(1, 3, dtype=torch.long))
