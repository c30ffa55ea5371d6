"""One tuning from prepared model and tokenised data to checkpoint, manifest and loss curve."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmtune.base_model import open_model
from glmtune.devices import choose_device
from glmtune.files import hash_folder, read_json, write_json, write_text
from glmtune.provenance import recorded_runtime
from glmtune.seeding import seed_everything
from glmtune.tokenized import read_tokenized
from glmtune.training import TrainingOutcome, train
from glmtune.tuning import get_method


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
    with recorded_runtime(done / "runtime.json") as figures:
        seed_everything(settings["seed"], settings["torch_threads"])
        base_model = open_model(
            model_folder,
            dtype="float32" if method.trains_base else place.dtype,
            device=place.device,
            quantization_bit=settings["quantization_bit"],
        )
        model = method.prepare(base_model, settings)
        outcome = train(
            model.train(),
            read_tokenized(data / "train.safetensors"),
            read_tokenized(data / "dev.safetensors"),
            settings,
            pad_token_id=read_json(data / "manifest.json")["pad_token_id"],
            work=work,
            dtype=place.dtype,
        )
        (done / "checkpoint").mkdir()
        method.save(model, done / "checkpoint", model_folder)
        figures |= {"device": place.device, "dtype": place.dtype, "dtype_reason": place.reason}
    write_text(done / "curve.csv", _as_csv(outcome.curve))
    base = read_json(model_manifest)
    write_json(done / "manifest.json", _manifest(done, base, settings, outcome))


def _manifest(
    done: Path, base: Mapping[str, Any], settings: Mapping[str, Any], outcome: TrainingOutcome
) -> dict[str, Any]:
    """What identifies a checkpoint: nothing in it differs between two runs of the same thing."""
    return {
        "method": settings["method"],
        "base": base,
        "settings": settings,
        "checkpoint": hash_folder(done / "checkpoint"),
        "train_loss": outcome.train_loss,
        "dev_loss": outcome.dev_loss,
        "trainable_parameters": outcome.trainable_parameters,
        "total_parameters": outcome.total_parameters,
    }


def _as_csv(curve: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "loss", "learning_rate"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()
