"""One training, from prepared model and tokenised data to checkpoint, manifest and loss curve."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from glmtune.checkpoints.prepared import ModelRef, open_prepared, read_prepared_config
from glmtune.checkpoints.sources import model_folder, unchanged
from glmtune.devices import Device, choose_device
from glmtune.errors import ParamsError, ResourceError, UserError
from glmtune.families.tokenized import TokenizedRows, read_tokenized
from glmtune.files import hash_folder, read_json, sha256_of_bytes, write_json, write_text
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.seeding import seed_everything
from glmtune.steps.inputs_outputs import ModelFiles, Outputs, Tracking
from glmtune.training import processes
from glmtune.training.notes import coverage_notes, divergence_notes, rate_notes, step_notes
from glmtune.training.parameters import count_parameters
from glmtune.training.settings import ZERO_STAGES
from glmtune.training.throughput import describe_throughput
from glmtune.training.tracking import TrackedRun, tracked
from glmtune.training.train import TrainingOutcome, require_optimizer, train
from glmtune.tuning.memory_estimate import (
    check_memory,
    estimate_memory,
    explained_when_full,
    free_memory,
    largest_batch,
    used_memory,
)
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.registry import get_method
from glmtune.tuning.settings import TuningSettings, without_defaults
from glmtune.workspace.provenance import peak_memory_mib, recorded_runtime


@dataclass(frozen=True)
class _Task:
    """One training: model, method, settings, data and device."""

    folder: Path
    """Of the prepared model."""
    method: TuningMethod
    settings: TuningSettings
    device: Device
    data: Mapping[str, Any]
    """The manifest of the tokenised data."""
    rows: TokenizedRows
    dev: TokenizedRows
    valid: TokenizedRows | None
    sharding: str
    """A key of ZERO_STAGES: what is sharded across the processes."""


def finetune(
    *,
    model: ModelFiles,
    data: Path,
    settings: TuningSettings,
    outputs: Outputs,
    tracking: Tracking,
    sharding: str,
) -> None:
    """Write checkpoint/, manifest.json, curve.csv and runtime.json into `outputs.out_dir`.

    `model` is untuned; `settings` are those of `Params.training_settings`. Of several processes,
    each calls this and the first one writes.
    Raises ResourceError if a training does not fit or diverges or a tracker does not start,
    ParamsError for quantized weights that cannot be trained, WeightsError for weights that are not
    those of the manifest.
    """
    is_first = processes.is_first()
    task = _read_task(model.folder, data, settings, sharding)
    quantized = _with_stored_quantization(task)
    expected_peak = _report_memory(task, quantized)
    base, out_dir = read_json(model.manifest), outputs.out_dir
    with (
        recorded_runtime(out_dir / "runtime.json" if is_first else None) as figures,
        explained_when_full(quantized, task.sharding),
        unchanged(model.folder, base),
        tracked(
            tracking.trackers if is_first else [], _tracked_run(tracking, settings, outputs)
        ) as trackers,
    ):
        tuned = _open_for_training(task)
        notes = _notes_before(tuned, task)
        outcome = _train(tuned, task, outputs.resume_dir, trackers)
        notes += _notes_after(outcome, settings)
        trained = _in_one_piece(tuned, task)
        if trained is not None:
            (out_dir / "checkpoint").mkdir()
            task.method.save(trained, out_dir / "checkpoint", model.folder)
        figures |= _figures(tuned, task, outcome, expected_peak)
    if not is_first:
        return
    measured = "dev_loss" if task.valid is None else "valid_loss"
    write_text(out_dir / "curve.csv", _as_csv(outcome.curve, measured))
    write_json(out_dir / "manifest.json", _manifest(out_dir, base, settings, outcome, notes))


def _read_task(folder: Path, data: Path, settings: TuningSettings, sharding: str) -> _Task:
    """Choose and print the device, and open the tokenised data."""
    processes.use_own_gpu()
    device = choose_device()
    print(f"device {device.name}, dtype {device.dtype}: {device.reason}")
    if processes.count() == 1:
        sharding = "none"  # `all` found one GPU
    else:
        print(f"processes: {processes.count()}, sharding {sharding}")
        _warn_of_idle_processes(settings)
    require_optimizer(settings)
    if sharding != "none" and device.dtype == "float16":
        raise ResourceError(
            f"params.yaml: launcher.sharding: found {sharding}, which needs GPUs with bfloat16; "
            f"found {device.reason}; set it to none"
        )
    manifest = read_json(data / "manifest.json")
    has_valid = "valid" in manifest["splits"]
    return _Task(
        folder=folder,
        method=get_method(settings.method),
        settings=settings,
        device=device,
        data=manifest,
        rows=read_tokenized(data / "train.safetensors"),
        dev=read_tokenized(data / "dev.safetensors"),
        valid=read_tokenized(data / "valid.safetensors") if has_valid else None,
        sharding=sharding,
    )


def _warn_of_idle_processes(settings: TuningSettings) -> None:
    """Print a warning if the rows of a step cannot be split evenly."""
    count = processes.count()
    rows, passes = settings.rows_and_passes(count)
    if rows % count or passes > math.ceil(settings.gradient_accumulation_steps / count):
        print(
            f"warning: a step of batch_size {settings.batch_size} x gradient_accumulation_steps "
            f"{settings.gradient_accumulation_steps} rows is {passes} passes of {rows} rows, which "
            f"cannot be split evenly over {count} processes, so some of them idle; use a multiple "
            f"of {count} rows",
            file=sys.stderr,
        )


def _with_stored_quantization(task: _Task) -> TuningSettings:
    """The settings; `quantization_bit` is that of the model's files unless it is set."""
    stored = read_prepared_config(task.folder).get("quantization_bit") or None
    if stored and task.method.trains_base:
        name = task.method.name
        raise ParamsError(
            f"methods: {name} trains all weights, but the model's files "
            f"({model_folder(task.folder)}) are quantized to {stored} bits, which cannot be "
            f"trained; use a checkpoint that is not quantized, or remove {name}"
        )
    bits = task.settings.quantization_bit or stored
    return replace(task.settings, quantization_bit=bits)


def _report_memory(task: _Task, settings: TuningSettings) -> int | None:
    """Print the memory estimate and refuse what cannot fit; the expected peak in MiB.

    The estimate is advice: if it fails for another reason, training starts without it.
    """
    config, device = read_prepared_config(task.folder), task.device
    batch = largest_batch(task.rows, settings.rows_of_process(processes.count()))
    try:
        estimate = estimate_memory(config, task.method, settings, batch, device)
        estimate = estimate.of_process(processes.count(), task.sharding)
    except UserError:
        raise
    except Exception as error:
        print(f"memory: not estimated ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    free = free_memory(device) / _sharing(device)
    print(check_memory(estimate, free, settings, task.sharding), file=sys.stderr)
    return round((used_memory(device) + estimate.total) / 2**20)


def _sharing(device: Device) -> int:
    """How many processes share the memory of `device`: each has a GPU of its own, but no RAM."""
    return processes.count_here() if device.name == "cpu" else 1


def _open_for_training(task: _Task) -> ChatGLMCausalLM:
    """The base model with the method's weights; only these require gradients."""
    settings = task.settings
    seed_everything(settings.seed, settings.torch_threads)
    base = open_prepared(
        ModelRef(task.folder),
        dtype="float32" if task.method.trains_base else task.device.dtype,
        device=task.device.name,
        quantization_bit=settings.quantization_bit,
    )
    return task.method.prepare(base, settings)


def _in_one_piece(tuned: ChatGLMCausalLM, task: _Task) -> ChatGLMCausalLM | None:
    """The trained model for the first process, which saves it; None for the others.

    Sharded weights are gathered in RAM, a weight at a time: a GPU has no room for
    all of it beside the optimizer.
    """
    if ZERO_STAGES[task.sharding] < 3:
        return tuned if processes.is_first() else None
    copy = None
    if processes.is_first():
        copy = open_prepared(ModelRef(task.folder), dtype="float32", device="cpu")
    for name, weight in tuned.named_parameters():
        with processes.whole([weight]):
            if copy is not None:
                copy.get_parameter(name).data.copy_(weight.data)
    return copy


def _tracked_run(tracking: Tracking, settings: TuningSettings, outputs: Outputs) -> TrackedRun:
    """A training that resumes has the same folder to resume from, and so the same id."""
    return TrackedRun(
        name=tracking.run,
        id=sha256_of_bytes(str(outputs.resume_dir.resolve()).encode())[:8],
        folder=tracking.folder,
        settings=asdict(settings),
    )


def _train(
    model: ChatGLMCausalLM, task: _Task, resume_dir: Path, trackers: Sequence[TrainerCallback]
) -> TrainingOutcome:
    """Train `model`; a killed run resumes from `resume_dir`."""
    return train(
        model.train(),
        task.rows,
        task.dev,
        task.settings,
        pad_token_id=task.data["pad_token_id"],
        work=resume_dir,
        valid=task.valid,
        dtype=task.device.dtype,
        sharding=task.sharding,
        rates=task.method.rates(task.settings),
        callbacks=trackers,
    )


def _notes_before(model: ChatGLMCausalLM, task: _Task) -> list[str]:
    """Print and return the warnings before training."""
    train_split, method = task.data["splits"]["train"], task.method
    size = count_parameters(model)
    return _print_warnings(
        [
            *coverage_notes(train_split),
            *rate_notes(task.settings.lr, method.usual_lr, method.title, size),
            *step_notes(train_split["rows"], task.settings),
        ]
    )


def _notes_after(outcome: TrainingOutcome, settings: TuningSettings) -> list[str]:
    """Print and return the warnings about the losses."""
    losses = [point["loss"] for point in outcome.curve if "loss" in point]
    return _print_warnings(divergence_notes(losses, settings.lr))


def _print_warnings(notes: list[str]) -> list[str]:
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return notes


def _figures(
    model: ChatGLMCausalLM, task: _Task, outcome: TrainingOutcome, expected_peak: int | None
) -> dict[str, Any]:
    """What differs from run to run: device, speed, memory (MiB)."""
    device, tokens = task.device, len(task.rows.input_ids)
    throughput = describe_throughput(
        model,
        outcome.throughput,
        mean_length=tokens / len(task.rows),
        target_share=int(task.rows.targets_of_rows().sum()) / tokens,
        gpus=processes.count(),
    )
    peaks = processes.gathered(round(peak_memory_mib()))
    together = {
        "processes": len(peaks),
        "machines": processes.machines(),
        "sharding": task.sharding,
    }
    return {
        **(together if len(peaks) > 1 else {}),
        "peak_memory_mib": max(peaks),
        "device": device.name,
        "dtype": device.dtype,
        "dtype_reason": device.reason,
        "estimated_memory_mib": expected_peak,
        "earlier_seconds": outcome.throughput.earlier_seconds,
        **throughput,
    }


def _manifest(
    out_dir: Path,
    base: Mapping[str, Any],
    settings: TuningSettings,
    outcome: TrainingOutcome,
    notes: list[str],
) -> dict[str, Any]:
    """What identifies a checkpoint; the same for two runs of the same training."""
    return {
        "method": settings.method,
        "base": base,
        "settings": without_defaults(settings),
        "checkpoint": hash_folder(out_dir / "checkpoint"),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "train_loss": outcome.train_loss,
        "dev_loss": outcome.dev_loss,
        "trainable_parameters": outcome.trainable_parameters,
        "total_parameters": outcome.total_parameters,
        "notes": notes,
    }


def _as_csv(curve: list[dict[str, float]], measured: str) -> str:
    text = io.StringIO()
    columns = ["step", "loss", "learning_rate", measured]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()
