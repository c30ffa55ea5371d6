"""Full fine-tuning; the checkpoint is a complete model folder with config and tokenizer."""

from __future__ import annotations

from pathlib import Path

from glmtune.checkpoints.prepared import ModelRef
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import copy_vocabulary
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.settings import TuningSettings


def _prepare(model: ChatGLMCausalLM, settings: TuningSettings) -> ChatGLMCausalLM:
    model = model.float()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _save(model: ChatGLMCausalLM, folder: Path, base: Path) -> None:
    save_model(model, folder)
    copy_vocabulary(base, folder)


def _locate(base: Path, checkpoint: Path) -> ModelRef:
    return ModelRef(checkpoint)


# ChatGLM-6B's ds_train_finetune.sh: 1e-4; ChatGLM3's finetune_demo: 5e-5.
FULL = TuningMethod(
    "full",
    "full fine-tuning",
    _prepare,
    _save,
    _locate,
    usual_lr=(1e-6, 2e-4),
    trains_base=True,
)
