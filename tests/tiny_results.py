"""A results folder of tiny models: each family untuned, with a prefix, an adapter and whole."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_adapters import tuned_adapter
from tiny_folders import write_base

from glmtune.checkpoints.loading import load_model
from glmtune.checkpoints.prefix import save_prefix
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import copy_vocabulary
from glmtune.files import write_json
from glmtune.modeling.prefix import attach_prefix

METHODS = ("ptuning", "lora", "full")


def write_results(results: Path, *families: str) -> Path:
    """The folder, with random weights that answer differently by each method."""
    for family in families:
        base = write_base(results / "models" / family, family)
        write_json(results / "models" / f"{family}.json", {"family": family})
        checkpoints = results / "checkpoints" / family
        torch.manual_seed(11)
        prefixed = load_model(base, family=family)
        attach_prefix(prefixed, pre_seq_len=4)
        save_prefix(prefixed, checkpoints / "ptuning")
        tuned_adapter(checkpoints / "lora", load_model(base, family=family), scale=0.5)
        whole = load_model(base, family=family)
        for parameter in whole.parameters():
            parameter.data.add_(torch.randn_like(parameter) / 20)
        save_model(whole, checkpoints / "full")
        copy_vocabulary(base, checkpoints / "full")
    return results
