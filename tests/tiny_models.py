"""Tiny models of every family with random weights, and the golden data of the official code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.loading import load_model
from glmtune.families.registry import FAMILIES

# How far a golden number may be missed, in roundings (eps of its type) of its range. Processors add
# products in different orders; several times the most seen on x86-64 from SSE to AVX-512. The
# first family's random model amplifies rounding, and so do the random adapters.
ROUNDINGS = {"v1": 512, "v2": 64, "v3": 64}
LORA_ROUNDINGS = {"v1": 1024, "v2": 512, "v3": 512}
EPS = torch.finfo(torch.float32).eps
TOLERANCE = {version: roundings * EPS for version, roundings in ROUNDINGS.items()}
LORA_TOLERANCE = {version: roundings * EPS for version, roundings in LORA_ROUNDINGS.items()}
GOLDEN_FAMILIES = {"v1": "chatglm-6b", "v2": "chatglm2-6b", "v3": "chatglm3-6b-base"}
PREFIXES = ("prefix_direct", "prefix_projection")
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "inner_hidden_size": 48,
    "ffn_hidden_size": 40,
    "kv_channels": 8,
    "vocab_size": 80,
    "padded_vocab_size": 80,
    "mask_token_id": 70,
    "gmask_token_id": 71,
    "bos_token_id": 74,
    "eos_token_id": 75,
}


# Those of the published models, or the last word where that has no row in a tiny model.
PADS = {"chatglm-6b": 3, "chatglm2-6b": 0, "chatglm3-6b-base": 0, "glm-4-9b": 79}


def tiny_config(family: str) -> dict[str, Any]:
    """The real configuration with small sizes, official keys only."""
    sizes = SIZES | {"pad_token_id": PADS[family]}
    return {name: sizes.get(name, value) for name, value in FAMILIES[family].real_config.items()}


def tiny_model(family: str, seed: int = 1) -> Any:
    """A model of two layers in eval mode; the same on every call."""
    return build_model(tiny_config(family), family, seed=seed)


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward pass, by the name of any supported transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()


def prompt(text: list[int]) -> list[int]:
    """`text` as a prompt that every family understands: the first needs [gMASK] <sop>."""
    return [*text, SIZES["gmask_token_id"], SIZES["bos_token_id"]]


def pad_left(rows: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and 2-D attention mask of rows of different length."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def golden_model(reference: Path, version: str, kind: str = "base") -> Any:
    """The golden checkpoint: base, prefix_direct, prefix_projection or lora."""
    folder = reference / version
    parts: dict[str, Any] = {}
    if kind in PREFIXES:
        parts["prefix"] = folder / f"ptuning_{kind}"
    elif kind == "lora":
        parts["adapter"] = folder / "lora_peft"
    return load_model(folder / "checkpoint", family=GOLDEN_FAMILIES[version], **parts)


def golden_mask(version: str, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The 2-D mask of a golden input; the first family stores 4-D ones (True = hidden)."""
    mask = tensors.get(f"{name}.attention_mask")
    if mask is None:
        return torch.ones_like(tensors[f"{name}.input_ids"])
    return (~mask[:, 0, -1]).long() if version == "v1" else mask


def golden_error(model: Any, version: str, tensors: dict[str, torch.Tensor], name: str) -> float:
    """The relative error of a model's logits against the golden ones, where tokens are real."""
    mask = golden_mask(version, tensors, name)
    with torch.no_grad():
        logits = model(tensors[f"{name}.input_ids"], attention_mask=mask).logits
    return logits_error(logits, tensors, name, mask)


def logits_error(
    logits: torch.Tensor,
    tensors: dict[str, torch.Tensor],
    name: str,
    mask: torch.Tensor | None = None,
) -> float:
    """The relative error of logits (b, s, vocabulary) against those called `name` in `tensors`.

    Golden ones may be of the last four positions and of some `columns` only. `mask` (b, s) is 0
    where a token is padding: there the official logits are of no use.
    """
    golden = tensors.get(name, tensors.get(f"{name}.logits"))
    if golden is None:
        golden = tensors[f"{name}_last4" if f"{name}_last4" in tensors else f"{name}.logits_last4"]
    if "columns" in tensors:
        logits = logits[..., tensors["columns"]]
    found = logits[:, -golden.shape[1] :]
    if mask is not None:
        real = mask[:, -golden.shape[1] :].bool()
        found, golden = found[real], golden[real]
    return relative_error(found, golden)


def relative_error(found: torch.Tensor, golden: torch.Tensor) -> float:
    """The largest difference, as a fraction of the range of the golden values."""
    found, golden = found.double(), golden.double()
    return float((found - golden).abs().max() / (golden.max() - golden.min()))


def golden_tensors(reference: Path, version: str, name: str) -> dict[str, torch.Tensor]:
    """A safetensors file of the golden data."""
    return load_file(reference / version / f"{name}.safetensors")
