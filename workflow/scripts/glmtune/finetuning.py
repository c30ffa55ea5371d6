"""One tuning from prepared model and tokenised data to checkpoint, manifest and loss curve."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmtune.base_model import open_model, read_base_config
from glmtune.devices import choose_device
from glmtune.files import hash_folder, read_json, write_json, write_text
from glmtune.memory_estimate import (
    check_memory,
    estimate_memory,
    explained_when_full,
    free_memory,
    largest_batch,
    used_memory,
)
from glmtune.provenance import recorded_runtime
from glmtune.quantization import count_parameters
from glmtune.seeding import seed_everything
from glmtune.throughput import describe_pace
from glmtune.tokenized import TokenizedRows, read_tokenized
from glmtune.training import TrainingOutcome, require_optimizer, train
from glmtune.tuning import TuningMethod, get_method

# Fewer parameters are a miniature or a test, whose learning rates are its own.
LARGE = 1e9


def finetune(
    model_folder: Path,
    model_manifest: Path,
    data: Path,
    settings: Mapping[str, Any],
    done: Path,
    work: Path,
) -> None:
    """Write checkpoint/, manifest.json, curve.csv and runtime.json into `done`.

    `settings` are those of `Params.training_settings`; `work` keeps what a killed run resumes from.
    """
    method = get_method(settings["method"])
    place = choose_device()
    print(f"device {place.device}, dtype {place.dtype}: {place.reason}")
    require_optimizer(settings)
    rows = read_tokenized(data / "train.safetensors")
    batch = largest_batch(rows, settings["batch_size"])
    estimate = estimate_memory(read_base_config(model_folder), method, settings, batch, place)
    print(check_memory(estimate, free_memory(place), settings))
    expected_peak = used_memory(place) + estimate.total
    with recorded_runtime(done / "runtime.json") as figures, explained_when_full(settings):
        seed_everything(settings["seed"], settings["torch_threads"])
        base_model = open_model(
            model_folder,
            dtype="float32" if method.trains_base else place.dtype,
            device=place.device,
            quantization_bit=settings["quantization_bit"],
        )
        model = method.prepare(base_model, settings)
        notes = _lr_notes(model, method, settings["lr"])
        for note in notes:
            print(f"warning: {note}", file=sys.stderr)
        outcome = train(
            model.train(),
            rows,
            read_tokenized(data / "dev.safetensors"),
            settings,
            pad_token_id=read_json(data / "manifest.json")["pad_token_id"],
            work=work,
            dtype=place.dtype,
        )
        (done / "checkpoint").mkdir()
        method.save(model, done / "checkpoint", model_folder)
        figures |= {"device": place.device, "dtype": place.dtype, "dtype_reason": place.reason}
        figures |= {"estimated_memory_mib": round(expected_peak / 2**20)}
        figures |= _pace(model, rows, outcome)
    write_text(done / "curve.csv", _as_csv(outcome.curve))
    base = read_json(model_manifest)
    write_json(done / "manifest.json", _manifest(done, base, settings, outcome, notes))


def _lr_notes(model: Any, method: TuningMethod, lr: float) -> list[str]:
    """What is unusual about the learning rate of a large model; nothing for small ones."""
    if count_parameters(model) < LARGE or method.usual_lr is None:
        return []
    low, high = method.usual_lr
    if low <= lr <= high:
        return []
    risk = "it will hardly learn" if lr < low else "it may diverge, or forget what it knew"
    return [
        f"lr {lr:g} is outside {low:g} to {high:g}, where published {method.title} of 6B models "
        f"is: {risk}"
    ]


def _pace(model: Any, rows: TokenizedRows, outcome: TrainingOutcome) -> dict[str, Any]:
    tokens = len(rows.input_ids)
    return describe_pace(
        model,
        outcome.pace.tokens,
        outcome.pace.seconds,
        mean_length=tokens / len(rows),
        target_share=int(rows.targets_of_rows().sum()) / tokens,
    )


def _manifest(
    done: Path,
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    outcome: TrainingOutcome,
    notes: list[str],
) -> dict[str, Any]:
    """What identifies a checkpoint: nothing in it differs between two runs of the same thing."""
    return {
        "method": settings["method"],
        "base": base,
        "settings": settings,
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
