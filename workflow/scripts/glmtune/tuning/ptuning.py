"""P-Tuning v2 (Liu et al. 2022, arXiv 2110.07602): a trained prefix of keys and values per layer.

The prefix, its initialisation and its checkpoint are THUDM's (ChatGLM-6B `ptuning/`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from glmtune.checkpoints.base_model import open_model
from glmtune.modeling.prefix import attach_prefix, load_prefix, save_prefix
from glmtune.tuning.method import Settings, TuningMethod, freeze


def _prepare(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    freeze(model)
    attach_prefix(
        model,
        pre_seq_len=settings["pre_seq_len"],
        projection=settings["prefix_projection"],
        dropout=settings["prefix_dropout"],
    )
    return model


def _save(model: PreTrainedModel, folder: Path, base: Path) -> None:
    save_prefix(model, folder)


def _restore(base: Path, checkpoint: Path, **where: Any) -> PreTrainedModel:
    model = open_model(base, **where)
    load_prefix(model, checkpoint)
    return model.eval()


# THUDM's train.sh: 2e-2, for ChatGLM-6B and ChatGLM2-6B.
PTUNING = TuningMethod("ptuning", "P-Tuning v2", _prepare, _save, _restore, usual_lr=(1e-3, 5e-2))
