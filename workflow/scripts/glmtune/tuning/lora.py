"""LoRA (Hu et al. 2021, arXiv 2106.09685) through PEFT; the checkpoint is a plain PEFT folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import ParamsError
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.tuning.method import TuningMethod, freeze
from glmtune.tuning.settings import AdapterSettings


def _prepare(model: ChatGLMCausalLM, settings: AdapterSettings) -> ChatGLMCausalLM:
    from peft import LoraConfig, get_peft_model

    _check_targets(model, settings.target_modules)
    freeze(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # may be fractional
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT asks transformers for gradient checkpointing by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        tuned: Any = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return tuned


def _check_targets(model: Any, targets: list[str]) -> None:
    """Refuse what is not a linear layer, or is tied to the embeddings: merging changes both."""
    embeddings = model.get_input_embeddings().weight
    linears = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not embeddings
    }
    unknown = sorted(set(targets) - linears)
    if unknown:
        raise ParamsError(
            f"target_modules: this model has no linear layer {', '.join(unknown)} with untied "
            f"weights; choose from {', '.join(sorted(linears))}"
        )


def _save(model: ChatGLMCausalLM, folder: Path, base: Path) -> None:
    # By default PEFT would also write the full weights of an adapted output layer.
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT writes a model card for a hub that this run does not use.
    (folder / "README.md").unlink(missing_ok=True)


def _locate(base: Path, checkpoint: Path) -> ModelRef:
    return ModelRef(base, adapter=checkpoint)


# From 5e-5 (ChatGLM3's finetune_demo) to 1e-3 (ChatGLM-6B on AdvertiseGen).
LORA = TuningMethod("lora", "LoRA", _prepare, _save, _locate, usual_lr=(2e-5, 2e-3))
