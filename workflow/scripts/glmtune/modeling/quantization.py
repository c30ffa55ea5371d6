"""Weights in 8 or 4 bits, in the official quantized layout, and linears that compute with them.

A row w of a weight becomes integers q with w ≈ q * scale: scale = max|w| / (2^(bits-1) - 1), kept
in fp16, and q = round(w / scale). With 4 bits, two neighboring columns share a byte, the even one
in the upper half, both in two's complement. Only the linears of the layers are quantized. A linear
dequantizes its weight each time it is used (`dequantizers.py`), then multiplies as usual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from glmtune.errors import WeightsError
from glmtune.modeling.dequantizers import choose_dequantizer, requested_dequantizer
from glmtune.modeling.linear import product
from glmtune.modeling.precision import working_dtype


def quantize(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight (n, m): return int8 values (n, m * bits / 8) and an fp16 scale (n).

    The weight is rounded to fp16 first, in which the official code holds it, so the result does not
    depend on the dtype in which the model was loaded.
    """
    weight = weight.half()
    scale = (weight.abs().amax(dim=-1) / (2 ** (bits - 1) - 1)).half()
    divisor = scale.where(scale > 0, 1.0)[:, None]  # a row of zeros stays zero
    numbers = torch.round(weight / divisor).to(torch.int8)
    return (pack_int4(numbers) if bits == 4 else numbers), scale


def dequantize(
    quantized: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype = torch.float16
) -> torch.Tensor:
    """Return the dequantized weight (n, m): rounded to fp16, then to `dtype`."""
    if isinstance(quantized, FakeTensor):  # only a shape: there are no bits to dequantize
        return quantized.new_empty(
            (quantized.shape[0], quantized.shape[1] * 8 // bits), dtype=dtype
        )
    dequantizer = choose_dequantizer(quantized.device, bits, dtype, requested_dequantizer())
    return dequantizer(quantized, scale, bits, dtype)


def pack_int4(numbers: torch.Tensor) -> torch.Tensor:
    """Pack pairs of columns into bytes. [[1, -1]] -> [[0x1F]] = [[31]]."""
    even, odd = numbers[:, 0::2], numbers[:, 1::2]
    return (even << 4) | (odd & 15)


class _QuantizedLinear(torch.autograd.Function):
    """x @ weight.T that saves the quantized weight for backward, not the dequantized one."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, quantized: torch.Tensor, scale: torch.Tensor, bits: int
    ) -> torch.Tensor:
        context.save_for_backward(quantized, scale)
        context.bits = bits
        return product(x, dequantize(quantized, scale, bits, x.dtype))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        quantized, scale = context.saved_tensors
        gradient = gradients[0]
        weight = dequantize(quantized, scale, context.bits, gradient.dtype)
        return product(gradient, weight.T), None, None, None


class QuantizedLinear(nn.Linear):
    """A frozen linear that holds its weight quantized; an nn.Linear, so that PEFT can adapt it.

    Buffers and names are the official ones: weight (int8), weight_scale (fp16), bias.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bits: int, bias: bool, device: Any = None
    ) -> None:
        if in_features * bits % 8:
            raise WeightsError(
                f"quantization_bit {bits}: found a linear layer with {in_features} columns; "
                "expected an even number, because two columns share a byte; use 8 or none"
            )
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self.bits = bits
        shape = (out_features, in_features * bits // 8)
        quantized = torch.empty(shape, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(quantized, requires_grad=False)
        self.weight_scale: torch.Tensor
        scale = torch.empty(out_features, dtype=torch.float16, device=device)
        self.register_buffer("weight_scale", scale)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) -> (…, out_features) in the dtype of the input, or of autocast."""
        input = input.to(working_dtype(input))
        output = _QuantizedLinear.apply(input, self.weight, self.weight_scale, self.bits)
        return output if self.bias is None else output + self.bias.to(output.dtype)


def quantize_model(
    model: PreTrainedModel, bits: int, device: torch.device | str | None = None
) -> None:
    """Replace the linears of the layers by quantized ones, one at a time.

    Each weight is quantized on `device`, which therefore never holds the unquantized model.
    """
    for parent, name, linear in _linears(model):
        small = _empty_quantized(linear, bits)
        quantized, scale = quantize(linear.weight.detach().to(device), bits)
        small.weight = nn.Parameter(quantized, requires_grad=False)
        small.weight_scale = scale
        if linear.bias is not None:
            small.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        setattr(parent, name, small)
    model.config.quantization_bit = bits


def prepare_quantized(model: PreTrainedModel, bits: int) -> None:
    """Give a model without weights the layout of a quantized checkpoint."""
    for parent, name, linear in _linears(model):
        setattr(parent, name, _empty_quantized(linear, bits))


def _empty_quantized(linear: nn.Linear, bits: int) -> QuantizedLinear:
    has_bias = linear.bias is not None
    return QuantizedLinear(
        linear.in_features, linear.out_features, bits=bits, bias=has_bias, device="meta"
    )


def _linears(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, linear) for every full-precision linear of the layers."""
    outer: Any = model
    return [
        (parent, name, child)
        for parent in outer.transformer.layers.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and not isinstance(child, QuantizedLinear)
    ]
