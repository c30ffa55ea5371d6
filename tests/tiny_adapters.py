"""LoRA adapters of the tiny models: as training writes them, and as other tools do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_training import settings_of

from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.tuning.registry import METHODS

ALL_LINEARS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def tuned_adapter(
    folder: Path,
    model: ChatGLMCausalLM,
    *,
    scale: float = 0.1,
    targets: tuple[str, ...] = ("query_key_value",),
) -> Path:
    """A PEFT folder as our training of `model` writes it; random weights of the size `scale`."""
    settings = settings_of("lora", rank=4, alpha=8, dropout=0.0, target_modules=list(targets))
    tuned = METHODS["lora"].prepare(model, settings)
    torch.manual_seed(4)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, scale)
    METHODS["lora"].save(tuned, folder, folder)
    return folder


def write_adapter(
    folder: Path,
    config: dict[str, Any],
    *,
    rank: int = 2,
    fused: int = 64,
    name: str = "base_model.model.{}.lora_{}.weight",
    file: str = "adapter_model.bin",
) -> Path:
    """A folder with random weights for the tiny ChatGLM2, as other tools write it.

    `name` is the form of the tensors' names, from the layer's and A or B.
    """
    folder.mkdir(parents=True)
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": ["query_key_value"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    torch.manual_seed(3)
    state = {}
    for i in range(2):
        layer = f"transformer.encoder.layers.{i}.self_attention.query_key_value"
        state[name.format(layer, "A")] = torch.randn(rank, 32)
        state[name.format(layer, "B")] = torch.randn(fused, rank)
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    return folder
