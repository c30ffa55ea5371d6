"""Merges LoRA into the weights it adapts, so the model needs no PEFT and has official names.

    weight = weight + scaling * B @ A        in fp32, then rounded to the original type

Knows nothing about files.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from glmtune.errors import WeightsError
from glmtune.modeling.quantization import QuantizedLinear

# The largest allowed difference of a merged layer's fp32 output before rounding, relative to the
# largest value; summation order causes up to 1e-6 (measured). Logits are no criterion: the effect
# of rounded weights on them depends on the model (random ChatGLM-6B in float16: 0.15).
LAYER_TOLERANCE = 1e-5
# Ids of ordinary pieces in every vocabulary, so that the check depends only on the weights.
PROBE_IDS = range(4, 36)


def merge_adapter(model: PreTrainedModel, *, source: str = "the adapter") -> PreTrainedModel:
    """Merge the adapter that `load_adapter` put into `model` in place; return it in eval mode.

    `source` names the adapter in messages. Raises WeightsError for quantized weights, for an
    adapter without effect, and if the merged model's outputs differ from the adapted one's.
    """
    model.eval()
    wrappers = _adapted_modules(model)
    if not wrappers:
        raise ValueError("no adapter in the model; call load_adapter first")
    _refuse_quantized_layers(wrappers, source)
    before = _probe_logits(model)
    has_effect = False
    for name, wrapper in wrappers.items():
        merged, is_changed = _merge_layer(wrapper, name, source)
        has_effect |= is_changed
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, merged)
    del model.peft_config  # PEFT's mark on a model, which save_model checks
    if not has_effect:
        raise WeightsError(
            f"{source}: has no effect: its update is zero everywhere, or too small for "
            f"{_dtype_name(model)}; it was never trained, or its files are not those that training "
            "wrote"
        )
    moved = _relative_difference(before, _probe_logits(model))
    if not math.isfinite(moved):
        raise WeightsError(
            f"{source}: merged in {_dtype_name(model)}, the model produces NaN or infinite "
            "logits; merge with the base model in float32 (--dtype float32)"
        )
    print(
        f"merged; rounding the weights to {_dtype_name(model)} changes the logits by up to "
        f"{moved:.1e} of the largest",
        file=sys.stderr,
    )
    return model


def _dtype_name(model: PreTrainedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _adapted_modules(model: nn.Module) -> dict[str, Any]:
    """PEFT's modules by name: wrappers of adapted or fully trained layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _refuse_quantized_layers(wrappers: dict[str, Any], source: str) -> None:
    for name, wrapper in wrappers.items():
        base = getattr(wrapper, "base_layer", None)
        if isinstance(base, QuantizedLinear):
            raise WeightsError(
                f"{source}: {name} of the base model is quantized to {base.bits} bits, so rounding "
                "would erase the merged update; expected the base model in half or full precision; "
                "merge into that, then quantize the result"
            )


@torch.no_grad()
def _merge_layer(wrapper: Any, name: str, source: str) -> tuple[nn.Module, bool]:
    """The plain module equivalent to `wrapper`, and whether its rounded weight changed."""
    if not hasattr(wrapper, "base_layer"):
        whole = wrapper.unload_and_optionally_merge_module(
            merge=True, safe_merge=True, adapter_names=None
        )
        return whole, True
    base = wrapper.get_base_layer()
    before = base.weight.detach().clone()
    wrapper.float()
    inputs = _layer_inputs(base)
    expected = wrapper(inputs)
    try:
        wrapper.merge(safe_merge=True)
    except ValueError as error:
        raise WeightsError(f"{source}: cannot be merged: {error}; train it again") from None
    what = f"{source}: merged outputs of {name}"
    _refuse_difference(what, expected, base(inputs), LAYER_TOLERANCE)
    base.to(before.dtype)
    return base, not torch.equal(before, base.weight)


def _layer_inputs(layer: nn.Module) -> torch.Tensor:
    """Deterministic inputs: ids for an embedding, else (4, in_features)."""
    weight: Any = layer.weight
    if isinstance(layer, nn.Embedding):
        return torch.arange(4, device=weight.device)
    steps = torch.arange(4 * weight.shape[1], device=weight.device)
    return steps.float().cos().view(4, -1)


@torch.no_grad()
def _probe_logits(model: Any) -> torch.Tensor:
    """Logits (1, s, vocabulary) in fp32 for fixed ids that end like the family's prompts."""
    config = model.config
    # ChatGLM-6B locates the end of its prompt by these two.
    ends = (getattr(config, "gmask_token_id", None), getattr(config, "bos_token_id", None))
    ids = [*PROBE_IDS, *(i for i in ends if i is not None)]
    return model(torch.tensor([ids], device=model.device), use_cache=False).logits.float()


def _relative_difference(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((after - before).abs().max() / before.abs().max())


def _refuse_difference(
    what: str, before: torch.Tensor, after: torch.Tensor, tolerance: float
) -> None:
    """Raise WeightsError unless both agree up to rounding; NaN never agrees."""
    found = _relative_difference(before, after)
    if not found <= tolerance:
        raise WeightsError(
            f"{what} differ from the unmerged ones by {found:.2g} of the largest; expected at most "
            f"{tolerance:g}; use the adapter unmerged"
        )
