"""One tuning from prepared model and tokenised data to checkpoint, manifest and loss curve."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from glmtune.checkpoints.base_model import open_model, read_base_config
from glmtune.checkpoints.sources import model_folder as resolve_folder
from glmtune.checkpoints.sources import unchanged
from glmtune.devices import Place, choose_device
from glmtune.errors import ParamsError, UserError
from glmtune.families.tokenized import TokenizedRows, read_tokenized
from glmtune.files import hash_folder, read_json, write_json, write_text
from glmtune.modeling.quantization import count_parameters
from glmtune.seeding import seed_everything
from glmtune.training.notes import coverage_notes, divergence_notes, rate_notes, step_notes
from glmtune.training.throughput import describe_pace
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
from glmtune.tuning.settings import TuningSettings
from glmtune.workspace.provenance import recorded_runtime


def finetune(
    model_folder: Path,
    model_manifest: Path,
    data: Path,
    settings: TuningSettings,
    done: Path,
    work: Path,
) -> None:
    """Write checkpoint/, manifest.json, curve.csv and runtime.json into `done`.

    `work` keeps what a killed run resumes from.
    """
    method = get_method(settings.method)
    place = choose_device()
    print(f"device {place.device}, dtype {place.dtype}: {place.reason}")
    require_optimizer(settings)
    tokenized = read_json(data / "manifest.json")
    rows = read_tokenized(data / "train.safetensors")
    held = _as_held(settings, method, model_folder)
    expected_peak = _tell_memory(model_folder, method, held, rows, place)
    base = read_json(model_manifest)
    with (
        recorded_runtime(done / "runtime.json") as figures,
        explained_when_full(held),
        unchanged(model_folder, base),
    ):
        seed_everything(settings.seed, settings.torch_threads)
        base_model = open_model(
            model_folder,
            dtype="float32" if method.trains_base else place.dtype,
            device=place.device,
            quantization_bit=settings.quantization_bit,
        )
        model = method.prepare(base_model, settings)
        notes = _notes_before(model, method, settings, tokenized)
        outcome = train(
            model.train(),
            rows,
            read_tokenized(data / "dev.safetensors"),
            settings,
            pad_token_id=tokenized["pad_token_id"],
            work=work,
            dtype=place.dtype,
        )
        losses = [point["loss"] for point in outcome.curve if "loss" in point]
        notes += _say(divergence_notes(losses, settings.lr))
        (done / "checkpoint").mkdir()
        method.save(model, done / "checkpoint", model_folder)
        figures |= {"device": place.device, "dtype": place.dtype, "dtype_reason": place.reason}
        figures |= {"estimated_memory_mib": expected_peak}
        figures |= {"earlier_seconds": outcome.pace.earlier_seconds}
        figures |= _pace(model, rows, outcome)
    write_text(done / "curve.csv", _as_csv(outcome.curve))
    write_json(done / "manifest.json", _manifest(done, base, settings, outcome, notes))


def _as_held(settings: TuningSettings, method: TuningMethod, model_folder: Path) -> TuningSettings:
    """The settings, with the bits that the model's files are packed in if nothing else is asked."""
    stored = read_base_config(model_folder).get("quantization_bit") or None
    if stored and method.trains_base:
        raise ParamsError(
            f"methods: {method.name} trains every weight, but the model's files "
            f"({resolve_folder(model_folder)}) are packed in {stored} bits, which cannot be "
            f"trained; give it a checkpoint that is not packed, or remove {method.name}"
        )
    return replace(settings, quantization_bit=settings.quantization_bit or stored)


def _tell_memory(
    model_folder: Path,
    method: TuningMethod,
    settings: TuningSettings,
    rows: TokenizedRows,
    place: Place,
) -> int | None:
    """Print how much memory is needed, refuse what cannot fit; the expected peak in MiB.

    An estimate is advice: one that fails for another reason says so and stops nothing.
    """
    batch = largest_batch(rows, settings.batch_size)
    try:
        estimate = estimate_memory(read_base_config(model_folder), method, settings, batch, place)
    except UserError:
        raise
    except Exception as error:
        print(f"memory: not estimated ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    print(check_memory(estimate, free_memory(place), settings), file=sys.stderr)
    return round((used_memory(place) + estimate.total) / 2**20)


def _notes_before(
    model: Any, method: TuningMethod, settings: TuningSettings, tokenized: Mapping[str, Any]
) -> list[str]:
    """Print and return what is worth saying before a training begins."""
    train_split = tokenized["splits"]["train"]
    size = count_parameters(model)
    return _say(
        [
            *coverage_notes(train_split),
            *rate_notes(settings.lr, method.usual_lr, method.title, size),
            *step_notes(train_split["rows"], settings),
        ]
    )


def _say(notes: list[str]) -> list[str]:
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return notes


def _pace(model: Any, rows: TokenizedRows, outcome: TrainingOutcome) -> dict[str, Any]:
    tokens = len(rows.input_ids)
    return describe_pace(
        model,
        outcome.pace,
        mean_length=tokens / len(rows),
        target_share=int(rows.targets_of_rows().sum()) / tokens,
    )


def _manifest(
    done: Path,
    base: Mapping[str, Any],
    settings: TuningSettings,
    outcome: TrainingOutcome,
    notes: list[str],
) -> dict[str, Any]:
    """What identifies a checkpoint: nothing in it differs between two runs of the same thing."""
    return {
        "method": settings.method,
        "base": base,
        "settings": asdict(settings),
        "checkpoint": hash_folder(done / "checkpoint"),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "train_loss": outcome.train_loss,
        "dev_loss": outcome.dev_loss,
        "trainable_parameters": outcome.trainable_parameters,
        "total_parameters": outcome.total_parameters,
        "notes": notes,
    }


def _as_csv(curve: list[dict[str, float]]) -> str:
    text = io.StringIO()
    columns = ["step", "loss", "learning_rate", "dev_loss"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()
