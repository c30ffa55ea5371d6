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
from accelerate.data_loader import prepare_data_loader
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainerState

from glmtune.devices import parse_dtype
from glmtune.errors import ResourceError, UserError, explain
from glmtune.families.tokenized import TokenizedRows
from glmtune.files import atomic_path, read_json, write_json
from glmtune.labels import IGNORED_LABEL
from glmtune.training import processes
from glmtune.training.batching import Collator, RowDataset, grouped_by_length
from glmtune.training.callbacks import (
    DEV_LOSS,
    WatchDevLoss,
    dev_losses,
    explain_divergence,
    explain_loss,
)
from glmtune.training.parameters import abs_sums, trainable
from glmtune.training.resuming import seal
from glmtune.training.settings import TrainingSettings

WEIGHTS, BEST_WEIGHTS, THROUGHPUT_FILE, PROCESSES_FILE = (
    "trainable.safetensors",
    "best.safetensors",
    "throughput.json",
    "processes.json",
)


@dataclass(frozen=True)
class Throughput:
    """How many tokens were trained and how long it took, with dev losses and checkpoints."""

    tokens: int = 0  # of the rows; padding does not count
    seconds: float = 0.0
    earlier_seconds: float = 0.0  # the part spent in processes that were killed


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints contain only the trained weights, not the frozen base.

    With several processes each step has the rows, and the loss, that one process would have.
    """

    rows_per_pass = 1  # that a process measures losses with
    dtype = "float32"  # that it computes in
    sharding = "none"
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
        self._refuse_other_shards(checkpoint)
        with _explained(checkpoint):
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            # Weights that a killed run kept after this checkpoint may not be the best of this run.
            if processes.is_first():
                _copy(checkpoint / BEST_WEIGHTS, self._folder / BEST_WEIGHTS)
            before = Throughput(**read_json(checkpoint / THROUGHPUT_FILE))
        self.earlier = Throughput(before.tokens, before.seconds, before.seconds)
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

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of all processes together: each draws all of them and takes its share."""
        dataset: Any = self.train_dataset
        return prepare_data_loader(
            DataLoader(
                dataset,
                batch_size=self.args.per_device_train_batch_size,
                sampler=self._get_train_sampler(),
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            ),
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            rng_types=[],
            use_seedable_sampler=True,
            data_seed=self.args.data_seed,
        )

    def get_batch_samples(self, *arguments: Any) -> Any:
        """The own batches of one optimizer step, and the targets that its loss counts.

        Rows are grouped by length to reduce padding. The processes' gradients will be averaged,
        where their sum is wanted: so each divides by its share of the step's targets.
        """
        counted: Any = super().get_batch_samples(*arguments)
        batches, targets = counted
        self.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        part, parts = processes.rank(), processes.count()
        own = grouped_by_length(batches, self._pad_token_id, part=part, parts=parts)
        return own, targets / parts if parts > 1 else targets

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
        return mean_loss(self._model, rows, self.rows_per_pass, self._pad_token_id, self.dtype)

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
        processes.wait_for_all()  # each writes its random state, and its shard
        if processes.is_first():
            seal(self._folder / f"checkpoint-{self.state.global_step}")
        processes.wait_for_all()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights, also where processes share them out."""
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_weights(folder / WEIGHTS)
        if processes.is_first():
            _copy(self._folder / BEST_WEIGHTS, folder / BEST_WEIGHTS)
            write_json(folder / THROUGHPUT_FILE, asdict(self._throughput()))
            write_json(folder / PROCESSES_FILE, self._processes)

    @property
    def _processes(self) -> dict[str, Any]:
        """Who wrote a checkpoint."""
        return {"processes": processes.count(), "sharding": self.sharding}

    def _refuse_other_shards(self, checkpoint: Path) -> None:
        """Refuse a checkpoint in shards, or for shards, unless each process finds its own in it."""
        found = read_processes(checkpoint)
        if found["sharding"] == self.sharding == "none" or found == self._processes:
            return
        raise ResourceError(
            f"{checkpoint}: written by {_described(found)}; found {_described(self._processes)} to "
            "resume it, which cannot read its optimizer; set launcher back in params.yaml, or "
            "delete the checkpoint to start the training over"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        with _explained(checkpoint):
            self._read_weights(checkpoint / WEIGHTS)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """Where DeepSpeed loads its shards."""
        given = max_steps, train_dataloader, resume_from_checkpoint
        if resume_from_checkpoint is None or self.sharding == "none":
            return super()._prepare_for_training(*given)
        with _explained(resume_from_checkpoint):
            return super()._prepare_for_training(*given)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _explained(checkpoint):
            super()._load_rng_state(checkpoint)
        if checkpoint and read_processes(Path(checkpoint))["processes"] != processes.count():
            # None of its random states is this process's: draw what no process has drawn.
            torch.manual_seed(self.args.seed + 2**20 * self.state.global_step + processes.rank())

    def _throughput(self) -> Throughput:
        seconds = time.perf_counter() - self.start
        earlier = self.earlier
        return Throughput(earlier.tokens + self.tokens, earlier.seconds + seconds, earlier.seconds)

    def _write_weights(self, file: Path) -> None:
        state = {}
        for name, weight in trainable(self._model).items():
            with processes.whole([weight]):
                if processes.is_first():
                    state[name] = _kept(weight)
        if processes.is_first():
            with atomic_path(file) as temporary:
                save_file(state, temporary)
        processes.wait_for_all()

    def _read_weights(self, file: Path) -> None:
        with torch.no_grad(), safe_open(file, framework="pt") as saved:
            for name, weight in trainable(self._model).items():
                with processes.whole([weight], written=True):
                    if processes.is_first() or not processes.is_shard(weight):
                        weight.copy_(saved.get_tensor(name))

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
        if processes.has_lost_a_peer(error):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch appends advice
        raise ResourceError(
            f"{checkpoint}: cannot resume from it ({type(error).__name__}: {reason}); delete it to "
            "start the training over"
        ) from error


def _kept(weight: torch.nn.Parameter) -> torch.Tensor:
    """A copy that outlives `whole`, if the weight is sharded; else the weight itself."""
    return weight.detach().cpu().clone() if processes.is_shard(weight) else weight.detach()


def read_processes(checkpoint: Path) -> dict[str, Any]:
    """Who wrote a checkpoint; older versions, which did not say, were one process."""
    file = checkpoint / PROCESSES_FILE
    found: dict[str, Any] = {"processes": 1, "sharding": "none"}
    return read_json(file) if file.is_file() else found


def _described(found: Mapping[str, Any]) -> str:
    several = "1 process" if found["processes"] == 1 else f"{found['processes']} processes"
    return f"{several} with sharding {found['sharding']}"


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
    """The mean loss per target token over all rows, in nats, in eval mode and in `dtype`.

    Several processes measure a share of the batches each; the sum is in the order of the rows.
    """
    collate, dataset = Collator(pad_token_id), RowDataset(rows)
    model.eval()
    device = model.device
    in_half = torch.autocast(device.type, parse_dtype(dtype), enabled=dtype != "float32")
    starts = list(range(0, len(rows), batch_size))
    own = starts[processes.rank() :: processes.count()]
    # Each process measures as many batches: sharded weights are there only while all compute.
    own += starts[: math.ceil(len(starts) / processes.count()) - len(own)]
    measured: dict[int, tuple[float, int]] = {}
    with torch.no_grad(), in_half:
        for start in tqdm(own, desc="dev loss", unit="batches", leave=False):
            batch = collate(dataset[start : start + batch_size])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            measured[start] = float(model(**batch, skip_logits=True).loss) * count, count
    for others in processes.gathered(measured):
        measured |= others
    total = sum(measured[start][0] for start in starts)
    targets = sum(measured[start][1] for start in starts)
    return total / targets if targets else math.nan
