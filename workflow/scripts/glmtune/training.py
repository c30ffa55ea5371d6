"""One training path for every method: transformers' Trainer over tokenised rows.

It trains whatever parameters require gradients and knows nothing about methods or generations.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from glmtune.errors import ResourceError
from glmtune.files import atomic_path
from glmtune.tokenized import TokenizedRows

IGNORED = -100
WEIGHTS = "trainable.safetensors"
# Recomputing activations has two names in TrainingArguments: an old and, since 2026, a new one.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training came to; losses are means per target token, in nats."""

    train_loss: float
    dev_loss: float | None
    curve: list[dict[str, float]]
    trainable_parameters: int
    total_parameters: int


def train(
    model: PreTrainedModel,
    rows: TokenizedRows,
    dev: TokenizedRows | None,
    settings: Mapping[str, Any],
    *,
    pad_token_id: int,
    work: Path,
    dtype: str = "float32",
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingOutcome:
    """Train the parameters of `model` that require gradients; resume from `work` if it can.

    `settings` has the keys of params.yaml's `training`, and lr and seed. `dtype` is the type that
    is computed in; trained weights and their optimizer stay in float32 beside it.
    """
    before = _magnitudes(model)
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, work, dtype),
        train_dataset=_Rows(rows),
        data_collator=_Collator(pad_token_id),
        callbacks=[StopOnBadLoss(), *callbacks],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_ProgressWithLoss())
    trainer.train_on(last_checkpoint(work))
    if _magnitudes(model) == before:
        raise ResourceError(
            f"{settings['max_steps']} steps changed no trained weight: lr is {settings['lr']}, too "
            "small for the weights' precision, or no row has a target; raise lr, or look at the "
            "target_tokens of data/tokenized"
        )
    curve = [
        {"step": entry["step"], "loss": entry["loss"], "learning_rate": entry["learning_rate"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return TrainingOutcome(
        train_loss=curve[-1]["loss"],
        dev_loss=None
        if dev is None
        else mean_loss(model, dev, settings["batch_size"], pad_token_id),
        curve=curve,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total_parameters=sum(p.numel() for p in model.parameters()),
    )


def _magnitudes(model: PreTrainedModel) -> dict[str, float]:
    """A number for each trained weight that a training changes."""
    return {
        name: float(weight.detach().double().abs().sum())
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint below `work`; newer ones that a kill cut off are removed."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for folder in reversed(folders):
        try:
            json.loads((folder / "trainer_state.json").read_text())  # the Trainer writes it last
            return str(folder)
        except (OSError, ValueError):
            print(f"{folder.name} is incomplete: not resumed from", file=sys.stderr)
            shutil.rmtree(folder)
    return None


def mean_loss(
    model: PreTrainedModel, rows: TokenizedRows, batch_size: int, pad_token_id: int
) -> float:
    """The mean loss per target token of all rows, in nats, in eval mode."""
    collate = _Collator(pad_token_id)
    total, targets = 0.0, 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = collate(_Rows(rows)[start : start + batch_size])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(model(**batch).loss) * count
            targets += count
    return total / targets if targets else math.nan


def _arguments(settings: Mapping[str, Any], work: Path, dtype: str) -> TrainingArguments:
    recomputing = {
        CHECKPOINTING: settings["gradient_checkpointing"],
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False},
    }
    logging_steps = min(settings["logging_steps"], settings["max_steps"])
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings["max_steps"],
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["gradient_accumulation_steps"],
        learning_rate=settings["lr"],
        lr_scheduler_type=settings["lr_scheduler"],
        warmup_steps=settings["warmup_ratio"],
        weight_decay=settings["weight_decay"],
        adam_beta2=settings.get("adam_beta2", 0.999),
        max_grad_norm=settings["max_grad_norm"],
        **recomputing,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",  # with scaled losses: small gradients would become 0
        # By default the Trainer writes 0 for a loss that is no number.
        logging_nan_inf_filter=False,
        logging_strategy="steps",
        logging_steps=logging_steps,
        save_strategy="steps",
        # Where it is logged: a checkpoint does not hold the losses since the last line of the log.
        save_steps=math.ceil(settings["save_steps"] / logging_steps) * logging_steps,
        save_total_limit=1,
        seed=settings["seed"],
        data_seed=settings["seed"],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    # One process uses one GPU. On several the Trainer would split batches with DataParallel, which
    # multiplies batch_size; torchrun, which gives each GPU its process, has n_gpu 1 by itself.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Rows(Dataset[dict[str, Any]]):
    def __init__(self, rows: TokenizedRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        input_ids, labels = self.rows[index]
        return {"input_ids": input_ids, "labels": labels}


@dataclass(frozen=True)
class _Collator:
    """Pads a batch on the right to its longest row, never to a fixed length."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, IGNORED)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            input_ids[i, :end] = torch.from_numpy(row["input_ids"].astype(np.int64))
            labels[i, :end] = torch.from_numpy(row["labels"].astype(np.int64))
            attention_mask[i, :end] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def _grouped_by_length(
    batches: list[dict[str, torch.Tensor]], pad_token_id: int
) -> list[dict[str, torch.Tensor]]:
    """The same rows in as many batches of the same sizes, the longest rows first.

    The loss of the step is a mean over all its targets, so it does not matter which rows are
    padded together.
    """
    if len(batches) < 2:
        return batches
    padding = {"input_ids": pad_token_id, "labels": IGNORED, "attention_mask": 0}
    rows = [
        {name: batch[name][i, :length] for name in padding}
        for batch in batches
        for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist())
    ]
    longest_first = iter(sorted(rows, key=lambda row: -len(row["input_ids"])))
    groups = [list(islice(longest_first, len(batch["input_ids"]))) for batch in batches]
    return [
        {
            name: pad_sequence([row[name] for row in group], batch_first=True, padding_value=value)
            for name, value in padding.items()
        }
        for group in groups
    ]


class _Trainer(Trainer):
    """Trainer whose checkpoints hold the trained weights only, not the frozen base."""

    def train_on(self, checkpoint: str | None) -> None:
        """Train from a checkpoint to the end, or from the start.

        A checkpoint of the last step is the end: the Trainer would take one step more.
        """
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:
                self._load_from_checkpoint(checkpoint)
                self.state = state
                return
        self.train(resume_from_checkpoint=checkpoint)

    def get_batch_samples(self, *arguments: Any) -> Any:
        """The batches of one optimizer step, rows of similar length together: less padding."""
        batches, num_items = super().get_batch_samples(*arguments)
        collator: Any = self.data_collator
        return _grouped_by_length(batches, collator.pad_token_id), num_items

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS) as temporary:
            save_file(self._trained_weights(), temporary)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, weight in self._trained_weights().items():
                weight.copy_(saved[name])

    def _trained_weights(self) -> dict[str, torch.Tensor]:
        model: Any = self.model
        return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


class StopOnBadLoss(TrainerCallback):
    """Stops a training whose loss is exactly 0 or no number; its last checkpoint stays."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise ResourceError with the step and the usual causes."""
        loss = (logs or {}).get("loss")
        if loss is None or (math.isfinite(loss) and loss != 0):
            return
        cause = f"a learning rate that is too high (here {args.learning_rate}) or half precision"
        fix = "lower lr"
        if loss == 0:
            cause = "rows without a target, or half precision in which the loss vanishes"
            fix = "raise max_target_tokens, or lower lr"
        raise ResourceError(
            f"the loss is {loss} at step {state.global_step}: the usual causes are {cause}; {fix}; "
            "the last checkpoint is kept"
        )


class _ProgressWithLoss(ProgressCallback):
    """The bar of steps with the last loss in it; the Trainer's own writes a line for each."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")
