"""Training as the official code trains: loss, gradients and optimizer steps of one batch.

Each function returns the largest difference from the golden data; see golden_comparisons.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny_models import PREFIXES, checkpoint_activations, golden_model, golden_tensors

# The names in train_step.json -> part of the names of the weights in training.
TRAINED = {"full_finetune": "", "lora": "lora_"} | dict.fromkeys(PREFIXES, "prefix_encoder")


@dataclass(frozen=True)
class Step:
    """Loss and gradients of one batch, ours under the official names and the golden ones."""

    loss: float
    gradients: dict[str, torch.Tensor]
    golden: dict[str, Any]
    golden_gradients: dict[str, torch.Tensor]


@cache
def step(folder: Path, version: str, kind: str, checkpointing: bool) -> Step:
    """One forward and backward pass without dropout."""
    tensors = golden_tensors(folder, version, "train_step")
    model = trainable_model(folder, version, kind)
    if checkpointing:
        checkpoint_activations(model)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    loss = model(**batch(tensors)).loss
    loss.backward()
    start = "base_model.model." if kind == "lora" else ""
    named = model.named_parameters()
    key = f"{kind}.grad."
    return Step(
        float(loss.detach()),
        {start + name: p.grad for name, p in named if p.grad is not None},
        json.loads((folder / version / "train_step.json").read_text())[kind],
        {name.removeprefix(key): t for name, t in tensors.items() if name.startswith(key)},
    )


def trainable_model(folder: Path, version: str, kind: str) -> Any:
    """The golden model with exactly the weights of one way of tuning in training."""
    model = golden_model(folder, version, "base" if kind == "full_finetune" else kind)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(TRAINED[kind] in name)
    return model


def batch(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the official collator made."""
    return {k.removeprefix("batch."): t for k, t in tensors.items() if k.startswith("batch.")}


def step_loss(folder: Path, version: str, kind: str, checkpointing: bool) -> float:
    """The loss of the batch, relative."""
    found = step(folder, version, kind, checkpointing)
    return abs(found.loss - found.golden["loss"]) / found.golden["loss"]


def gradient_norms(folder: Path, version: str, kind: str, checkpointing: bool) -> float:
    """The norm of each parameter's gradient, relative; infinite if parameters are not the same."""
    found = step(folder, version, kind, checkpointing)
    expected = found.golden["per_param_grad_norm"]
    if found.gradients.keys() != expected.keys():
        return float("inf")
    norms = {name: float(gradient.norm()) for name, gradient in found.gradients.items()}
    count = sum(gradient.numel() for gradient in found.gradients.values())
    if count != found.golden["n_params"]:
        return float("inf")
    return max(abs(norms[name] - norm) / norm for name, norm in expected.items())


def gradients(folder: Path, version: str, kind: str, checkpointing: bool) -> float:
    """Each value of the gradients that are stored, relative to the parameter's norm."""
    found = step(folder, version, kind, checkpointing)
    return max(
        float((found.gradients[name] - expected).abs().max() / expected.norm())
        for name, expected in found.golden_gradients.items()
    )


def losses_under_adamw(folder: Path, version: str, kind: str) -> float:
    """Losses before and after steps of AdamW, relative, as long as rounding does not decide them.

    AdamW's first updates are lr times the sign of the gradient, so a gradient that rounds to either
    side of 0 moves a weight either way. In the first family's projected prefix that decides
    the losses from the second step on: in float64 they differ from the official ones by 1e-4, then
    6e-4 and 1e-2.
    """
    golden = json.loads((folder / version / "train_step.json").read_text())[kind]
    steps = 2 if (version, kind) == ("v1", "prefix_projection") else 5
    tensors = batch(golden_tensors(folder, version, "train_step"))
    model = trainable_model(folder, version, kind)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    differences = []
    for expected in golden["adamw_lr1e-2_wd0_losses_5steps"][:steps]:
        optimizer.zero_grad()
        loss = model(**tensors).loss
        loss.backward()
        optimizer.step()
        differences.append(abs(float(loss.detach()) - expected) / expected)
    return max(differences)
