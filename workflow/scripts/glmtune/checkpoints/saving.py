"""Write models and tensors into folders, under official names."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from glmtune.checkpoints.config import config_values
from glmtune.errors import WeightsError
from glmtune.files import atomic_path, write_json
from glmtune.modeling.causal_lm import tied_names
from glmtune.modeling.prefix import PREFIX_KEY

SHARD_BYTES = 5_000_000_000
"""The largest file to write: hubs and old file systems accept it."""


def save_model(model: PreTrainedModel, folder: Path | str) -> None:
    """Write config.json and model.safetensors, under official names and without a prefix.

    Weights above 5 GB become shards with an index. Other files in `folder`, such as the
    tokenizer's, stay. Raises WeightsError for a model with an unmerged LoRA adapter.
    """
    folder = Path(folder)
    if hasattr(model, "peft_config"):
        raise WeightsError(
            f"{folder}: not written: found a model with an unmerged LoRA adapter, which the "
            "official format cannot store; merge it first (glmtune.export.merging), or save the "
            "adapter"
        )
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(PREFIX_KEY)
    }
    for name in tied_names(model):
        del state[name]
    write_weights(folder, state)
    write_json(folder / "config.json", config_values(model))


def write_weights(
    folder: Path, state: dict[str, torch.Tensor], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write model.safetensors, or shards of at most `shard_bytes` with an index.

    Removes weights that an earlier call wrote there.
    """
    shards = _split(state, shard_bytes)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in shard.items()}
        with atomic_path(folder / name) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
            temporary.chmod(_ordinary_mode())
    index = folder / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    for old in {*folder.glob("model-*-of-*.safetensors"), folder / "model.safetensors"}:
        if old.name not in names:
            old.unlink(missing_ok=True)
    if len(shards) > 1:
        weight_map = {key: n for n, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in state.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _ordinary_mode() -> int:
    """The usual permissions of a new file; safetensors lets only the owner read what it writes."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _split(state: dict[str, torch.Tensor], shard_bytes: int) -> list[dict[str, torch.Tensor]]:
    """Split `state` in order, starting a new part where the next tensor would exceed the limit."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if parts[-1] and size + tensor.nbytes > shard_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts
