"""P-Tuning v2 (Liu et al. 2022, arXiv 2110.07602): a trained prefix of keys and values per layer.

The prefix, its initialization and its checkpoint are THUDM's (ChatGLM-6B `ptuning/`).
"""

from __future__ import annotations

from pathlib import Path

from glmtune.checkpoints.prefix import save_prefix
from glmtune.checkpoints.prepared import ModelRef
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.prefix import attach_prefix
from glmtune.tuning.method import TuningMethod, freeze
from glmtune.tuning.settings import PrefixSettings


def _prepare(model: ChatGLMCausalLM, settings: PrefixSettings) -> ChatGLMCausalLM:
    freeze(model)
    attach_prefix(
        model,
        pre_seq_len=settings.pre_seq_len,
        projection=settings.prefix_projection,
        dropout=settings.prefix_dropout,
    )
    return model


def _save(model: ChatGLMCausalLM, folder: Path, base: Path) -> None:
    save_prefix(model, folder)


def _locate(base: Path, checkpoint: Path) -> ModelRef:
    return ModelRef(base, prefix=checkpoint)


# THUDM's train.sh: 2e-2, for ChatGLM-6B and ChatGLM2-6B.
PTUNING = TuningMethod("ptuning", "P-Tuning v2", _prepare, _save, _locate, usual_lr=(1e-3, 5e-2))
