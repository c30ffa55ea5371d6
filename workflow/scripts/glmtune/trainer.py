"""transformers' Trainer, with small checkpoints, dev losses by token, and rows sorted by length."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainerState

from glmtune.batching import Collator, RowDataset, grouped_by_length
from glmtune.families.family import IGNORED
from glmtune.files import atomic_path
from glmtune.tokenized import TokenizedRows
from glmtune.training_callbacks import DEV_LOSS, WatchDevLoss, dev_losses
from glmtune.weights import parse_dtype

WEIGHTS, BEST_WEIGHTS = "trainable.safetensors", "best.safetensors"


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints hold the trained weights only, not the frozen base."""

    tokens = 0
    watch: WatchDevLoss | None = None
    keeps_best = False

    def watch_dev_loss(self, dev: TokenizedRows, settings: Mapping[str, Any]) -> None:
        """Measure the loss of `dev` on the way; stop early and keep the best as settings say."""
        self.watch = WatchDevLoss(settings["eval_steps"], settings.get("early_stopping_patience"))
        self.dev = dev
        self.keeps_best = bool(settings.get("keep_best"))
        self.add_callback(self.watch)

    def train_on(self, checkpoint: str | None) -> None:
        """Train from a checkpoint to the end, or from the start.

        A checkpoint of the last step is the end: the Trainer would take one step more.
        """
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            has_stalled = self.watch is not None and self.watch.has_stalled(state)
            if state.global_step >= self.args.max_steps or has_stalled:
                self._load_from_checkpoint(checkpoint)
                self.state = state
                return
        self.train(resume_from_checkpoint=checkpoint)

    def get_batch_samples(self, *arguments: Any) -> Any:
        """The batches of one optimizer step, rows of similar length together: less padding."""
        batches, num_items = super().get_batch_samples(*arguments)
        self.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        return grouped_by_length(batches, self._pad_token_id), num_items

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure and log the dev loss; keep the weights if it is the lowest so far."""
        lowest = min((loss for _, loss in dev_losses(self.state)), default=math.inf)
        measured = {DEV_LOSS: self.mean_loss(self.dev)}
        self.log(measured)
        if self.keeps_best and measured[DEV_LOSS] < lowest:
            self._write_weights(self._folder / BEST_WEIGHTS)
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, measured)
        return measured

    def mean_loss(self, rows: TokenizedRows) -> float:
        """The mean loss of `rows` in the type that is trained in."""
        half = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else None
        size = self.args.per_device_train_batch_size
        return mean_loss(self._model, rows, size, self._pad_token_id, half or "float32")

    def load_best(self) -> int | None:
        """Go back to the weights of the lowest dev loss if they were kept; returns their step."""
        if not self.keeps_best:
            return None
        self._read_weights(self._folder / BEST_WEIGHTS)
        return min(dev_losses(self.state), key=lambda measured: measured[1])[0]

    def final_dev_loss(self, dev: TokenizedRows, step: int | None) -> float:
        """The dev loss of the weights as they are now: those of `step`, or the last ones."""
        measured = dict(dev_losses(self.state))
        step = self.state.global_step if step is None else step
        return measured[step] if step in measured else self.mean_loss(dev)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_weights(folder / WEIGHTS)
        _copy(self._folder / BEST_WEIGHTS, folder / BEST_WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        self._read_weights(checkpoint / WEIGHTS)
        # What a killed run has kept since then may not be the best of this one.
        _copy(checkpoint / BEST_WEIGHTS, self._folder / BEST_WEIGHTS)

    def _write_weights(self, file: Path) -> None:
        with atomic_path(file) as temporary:
            save_file(trainable_state(self._model), temporary)

    def _read_weights(self, file: Path) -> None:
        saved = load_file(file)
        with torch.no_grad():
            for name, weight in trainable_state(self._model).items():
                weight.copy_(saved[name])

    @property
    def _model(self) -> PreTrainedModel:
        model: Any = self.model
        return model

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @property
    def _pad_token_id(self) -> int:
        collator: Any = self.data_collator
        return collator.pad_token_id


def trainable_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """`{name: tensor}` of the weights in training."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def _copy(source: Path, target: Path) -> None:
    """Make `target` what `source` is, which may be nothing."""
    if not source.is_file():
        target.unlink(missing_ok=True)
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


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
    model: PreTrainedModel,
    rows: TokenizedRows,
    batch_size: int,
    pad_token_id: int,
    dtype: str = "float32",
) -> float:
    """The mean loss per target token of all rows, in nats, computed in `dtype` in eval mode."""
    collate, dataset = Collator(pad_token_id), RowDataset(rows)
    total, targets = 0.0, 0
    model.eval()
    device = model.device.type
    in_half = torch.autocast(device, parse_dtype(dtype), enabled=dtype != "float32")
    starts = tqdm(range(0, len(rows), batch_size), desc="dev loss", unit="batches", leave=False)
    with torch.no_grad(), in_half:
        for start in starts:
            batch = collate(dataset[start : start + batch_size])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(model(**batch, skip_logits=True).loss) * count
            targets += count
    return total / targets if targets else math.nan
