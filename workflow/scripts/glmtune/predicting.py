"""Predictions of one model, tuned by one method, for the dev rows and the user's examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtune.devices import choose_device
from glmtune.encoding import encode_prompts
from glmtune.families import get_family
from glmtune.files import read_json, read_jsonl, write_jsonl
from glmtune.generation import generate_texts
from glmtune.provenance import recorded_runtime
from glmtune.seeding import seed_everything
from glmtune.sources import open_tokenizer
from glmtune.tuning import get_method


def predict(
    model_folder: Path,
    model_manifest: Path,
    method: str,
    checkpoint: Path | None,
    dev: Path,
    examples: Sequence[str],
    settings: Mapping[str, Any],
    done: Path,
) -> None:
    """Write predictions.jsonl, examples.jsonl and runtime.json into the folder `done`.

    `settings` are those of `Params.generation_settings`.
    """
    family = get_family(read_json(model_manifest)["generation"])
    tokenizer = open_tokenizer(model_folder, family.name)
    place = choose_device()
    print(f"device {place.device}, dtype {place.dtype}: {place.reason}")
    rows = read_jsonl(dev)
    references = {row["content"]: row["summary"] for row in reversed(rows)}
    asked = [
        *rows,
        *({"content": prompt, "summary": references.get(prompt)} for prompt in examples),
    ]
    with recorded_runtime(done / "runtime.json") as figures:
        seed_everything(settings["seed"], settings["torch_threads"])
        model = get_method(method).restore(
            model_folder,
            checkpoint,
            dtype=place.dtype,
            device=place.device,
            quantization_bit=settings["quantization_bit"],
        )
        prompts = encode_prompts(
            family,
            tokenizer,
            [row["content"] for row in asked],
            max_source_tokens=settings["max_source_tokens"],
        )
        predictions = generate_texts(model, tokenizer, prompts, settings)
        figures |= {"device": place.device, "dtype": place.dtype, "rows": len(asked)}
    answers = [
        {
            "prompt": row["content"],
            "labels": row["summary"],
            "predict": prediction.text,
            "finished": prediction.finished,
        }
        for row, prediction in zip(asked, predictions, strict=True)
    ]
    write_jsonl(done / "predictions.jsonl", answers[: len(rows)])
    write_jsonl(done / "examples.jsonl", answers[len(rows) :])
