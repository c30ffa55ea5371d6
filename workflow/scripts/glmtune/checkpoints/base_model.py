"""Opening a prepared base model, wherever its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.config import interpolates_positions
from glmtune.checkpoints.loading import load_model, read_model_config
from glmtune.checkpoints.sources import model_folder, read_location
from glmtune.devices import parse_dtype
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.quantization import quantize_model


def open_model(
    folder: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization_bit: int | None = None,
    family: str | None = None,
) -> ChatGLMCausalLM:
    """The model of a prepared folder, or of a checkpoint of full fine-tuning, in eval mode.

    `quantization_bit` 8 or 4 holds its linear layers in the official packed format. A prepared
    folder knows its family; `family` names that of another one.
    """
    location = read_location(folder)
    family = family or location.get("family")
    if "random" in location:
        return _random_model(location, dtype, device, quantization_bit)
    where: Any = {"dtype": dtype, "device": device, "quantization_bit": quantization_bit}
    return load_model(model_folder(folder), family=family, **where)


def read_base_config(folder: Path) -> dict[str, Any]:
    """The config.json values of the model that `open_model` opens, with what its family settles."""
    location = read_location(folder)
    values = location.get("random") or read_model_config(model_folder(folder))
    if "rope_ratio" not in values:
        return values
    found = interpolates_positions(values, location.get("family"), source=str(folder))
    return values | {"interpolates_positions": found}


def _random_model(
    location: dict[str, Any], dtype: str, device: str, bits: int | None
) -> ChatGLMCausalLM:
    """A model of random weights, the same at every opening."""
    config, family, seed = location["random"], location.get("family"), location["seed"]
    if bits is None:
        return build_model(config, family, seed=seed, dtype=dtype, device=device)
    # In fp16, which the official bytes are made from: through bfloat16 up to 7 % of them would
    # differ, and float32 is twice the RAM. Not on the GPU: what fits packed need not fit unpacked.
    model: Any = build_model(config, family, seed=seed, dtype="float16", device="cpu")
    quantize_model(model, bits, device)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # scales are buffers and stay in fp16
            parameter.data = parameter.data.to(parse_dtype(dtype))
    return model.to(device)
