"""Prepared models: what `prepare_model` leaves, opened wherever the weights are.

The door for steps of the workflow, whose models may be elsewhere (`location.json`) or not stored at
all. The door for everybody else is `load_model` in `loading.py`, which takes a folder of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.config import interpolates_positions
from glmtune.checkpoints.loading import attach_parts, load_model, read_model_config
from glmtune.checkpoints.sources import model_folder, read_location
from glmtune.devices import parse_dtype
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.quantization import quantize_model


@dataclass(frozen=True)
class ModelRef:
    """Which model to open: a prepared one, and what was tuned on it."""

    folder: Path
    """As `prepare_model` writes it; a folder with a model in it will do, too."""
    prefix: Path | None = None
    """A folder with a P-Tuning v2 prefix."""
    adapter: Path | None = None
    """A PEFT folder with LoRA."""
    family: str | None = None
    """A key of FAMILIES; None: as the prepared folder says, or its config.json."""


def open_prepared(
    model: ModelRef,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization_bit: int | None = None,
) -> ChatGLMCausalLM:
    """The model that `model` refers to, in eval mode.

    `quantization_bit` 8 or 4 holds its linear layers in the official quantized format.
    Raises WeightsError as `load_model` does, and for weights that are no longer where they were.
    """
    location = read_location(model.folder)
    family = model.family or location.get("family")
    if "random" in location:
        opened = _random_model(location, family, dtype, device, quantization_bit)
        return attach_parts(opened, model.prefix, model.adapter)
    return load_model(
        model_folder(model.folder),
        prefix=model.prefix,
        adapter=model.adapter,
        dtype=dtype,
        device=device,
        quantization_bit=quantization_bit,
        family=family,
    )


def read_prepared_config(folder: Path) -> dict[str, Any]:
    """The config.json values of a prepared model, with what its family settles; reads no weight."""
    location = read_location(folder)
    values = location.get("random") or read_model_config(model_folder(folder))
    if "rope_ratio" not in values:
        return values
    found = interpolates_positions(values, location.get("family"), source=str(folder))
    return values | {"interpolates_positions": found}


def _random_model(
    location: dict[str, Any], family: str | None, dtype: str, device: str, bits: int | None
) -> ChatGLMCausalLM:
    """A model of random weights, the same at every opening."""
    config, seed = location["random"], location["seed"]
    if bits is None:
        return build_model(config, family, seed=seed, dtype=dtype, device=device)
    # In fp16, which the official bytes are made from: through bfloat16 up to 7 % of them would
    # differ, and float32 is twice the RAM. Not on the GPU: the model in fp16 may not fit there.
    model: Any = build_model(config, family, seed=seed, dtype="float16", device="cpu")
    quantize_model(model, bits, device)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # scales are buffers and stay in fp16
            parameter.data = parameter.data.to(parse_dtype(dtype))
    return model.to(device)
