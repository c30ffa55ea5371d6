"""Open the models that `prepare_model` prepared, wherever their weights are.

The entry point for steps of the workflow, whose models may be elsewhere (`location.json`) or not
stored at all. Users call `load_model` in `loading.py` instead, which takes a folder of weights.
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
    """The model to open: a prepared one, and the parts tuned on it."""

    folder: Path
    """The output of `prepare_model`; a plain model folder works, too."""
    prefix: Path | None = None
    """A folder with a P-Tuning v2 prefix."""
    adapter: Path | None = None
    """A PEFT folder with a LoRA adapter."""
    family: str | None = None
    """A key of FAMILIES; None takes it from the prepared folder or its config.json."""


def open_prepared(
    model: ModelRef,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization_bit: int | None = None,
) -> ChatGLMCausalLM:
    """Open the model that `model` refers to, in eval mode.

    `quantization_bit` 8 or 4 holds its linear layers in the official quantized format.
    Raises WeightsError as `load_model` does, and for weights that have been moved or deleted.
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
    """Return a prepared model's config.json values, completed by its family; reads no weights."""
    location = read_location(folder)
    values = location.get("random") or read_model_config(model_folder(folder))
    if "rope_ratio" not in values:
        return values
    found = interpolates_positions(values, location.get("family"), source=str(folder))
    return values | {"interpolates_positions": found}


def _random_model(
    location: dict[str, Any], family: str | None, dtype: str, device: str, bits: int | None
) -> ChatGLMCausalLM:
    """Build a model with random weights, the same every time."""
    config, seed = location["random"], location["seed"]
    if bits is None:
        return build_model(config, family, seed=seed, dtype=dtype, device=device)
    # In fp16, from which the official bytes are computed: via bfloat16 up to 7 % of them would
    # differ, and float32 takes twice the RAM. Not on the GPU: the fp16 model may not fit there.
    model: Any = build_model(config, family, seed=seed, dtype="float16", device="cpu")
    quantize_model(model, bits, device)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # scales are buffers and stay in fp16
            parameter.data = parameter.data.to(parse_dtype(dtype))
    return model.to(device)
