"""transformers' Trainer with small checkpoints, per-token dev losses and batches by length."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainerState

from glmtune.devices import parse_dtype
from glmtune.errors import ResourceError, UserError, explain
from glmtune.families.tokenized import TokenizedRows
from glmtune.files import atomic_path, read_json, write_json
from glmtune.labels import IGNORED_LABEL
from glmtune.training.batching import Collator, RowDataset, grouped_by_length
from glmtune.training.callbacks import (
    DEV_LOSS,
    WatchDevLoss,
    dev_losses,
    explain_divergence,
    explain_loss,
)
from glmtune.training.parameters import abs_sums, trainable_state
from glmtune.training.resuming import seal
from glmtune.training.settings import TrainingSettings

WEIGHTS, BEST_WEIGHTS, THROUGHPUT_FILE = (
    "trainable.safetensors",
    "best.safetensors",
    "throughput.json",
)


@dataclass(frozen=True)
class Throughput:
    """How many tokens were trained and how long it took, with dev losses and checkpoints."""

    tokens: int = 0  # of the rows; padding does not count
    seconds: float = 0.0
    earlier_seconds: float = 0.0  # the part spent in processes that were killed


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints contain only the trained weights, not the frozen base."""

    earlier = Throughput()  # of processes that were killed
    tokens, start = 0, 0.0  # of this process
    watch: WatchDevLoss | None = None
    keeps_best = False
    rates: Mapping[str, float] = {}  # a part of weights' names -> factor of their learning rate
    watched: TokenizedRows | None = None

    def watch_dev_loss(self, rows: TokenizedRows, settings: TrainingSettings) -> None:
        """Measure the loss of dev or valid rows; stop early and keep the best as `settings` say."""
        assert settings.eval_steps
        self.watch = WatchDevLoss(settings.eval_steps, settings.early_stopping_patience)
        self.watched = rows
        self.keeps_best = settings.keep_best
        self.add_callback(self.watch)

    def train_on(self, checkpoint: Path | None) -> Throughput:
        """Train to the end, from a checkpoint or from the start; return the total throughput.

        From a checkpoint of the last step nothing is trained: the Trainer would take another step.
        """
        self.start = time.perf_counter()
        if checkpoint is None:
            self.train()
            return self._throughput()
        with _explained(checkpoint):
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        has_stalled = self.watch is not None and self.watch.has_stalled(state)
        if state.global_step >= self.args.max_steps or has_stalled:
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
        else:
            self.train(resume_from_checkpoint=str(checkpoint))
        return self._throughput()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, with a group of their own for weights that have a rate of their own."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        names = {id(weight): name for name, weight in self._model.named_parameters()}
        for part, factor in self.rates.items():
            for group in list(optimizer.param_groups):
                own = [weight for weight in group["params"] if part in names[id(weight)]]
                if own:
                    others = [weight for weight in group["params"] if part not in names[id(weight)]]
                    group["params"] = others
                    optimizer.add_param_group({**group, "params": own, "lr": factor * group["lr"]})
        return optimizer

    def get_batch_samples(self, *arguments: Any) -> Any:
        """The batches of one optimizer step, with rows grouped by length to reduce padding."""
        batches, num_items = super().get_batch_samples(*arguments)
        self.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        return grouped_by_length(batches, self._pad_token_id), num_items

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure and log the dev loss; keep the weights if it is the lowest so far."""
        lowest = min((loss for _, loss in dev_losses(self.state)), default=math.inf)
        assert self.watched is not None, "watch_dev_loss asks for measurements"
        measured = {DEV_LOSS: self.mean_loss(self.watched)}
        self.log(measured)
        if self.keeps_best and measured[DEV_LOSS] < lowest:
            self._write_weights(self._folder / BEST_WEIGHTS)
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, measured)
        return measured

    def mean_loss(self, rows: TokenizedRows) -> float:
        """The mean loss of `rows`, computed in the type used for training."""
        half = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else None
        size = self.args.per_device_train_batch_size
        return mean_loss(self._model, rows, size, self._pad_token_id, half or "float32")

    def load_best(self) -> int | None:
        """Restore the weights with the lowest dev loss if they were kept; return their step."""
        if not self.keeps_best:
            return None
        self._read_weights(self._folder / BEST_WEIGHTS)
        return min(dev_losses(self.state), key=lambda measured: measured[1])[0]

    def final_dev_loss(self, dev: TokenizedRows, step: int | None) -> float:
        """The dev loss of the current weights: those of `step`, or of the last step."""
        measured = dict(dev_losses(self.state)) if self.watched is dev else {}
        step = self.state.global_step if step is None else step
        if step in measured:
            return measured[step]
        loss = self.mean_loss(dev)
        if not math.isfinite(loss):
            raise explain_loss(self.args, step, loss, is_dev=True)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # This step's loss was computed before its update, so it does not reveal bad weights.
        if not all(map(math.isfinite, abs_sums(self._model).values())):
            raise explain_divergence(self.args, self.state.global_step)
        super()._save_checkpoint(model, trial)
        seal(self._folder / f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_weights(folder / WEIGHTS)
        _copy(self._folder / BEST_WEIGHTS, folder / BEST_WEIGHTS)
        write_json(folder / THROUGHPUT_FILE, asdict(self._throughput()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        with _explained(checkpoint):
            self._read_weights(checkpoint / WEIGHTS)
            # Weights that a killed run kept after this checkpoint may not be the best of this run.
            _copy(checkpoint / BEST_WEIGHTS, self._folder / BEST_WEIGHTS)
            before = Throughput(**read_json(checkpoint / THROUGHPUT_FILE))
        self.earlier = Throughput(before.tokens, before.seconds, before.seconds)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_rng_state(checkpoint)

    def _throughput(self) -> Throughput:
        seconds = time.perf_counter() - self.start
        earlier = self.earlier
        return Throughput(earlier.tokens + self.tokens, earlier.seconds + seconds, earlier.seconds)

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


@contextmanager
def _explained(checkpoint: Path | str | None) -> Iterator[None]:
    """Turn the failure to load a complete checkpoint into a ResourceError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or explain(error) is not None:  # full memory, full disk
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch appends advice
        raise ResourceError(
            f"{checkpoint}: cannot resume from it ({type(error).__name__}: {reason}); delete it to "
            "start the training over"
        ) from error


def _copy(source: Path, target: Path) -> None:
    """Copy `source` to `target`; if there is no `source`, remove `target`."""
    if not source.is_file():
        target.unlink(missing_ok=True)
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def mean_loss(
    model: PreTrainedModel,
    rows: TokenizedRows,
    batch_size: int,
    pad_token_id: int,
    dtype: str = "float32",
) -> float:
    """The mean loss per target token over all rows, in nats, in eval mode and in `dtype`."""
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
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            total += float(model(**batch, skip_logits=True).loss) * count
            targets += count
    return total / targets if targets else math.nan
