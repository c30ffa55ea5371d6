"""LoRA merged into the weights it adapts, so that the model needs no PEFT and has official names.

    weight = weight + scaling * B @ A        in fp32, then rounded to the type that it had

Knows nothing about files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from glmtune.errors import WeightsError
from glmtune.quantization import QuantizedLinear

# Largest difference of logits before and after, as a part of the largest logit. What is left is
# rounding: of sums in another order in fp32, of the merged weights in the half types. Measured:
# up to 5e-5, 2e-2 and 2e-1 with random models of four layers, a tenth of it with tame ones of two.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}
# Ids of ordinary pieces in every vocabulary, so that the check is the same for the same weights.
PROBE_IDS = range(4, 36)


def merge_adapter(model: PreTrainedModel, *, source: str = "the adapter") -> PreTrainedModel:
    """Merge the adapter that `load_adapter` put into `model`, in place; returns it in eval mode.

    `source` names the adapter in messages. Raises WeightsError for packed weights, for an adapter
    without effect, and if the merged model does not answer as the adapted one did.
    """
    model.eval()
    wrappers = _wrappers(model)
    if not wrappers:
        raise ValueError("no adapter in the model; call load_adapter first")
    _refuse_packed(wrappers, source)
    before = _probe(model)
    has_effect = False
    for name, wrapper in wrappers.items():
        merged, is_changed = _merge(wrapper, source)
        has_effect |= is_changed
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, merged)
    del model.peft_config  # what PEFT marks a model with; save_model looks at it too
    if not has_effect:
        raise WeightsError(
            f"{source}: has no effect: what it adds to the weights is zero everywhere; it was "
            "never trained, or its files are not those that training wrote"
        )
    _refuse_difference(before, _probe(model), model.dtype, source)
    return model


def _wrappers(model: nn.Module) -> dict[str, Any]:
    """PEFT's modules by name: around an adapted layer, or around one trained as a whole."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _refuse_packed(wrappers: dict[str, Any], source: str) -> None:
    for name, wrapper in wrappers.items():
        base = getattr(wrapper, "base_layer", None)
        if isinstance(base, QuantizedLinear):
            raise WeightsError(
                f"{source}: {name} of the base model is packed in {base.bits} bits, into which "
                "nothing can be merged without rounding it away; expected the base model in half "
                "or full precision: merge into that, then pack the result"
            )


def _merge(wrapper: Any, source: str) -> tuple[nn.Module, bool]:
    """The plain module that does what `wrapper` did, and whether its weight changed."""
    if not hasattr(wrapper, "base_layer"):
        whole = wrapper.unload_and_optionally_merge_module(
            merge=True, safe_merge=True, adapter_names=None
        )
        return whole, True
    base = wrapper.get_base_layer()
    dtype = base.weight.dtype
    wrapper.float()
    before = base.weight.detach().clone()
    try:
        wrapper.merge(safe_merge=True)
    except ValueError as error:
        raise WeightsError(f"{source}: cannot be merged: {error}; train it again") from None
    is_changed = not torch.equal(before, base.weight)
    return base.to(dtype), is_changed


@torch.no_grad()
def _probe(model: Any) -> torch.Tensor:
    """Logits (1, s, vocabulary) in fp32 for fixed ids that end as the generation's prompts do."""
    config = model.config
    # The first generation finds the end of its prompt by these two.
    ends = (getattr(config, "gmask_token_id", None), getattr(config, "bos_token_id", None))
    ids = [*PROBE_IDS, *(i for i in ends if i is not None)]
    return model(torch.tensor([ids], device=model.device), use_cache=False).logits.float()


def _refuse_difference(
    before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype, source: str
) -> None:
    """WeightsError unless the logits are the same up to rounding; what is no number is not."""
    found = float((after - before).abs().max() / before.abs().max())
    if not found <= TOLERANCE[dtype]:
        raise WeightsError(
            f"{source}: merged logits differ from unmerged ones by {found:.2g} of the largest "
            f"logit; expected at most {TOLERANCE[dtype]:g} in {str(dtype).removeprefix('torch.')}; "
            "use the adapter unmerged, or merge with the base model in float32"
        )
