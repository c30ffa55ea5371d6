"""One training path for every method: transformers' Trainer over tokenized rows.

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
from glmtune.training import processes
from glmtune.training.allocator import keep_freed_memory
from glmtune.training.batching import Collator, RowDataset
from glmtune.training.callbacks import DEV_LOSS, ProgressWithLoss, StopOnBadLoss
from glmtune.training.parameters import abs_sums, count_parameters, trainable
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
# TrainingArguments has two names for recomputing activations: an old and, since 2026, a new one.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a training; losses are means per target token, in nats.

    A point of `curve` has step, loss and learning_rate, and dev_loss or valid_loss if measured.
    """

    train_loss: float
    dev_loss: float | None
    curve: list[dict[str, float]]
    steps: int
    best_step: int | None  # of the lowest measured loss, if its weights were kept
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
    valid: TokenizedRows | None = None,
    dtype: str = "float32",
    sharding: str = "none",
    adam_beta2: float = 0.999,
    rates: Mapping[str, float] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingOutcome:
    """Train the parameters of `model` that require gradients; resume from `work` if possible.

    `valid` rows, where there are any, are measured during training instead of `dev`.
    Computes in `dtype`; the trained weights and the optimizer stay in float32. `rates` has factors
    of the learning rate, by a part of the names of the weights that they are for.

    Where torchrun started several processes, all of them have to call this. They train one model,
    sharded as `sharding` says, a key of ZERO_STAGES. Each gets the same outcome; sharded weights
    stay sharded: see `processes.whole`.
    """
    before = abs_sums(model)
    sizes = sum(weight.numel() for weight in trainable(model).values()), count_parameters(model)
    trainer = ResumableTrainer(
        model=model,
        args=_arguments(settings, work, dtype, adam_beta2, sharding),
        train_dataset=RowDataset(rows),
        data_collator=Collator(pad_token_id),
        callbacks=[StopOnBadLoss(), *callbacks],
    )
    trainer.rates = rates or {}
    trainer.rows_per_pass = settings.batch_size
    trainer.dtype, trainer.sharding = dtype, sharding
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressWithLoss())
    watched = dev if valid is None else valid
    if watched is not None and settings.eval_steps:
        trainer.watch_dev_loss(watched, settings)
    if processes.count() > 1:  # each draws its own dropout; the Trainer seeds all alike
        torch.manual_seed(settings.seed + processes.rank())
    if model.device.type == "cpu":
        keep_freed_memory()
    throughput = trainer.train_on(_checkpoint_for_all(work))
    _refuse_unchanged(model, before, settings)
    best_step = trainer.load_best()
    curve = _curve(trainer.state, "dev_loss" if valid is None else "valid_loss")
    return TrainingOutcome(
        train_loss=[point["loss"] for point in curve if "loss" in point][-1],
        dev_loss=None if dev is None else trainer.final_dev_loss(dev, best_step),
        curve=curve,
        steps=trainer.state.global_step,
        best_step=best_step,
        trainable_parameters=sizes[0],
        total_parameters=sizes[1],
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


def _checkpoint_for_all(work: Path) -> Path | None:
    """The last checkpoint; one process looks, because it also removes what is incomplete."""
    return processes.of_first(last_checkpoint(work) if processes.is_first() else None)


def _curve(state: TrainerState, measured: str) -> list[dict[str, float]]:
    """The values logged at each step, under the names of `TrainingOutcome.curve`."""
    names = {"loss": "loss", "learning_rate": "learning_rate", DEV_LOSS: measured}
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
            f"{settings.max_steps} steps changed no trainable weight: lr {settings.lr} is too "
            "small for the weights' precision, no row has a target, or every step overflowed in "
            "float16; raise lr, or check target_tokens in data/tokenized and the loss curve"
        )


def _arguments(
    settings: TrainingSettings, work: Path, dtype: str, adam_beta2: float, sharding: str
) -> TrainingArguments:
    rows, passes = settings.rows_and_passes(processes.count())
    shards = processes.deepspeed_config(sharding, dtype)
    recomputing: dict[str, Any] = {
        CHECKPOINTING: settings.gradient_checkpointing,
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False},
    }
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.max_steps,
        per_device_train_batch_size=rows,  # of all processes: see get_train_dataloader
        gradient_accumulation_steps=passes,
        average_tokens_across_devices=False,  # every process counts the targets of all
        learning_rate=settings.lr,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=round(settings.warmup_ratio * settings.max_steps),
        weight_decay=settings.weight_decay,
        adam_beta2=adam_beta2,
        optim=OPTIMIZERS[settings.optimizer],
        max_grad_norm=settings.max_grad_norm,
        **recomputing,
        bf16=dtype == "bfloat16" and shards is None,
        fp16=dtype == "float16" and shards is None,  # with loss scaling: gradients would underflow
        deepspeed=shards,
        ddp_find_unused_parameters=False,
        # The others wait while one writes, which takes long on a network disk; torchrun notices
        # processes that have died.
        ddp_timeout=24 * 3600,
        # By default the Trainer logs 0 for a non-finite loss.
        logging_nan_inf_filter=False,
        logging_strategy="steps",
        logging_first_step=True,  # to compare the last losses with
        logging_steps=settings.logging_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    # One process uses one GPU. With several, the Trainer would use DataParallel, which multiplies
    # batch_size; torchrun, which starts one process per GPU, sets n_gpu to 1 by itself.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
