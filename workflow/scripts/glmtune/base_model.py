"""Opening a prepared base model, wherever its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmtune.families.causal_lm import ChatGLMCausalLM
from glmtune.quantization import quantize_model
from glmtune.sources import model_folder, read_location
from glmtune.weights import build_model, load_model, parse_dtype, read_model_config


def open_model(
    folder: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization_bit: int | None = None,
) -> ChatGLMCausalLM:
    """The model of a prepared folder, or of a checkpoint of full fine-tuning, in eval mode.

    `quantization_bit` 8 or 4 holds its linear layers in the official packed format.
    """
    if quantization_bit is None:
        return _open(folder, dtype, device)
    # Not through bfloat16: the official bytes come from fp16, and up to 7 % of them would differ.
    # Not on the GPU: a model that fits there packed need not fit unpacked.
    model = _open(folder, "float32" if dtype == "float32" else "float16", "cpu")
    quantize_model(model, quantization_bit, device)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # scales are buffers and stay in fp16
            parameter.data = parameter.data.to(parse_dtype(dtype))
    packed: Any = model
    return packed.to(device)


def read_base_config(folder: Path) -> dict[str, Any]:
    """The config.json values of the model that `open_model` opens."""
    return read_location(folder).get("random") or read_model_config(model_folder(folder))


def _open(folder: Path, dtype: str, device: str) -> ChatGLMCausalLM:
    location = read_location(folder)
    if "random" in location:
        return build_model(location["random"], seed=location["seed"], dtype=dtype, device=device)
    return load_model(model_folder(folder), dtype=dtype, device=device)
