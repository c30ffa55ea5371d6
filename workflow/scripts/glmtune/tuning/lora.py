"""LoRA (Hu et al. 2021, arXiv 2106.09685) through PEFT; the checkpoint is a plain PEFT folder.

Its variants are keys, which go together: rsLoRA (Kalajdzievski 2023, arXiv 2312.03732), DoRA (Liu
et al. 2024, arXiv 2402.09353), PiSSA (Meng et al. 2024, arXiv 2404.02948), OLoRA (Büyükakyüz 2024,
arXiv 2406.01775) and LoRA+ (Hayou et al. 2024, arXiv 2402.12354).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import ParamsError
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.quantization import QuantizedLinear
from glmtune.tuning.method import TuningMethod, freeze
from glmtune.tuning.settings import AdapterSettings

# Value of `init` in params.yaml -> PEFT's. 16 iterations find the principal components, as PiSSA's
# authors advise; the exact decomposition takes as long as a training on a CPU, at each resumption.
INITIALIZATIONS = {"default": True, "pissa": "pissa_niter_16", "olora": "olora"}


def _prepare(model: ChatGLMCausalLM, settings: AdapterSettings) -> ChatGLMCausalLM:
    from peft import LoraConfig, get_peft_model

    targets = _targets(model, settings.target_modules)
    _refuse_quantized(model, settings)
    freeze(model)
    # Weights without contents, whose memory is estimated, have no components.
    moves_base = settings.init != "default" and model.device.type != "meta"
    init: Any = INITIALIZATIONS[settings.init] if moves_base else True
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # may be fractional
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        init_lora_weights=init,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT asks transformers for gradient checkpointing by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        tuned: Any = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # What an initialization took out of the base, which the checkpoint must give back.
    tuned.taken_from_base = _copied_factors(tuned) if moves_base else {}
    return tuned


def _targets(model: Any, names: list[str] | str) -> list[str]:
    """The names of the layers to adapt, for PEFT.

    Refuses what is not a linear layer, or is tied to the embeddings: merging changes both.
    """
    embeddings, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    linears = {
        name.rsplit(".", 1)[-1]: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not embeddings
    }
    if names == "all-linear":
        return [name for name, module in linears.items() if module is not output]
    unknown = sorted(set(names) - linears.keys())
    if unknown:
        raise ParamsError(
            f"target_modules: this model has no linear layer {', '.join(unknown)} with untied "
            f"weights; choose from {', '.join(sorted(linears))}"
        )
    return list(names)


def _refuse_quantized(model: ChatGLMCausalLM, settings: AdapterSettings) -> None:
    """Refuse variants that compute with the base's own weights, if these are quantized.

    params.yaml is checked before; weights may also have been quantized when they were stored.
    """
    if not any(isinstance(module, QuantizedLinear) for module in model.modules()):
        return
    variant = "dora: true" if settings.dora else f"init: {settings.init}"
    if variant != "init: default":
        raise ParamsError(
            f"{variant}: computes with the base's own weights, but this model's are quantized; use "
            "a checkpoint in half or full precision, or remove the key"
        )


def _copied_factors(tuned: Any) -> dict[str, torch.Tensor]:
    """Copies of A (rank, in) and B (out, rank) of every adapted layer, by name."""
    return {
        name: weight.detach().clone()
        for name, weight in tuned.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def _save(model: Any, folder: Path, base: Path) -> None:
    taken: dict[str, torch.Tensor] = model.taken_from_base
    state = model.state_dict()
    # B A - B0 A0 is one product: of B beside -B0 with A above A0.
    for name, first in taken.items():
        parts = (state[name], first) if ".lora_A." in name else (state[name], -first)
        state[name] = torch.cat(parts, dim=0 if ".lora_A." in name else 1)
    # By default PEFT would also write the full weights of an adapted output layer.
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    if taken:
        config = model.peft_config["default"]
        growth = math.sqrt(2) if config.use_rslora else 2  # keeps the scale at twice the rank
        replace(
            config,
            r=2 * config.r,
            lora_alpha=growth * config.lora_alpha,
            init_lora_weights=True,
            inference_mode=True,
        ).save_pretrained(str(folder))
    # PEFT writes a model card for a hub that this run does not use.
    (folder / "README.md").unlink(missing_ok=True)


def _locate(base: Path, checkpoint: Path) -> ModelRef:
    return ModelRef(base, adapter=checkpoint)


def _rates(settings: AdapterSettings) -> Mapping[str, float]:
    """LoRA+: B learns faster than A; so does DoRA's length, as in PEFT."""
    ratio = settings.lora_plus_ratio
    return {".lora_B.": ratio, ".lora_magnitude_vector.": ratio} if ratio != 1 else {}


# From 5e-5 (ChatGLM3's finetune_demo) to 1e-3 (ChatGLM-6B on AdvertiseGen).
LORA = TuningMethod("lora", "LoRA", _prepare, _save, _locate, rates=_rates, usual_lr=(2e-5, 2e-3))
