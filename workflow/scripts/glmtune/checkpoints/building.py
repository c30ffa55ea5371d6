"""Build new models with random weights; reads and writes no files."""

from __future__ import annotations

from typing import Any

import torch

from glmtune.checkpoints.config import make_config, model_class_of
from glmtune.devices import parse_device, parse_dtype
from glmtune.modeling.causal_lm import ChatGLMCausalLM


def build_model(
    config: dict[str, Any],
    family: str | None = None,
    *,
    seed: int | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    source: str = "config",
) -> ChatGLMCausalLM:
    """Return a randomly initialized model on `device` in `dtype`, in eval mode; reads no file.

    `config` holds config.json values under their official names; `source` names it in messages.
    The same `seed` gives the same weights on one kind of device; None uses torch's generator as
    the caller seeded it.
    """
    model_class = model_class_of(config, family, source)
    values = make_config(model_class, config | {"quantization_bit": 0}, family, source)
    torch_dtype, torch_device = parse_dtype(dtype), parse_device(device)
    # Listed explicitly: otherwise fork_rng warns on a machine with several GPUs.
    gpus = [torch_device] if torch_device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus, enabled=seed is not None), torch_device:
        if seed is not None:
            torch.manual_seed(seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch_dtype)
        try:
            return model_class(values).eval()
        finally:
            torch.set_default_dtype(before)
