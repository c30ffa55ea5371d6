"""Tiny model folders of every family_name, with a vocabulary, and what the models in them say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glmtune.checkpoints.weights import build_model, save_model
from glmtune.families.loading import load_tokenizer
from glmtune.families.registry import FAMILIES
from glmtune.files import write_json

SENTENCES = [
    "颜色是白色，风格是简约的裙子。",
    "a simple white dress, 100% cotton",
    "问：你好？\n\n答：好",
]
PROMPT = "颜色是白色的裙子"


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def write_base(folder: Path, family_name: str, **config: Any) -> Path:
    """A folder as users have it: weights, config.json with `config` in it, and vocabulary."""
    family = FAMILIES[family_name]
    family.train_tokenizer(SENTENCES, folder, vocab_size=60)
    tokenizer = load_tokenizer(folder, family_name)
    values = family.miniature_config(tokenizer, hidden_size=32, num_layers=2, num_heads=4)
    model = build_model(values | config, family_name, seed=1)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(".bias"):  # else 1 and 0: a swap would not show
            parameter.data.add_(torch.randn_like(parameter) / 5)
    save_model(model, folder)
    write_json(folder / "config.json", {**values, **config, "auto_map": {"AutoModel": "x.Y"}})
    return folder


def prompt_ids(folder: Path) -> torch.Tensor:
    """The ids of a short text, (1, s)."""
    return torch.tensor([load_tokenizer(folder).encode(PROMPT)])
