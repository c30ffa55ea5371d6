"""Opening a prepared base model, wherever its weights are."""

from __future__ import annotations

from pathlib import Path

from glmtune.families.causal_lm import ChatGLMCausalLM
from glmtune.quantization import quantize_model
from glmtune.sources import model_folder, read_location
from glmtune.weights import build_model, load_model


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
    location = read_location(folder)
    if "random" in location:
        model = build_model(location["random"], seed=location["seed"], dtype=dtype, device=device)
    else:
        model = load_model(model_folder(folder), dtype=dtype, device=device)
    if quantization_bit is not None:
        quantize_model(model, quantization_bit)
    return model
