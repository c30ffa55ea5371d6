"""Load the weights in a folder into a model that was built without any.

Refuses a folder whose tensors are not exactly those that the model needs.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from glmtune.checkpoints.tensors import QUANTIZED_TYPES, is_finite, read_weights
from glmtune.checkpoints.transformers_layout import official_weights
from glmtune.errors import WeightsError, shown_name
from glmtune.modeling.causal_lm import ChatGLMCausalLM, tied_names
from glmtune.modeling.prefix import PREFIX_KEY
from glmtune.modeling.quantization import quantize

# Computed, not learned; the official loaders ignore them too.
IGNORED_KEYS = re.compile(r"rotary_(pos_)?emb\.inv_freq$")
SHOWN_KEYS = 5


def fill(
    model: ChatGLMCausalLM, folder: Path, dtype: torch.dtype, device: torch.device, bits: int
) -> dict[str, torch.Tensor]:
    """Load the weights in `folder` into `model`; return those of a prefix stored among them.

    Full-precision weights of quantized linears are quantized to `bits`; 0 means that the files hold
    them quantized.
    """
    expected = model.state_dict()
    loaded: dict[str, torch.Tensor] = {}
    prefix: dict[str, torch.Tensor] = {}
    unexpected: list[str] = []
    misshaped: dict[str, str] = {}
    aliased: dict[str, torch.Tensor] = {}
    stored = read_weights(folder, quantized=bool(model.config.quantization_bit))
    for name, tensor in official_weights(stored):
        if name in model.aliases and name not in expected:
            aliased[name] = tensor.to(device, dtype, copy=True)
        elif name.startswith(PREFIX_KEY):
            prefix[name.removeprefix(PREFIX_KEY)] = tensor.clone()
        elif name not in expected:
            unexpected += [] if IGNORED_KEYS.search(name) else [name]
        elif _needs_quantizing(name, tensor, expected, bits):
            quantized, scale = quantize(tensor.to(device), bits)
            loaded |= {name: quantized, f"{name}_scale": scale}
        elif tensor.shape != expected[name].shape:
            found, needed = ("x".join(map(str, t.shape)) for t in (tensor, expected[name]))
            misshaped[name] = f"{name} is {found}, not {needed}"
        else:
            loaded[name] = _converted(folder, name, tensor, expected[name], device, dtype)
    _rename_aliased(folder, model, loaded, aliased)
    _untie_if_different(model, loaded)
    tied = tied_names(model)
    seen = {*loaded, *tied, *misshaped}
    missing = [name for name in expected if name not in seen]
    _refuse_unmatched_weights(
        folder,
        missing,
        unexpected,
        list(misshaped.values()),
        only_prefix=bool(prefix and not loaded),
    )
    model.load_state_dict(loaded, strict=False, assign=True)
    model.tie_weights()
    return prefix


def _converted(
    folder: Path,
    name: str,
    tensor: torch.Tensor,
    expected: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return a copy of a stored weight on `device`: in `dtype`, or unchanged if it is quantized.

    Raises WeightsError for quantized bytes in place of floating-point numbers and vice versa, and
    for values too large for `dtype`.
    """
    holds_bytes, needs_bytes = (t.dtype in QUANTIZED_TYPES for t in (tensor, expected))
    if holds_bytes != needs_bytes:
        found, needed = (str(t.dtype).removeprefix("torch.") for t in (tensor, expected))
        raise WeightsError(f"{folder}: {name} is {found}; this model expects {needed}")
    is_plain = expected.dtype == torch.get_default_dtype()  # quantized bytes and scales are not
    moved = tensor.to(device, dtype if is_plain else tensor.dtype, copy=True)
    if dtype == torch.float16 and tensor.dtype != dtype and not is_finite(moved):
        raise WeightsError(
            f"{folder}: {name} contains values above 65,504, the float16 maximum; use bfloat16 or "
            "float32"
        )
    return moved


def _rename_aliased(
    folder: Path,
    model: ChatGLMCausalLM,
    loaded: dict[str, torch.Tensor],
    aliased: dict[str, torch.Tensor],
) -> None:
    """Rename tensors from other savers' names to the official ones; refuse two that differ."""
    for name, tensor in aliased.items():
        official = model.aliases[name]
        needed = model.get_parameter(official).shape
        if tensor.shape != needed:
            found, expected = ("x".join(map(str, shape)) for shape in (tensor.shape, needed))
            raise WeightsError(f"{folder}: {name} is {found}; this model expects {expected}")
        if official in loaded and not torch.equal(loaded[official], tensor):
            raise WeightsError(
                f"{folder}: {name} and {official} are two names of one weight, but differ; "
                "expected equal values; remove the one that was not trained"
            )
        loaded[official] = tensor


def _needs_quantizing(
    name: str, tensor: torch.Tensor, expected: dict[str, torch.Tensor], bits: int
) -> bool:
    """Return whether a file holds a weight in full precision that the model quantizes to `bits`."""
    if not bits or f"{name}_scale" not in expected or not tensor.is_floating_point():
        return False
    rows, quantized_columns = expected[name].shape
    return tensor.shape == (rows, quantized_columns * 8 // bits)


def _untie_if_different(model: ChatGLMCausalLM, loaded: dict[str, torch.Tensor]) -> None:
    """Keep both tensors of a tied pair if the files hold different values, else the first."""
    for second in tied_names(model):
        first = (model._tied_weights_keys or {})[second]
        if second not in loaded or first not in loaded:
            continue
        if torch.equal(loaded[first], loaded[second]):
            del loaded[second]
        else:
            model.config.tie_word_embeddings = False
            model.all_tied_weights_keys = {}


def _refuse_unmatched_weights(
    folder: Path,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
    *,
    only_prefix: bool,
) -> None:
    """Raise WeightsError with the first few keys of each kind, if there are any."""
    if only_prefix:
        raise WeightsError(
            f"{folder}: found a P-Tuning v2 prefix without a model; pass the folder of its base "
            "model, and this folder as prefix"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "with the wrong shape": misshaped}
    problems = [
        f"{len(names)} {kind}: {', '.join(map(shown_name, names[:SHOWN_KEYS]))}"
        + ", …" * (len(names) > SHOWN_KEYS)
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise WeightsError(
            f"{folder}: the weights do not match config.json: {'; '.join(problems)}; is a file "
            "missing, or does the config belong to another model?"
        )
