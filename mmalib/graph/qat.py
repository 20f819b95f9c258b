"""Quantization-aware training: the linear maps compute as the int8 graph will, and learn to live with it.

Jacob et al. 2018 (Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference):
values are rounded to their int8 grid in the forward pass, and the gradient goes through as if they were not, where the
grid holds them. Ranges of activations are moving averages of the lowest and highest value of each batch; half-way
they are frozen (section 3.1 there). Padding is not looked at.

Scales and zero points are those of onnxruntime.quantization's `compute_scale_zp`, so that the int8 graph that
`quantize` builds from the learnt ranges gives the predictions of the fake-quantized model:

    weights       w → clamp(round(w / s), -127, 127) s           s = max|w| / 127
    activations   x → (clamp(round(x / s) + z, 0, 255) - z) s    s = (high - low) / 255, z = round(-low / s)

with a scale for every output of a weight (qdq) or one for the matrix (qoperator). Single values still differ: where
one lies between two levels, the last bit of a float decides, and each such value moves others over the edge in the
layers above. What agrees is what a trained model is sure of.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainerCallback

from mmalib.graph.trace import linears

MOMENTUM = 0.01  # how much of a batch enters the moving average, torch's own choice for its observers


class FakeQuantizedLinear(nn.Linear):
    """A linear map whose weights and activations are rounded as in the int8 graph, with the ranges it has seen."""

    def forward(self, given: Tensor) -> Tensor:
        """given: [..., inputs] → [..., outputs]."""
        # In bf16, 256 levels would be rounded to the 8 bits of its fraction.
        with torch.autocast(given.device.type, enabled=False):
            given = self._activation(given, self.input_range)
            out = functional.linear(given, fake_weight(self.weight, per_output=self.output_range is None))
            if self.output_range is not None:  # the bias is added to what has been quantized
                out = self._activation(out, self.output_range)
            return out if self.bias is None else out + self.bias

    def _activation(self, values: Tensor, seen: Tensor) -> Tensor:
        if self.training and not self.frozen:
            observe_(seen, values, self.real[0])
        elif not self.training and seen.isnan().any():
            raise ValueError("A fake-quantized model has seen no data yet. Train it, or give prepare_ ranges.")
        return fake_activation(values, seen)


class FreezeRanges(TrainerCallback):
    """Stops the moving averages of the ranges once half of the steps are done."""

    def on_step_begin(self, args, state, control, model=None, **_) -> None:
        """Asked at every step, so that a run that goes on from a checkpoint freezes at the same one."""
        for linear in _quantized(model).values():
            linear.frozen = state.global_step >= state.max_steps / 2


def prepare_(model: PreTrainedModel, *, format: str = "qdq") -> None:
    """Make the encoder's linear maps compute as the int8 graph of this format does, and watch their activations."""
    real: list[Tensor | None] = [None]  # the attention mask of the batch in work, shared by all maps
    for linear in linears(model).values():
        linear.__class__ = FakeQuantizedLinear  # the weight stays where optimizer, masks and checkpoints expect it
        linear.frozen, linear.real = False, real
        unseen = torch.full((2,), torch.nan, device=linear.weight.device)
        # Buffers: they are saved with a checkpoint, and the best one brings its ranges along.
        linear.register_buffer("input_range", unseen.clone())
        linear.register_buffer("output_range", unseen.clone() if format == "qoperator" else None)

    def remember(_: nn.Module, given: tuple, named: dict) -> None:
        real[0] = named.get("attention_mask", given[1] if len(given) > 1 else None)

    model.remember_mask = model.register_forward_pre_hook(remember, with_kwargs=True)


def ranges(model: PreTrainedModel) -> dict[str, dict[str, tuple[float, float]]]:
    """What was learnt: {module: {"input": (low, high), "output": ...}}, for `quantize.tensor_ranges`."""
    learnt = {}
    for name, linear in _quantized(model).items():
        seen = {"input": linear.input_range, "output": linear.output_range}
        learnt[name] = {which: tuple(pair.tolist()) for which, pair in seen.items() if pair is not None}
    return learnt


def remove_(model: PreTrainedModel) -> None:
    """Make the model a plain one again, with the weights it has learnt, so that it can be saved and exported."""
    for linear in _quantized(model).values():
        linear.__class__ = nn.Linear
        del linear.input_range, linear.output_range, linear.frozen, linear.real
    if hasattr(model, "remember_mask"):
        model.remember_mask.remove()
        del model.remember_mask


@torch.no_grad()
def observe_(seen: Tensor, values: Tensor, real: Tensor | None = None) -> None:
    """Move a range [2] towards the lowest and highest of these values; the first ones set it."""
    if real is not None:
        values = values[real.bool()]  # [batch, length, size] → [subwords, size]
    ends = torch.stack([values.amin(), values.amax()]).to(seen)
    seen.copy_(torch.where(seen.isnan(), ends, seen + MOMENTUM * (ends - seen)))


def fake_activation(values: Tensor, seen: Tensor) -> Tensor:
    """Values rounded to the 256 levels of a range [2]."""
    low, high = seen.double().clamp(max=0)[0], seen.double().clamp(min=0)[1]  # 0 has a level of its own
    scale = (high - low) / 255
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values.float(), scale.float(), zero, 0, 255)


def fake_weight(weight: Tensor, *, per_output: bool) -> Tensor:
    """Weights [outputs, inputs] rounded to 255 levels around zero, with one scale an output or one for all."""
    largest = weight.detach().abs().amax(1) if per_output else weight.detach().abs().amax()[None]
    scale = (largest.double() / 127).to(torch.float32)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    if per_output:
        zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
    return torch.fake_quantize_per_tensor_affine(weight, scale[0], zero_point=0, quant_min=-127, quant_max=127)


def _quantized(model: PreTrainedModel) -> dict[str, FakeQuantizedLinear]:
    return {name: linear for name, linear in linears(model).items() if isinstance(linear, FakeQuantizedLinear)}
