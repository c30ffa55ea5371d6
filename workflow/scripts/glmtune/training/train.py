"""One training path for every method: transformers' Trainer over tokenised rows.

It trains whatever parameters require gradients and knows nothing about methods or families.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from glmtune.errors import ResourceError
from glmtune.families.tokenized import TokenizedRows
from glmtune.training.batching import Collator, RowDataset
from glmtune.training.callbacks import DEV_LOSS, ProgressWithLoss, StopOnBadLoss
from glmtune.training.parameters import abs_sums, count_parameters, trainable_state
from glmtune.training.resuming import last_checkpoint
from glmtune.training.settings import TrainingSettings
from glmtune.training.trainer import ResumableTrainer, Throughput

# A value of `optimizer` in params.yaml -> its name in TrainingArguments.
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
# Recomputing activations has two names in TrainingArguments: an old and, since 2026, a new one.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training came to; losses are means per target token, in nats.

    A point of `curve` has step, loss and learning_rate, and dev_loss where that was measured.
    """

    train_loss: float
    dev_loss: float | None
    curve: list[dict[str, float]]
    steps: int
    best_step: int | None  # of the lowest dev loss, if its weights were kept
    trainable_parameters: int
    total_parameters: int
    throughput: Throughput = field(compare=False)


def train(
    model: PreTrainedModel,
    rows: TokenizedRows,
    dev: TokenizedRows | None,
    settings: TrainingSettings,
    *,
    pad_token_id: int,
    work: Path,
    dtype: str = "float32",
    adam_beta2: float = 0.999,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingOutcome:
    """Train the parameters of `model` that require gradients; resume from `work` if it can.

    `dtype` is the type that is computed in; trained weights and their optimizer stay in float32
    beside it.
    """
    before = abs_sums(model)
    trainer = ResumableTrainer(
        model=model,
        args=_arguments(settings, work, dtype, adam_beta2),
        train_dataset=RowDataset(rows),
        data_collator=Collator(pad_token_id),
        callbacks=[StopOnBadLoss(), *callbacks],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressWithLoss())
    if dev is not None and settings.eval_steps:
        trainer.watch_dev_loss(dev, settings)
    throughput = trainer.train_on(last_checkpoint(work))
    _refuse_unchanged(model, before, settings)
    best_step = trainer.load_best()
    curve = _curve(trainer.state)
    return TrainingOutcome(
        train_loss=[point["loss"] for point in curve if "loss" in point][-1],
        dev_loss=None if dev is None else trainer.final_dev_loss(dev, best_step),
        curve=curve,
        steps=trainer.state.global_step,
        best_step=best_step,
        trainable_parameters=sum(p.numel() for p in trainable_state(model).values()),
        total_parameters=count_parameters(model),
        throughput=throughput,
    )


def require_optimizer(settings: TrainingSettings) -> None:
    """Raise ResourceError if the optimizer needs a package that is not installed."""
    name = settings.optimizer
    if "8bit" in name and importlib.util.find_spec("bitsandbytes") is None:
        raise ResourceError(
            f"params.yaml: optimizer: found {name}, which needs the package bitsandbytes; install "
            "it (pip install -e '.[8bit]') or choose adamw or adafactor"
        )


def _curve(state: TrainerState) -> list[dict[str, float]]:
    """What was logged at each step, in the names of `TrainingOutcome.curve`."""
    names = {"loss": "loss", "learning_rate": "learning_rate", DEV_LOSS: "dev_loss"}
    points: dict[int, dict[str, float]] = {}
    for entry in state.log_history:
        found = {names[key]: value for key, value in entry.items() if key in names}
        if found:
            step = int(entry["step"])
            points.setdefault(step, {"step": step}).update(found)
    return list(points.values())


def _refuse_unchanged(
    model: PreTrainedModel, before: Mapping[str, float], settings: TrainingSettings
) -> None:
    if abs_sums(model) == before:
        raise ResourceError(
            f"{settings.max_steps} steps changed no trained weight: lr is {settings.lr}, too "
            "small for the weights' precision, no row has a target, or every step overflowed in "
            "float16; raise lr, or look at the target_tokens of data/tokenized and at the curve"
        )


def _arguments(
    settings: TrainingSettings, work: Path, dtype: str, adam_beta2: float
) -> TrainingArguments:
    recomputing: dict[str, Any] = {
        CHECKPOINTING: settings.gradient_checkpointing,
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False},
    }
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=round(settings.warmup_ratio * settings.max_steps),
        weight_decay=settings.weight_decay,
        adam_beta2=adam_beta2,
        optim=OPTIMIZERS[settings.optimizer],
        max_grad_norm=settings.max_grad_norm,
        **recomputing,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",  # with scaled losses: small gradients would become 0
        # By default the Trainer writes 0 for a loss that is no number.
        logging_nan_inf_filter=False,
        logging_strategy="steps",
        logging_first_step=True,  # what the end is compared with
        logging_steps=settings.logging_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    # One process uses one GPU. On several the Trainer would split batches with DataParallel, which
    # multiplies batch_size; torchrun, which gives each GPU its process, has n_gpu 1 by itself.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
