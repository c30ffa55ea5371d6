"""A report read from the results tree; a missing or unusable file is one message.

Which keys a file must have stands here, once: what shows a report may rely on them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtune.errors import DataError
from glmtune.files import read_json, read_jsonl
from glmtune.metrics import METRICS
from glmtune.report.contents import COMPARED, Report, Run

# A dot leads into an object.
DATASET_KEYS = (
    "source.kind",
    *(f"{part}.{k}" for part in ("train", "dev") for k in ("rows", "sha256")),
)
MODEL_KEYS = ("generation", "source")
TRAINING_KEYS = ("settings", "train_loss", "dev_loss", "trainable_parameters", "total_parameters")
SCORE_KEYS = ("rows", *METRICS)
RUNTIME_KEYS = ("seconds",)


def read_report(
    runs: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    *,
    results_dir: Path,
    data_dir: Path,
) -> Report:
    """Read everything that the report shows; DataError names the first missing or broken file.

    `runs` are {"model", "method", "is_trained"} in display order, `params` the checked values.
    """
    names = dict.fromkeys(run["model"] for run in runs)
    models = {
        name: _read_object(results_dir / "models" / f"{name}.json", MODEL_KEYS) for name in names
    }
    return Report(
        runs=[_read_run(results_dir, run, params) for run in runs],
        models=models,
        dataset=_read_object(data_dir / "dataset" / "manifest.json", DATASET_KEYS),
        params=params,
    )


def _read_run(results: Path, run: Mapping[str, Any], params: Mapping[str, Any]) -> Run:
    model, method, is_trained = run["model"], run["method"], run["is_trained"]

    def path(folder: str, suffix: str) -> Path:
        return results / folder / model / f"{method}{suffix}"

    steps = [*(["finetune_model"] if is_trained else []), "generate_predictions"]
    scores = _read_object(path("scores", ".json"), SCORE_KEYS)
    answers = _read_rows(path("examples", ".jsonl"), ("prompt", "predict"))
    training = path("training", ".json")
    return Run(
        model=model,
        method=method,
        tuning=params.get("methods", {}).get(method, {}).get("method", method),
        is_trained=is_trained,
        scores=scores,
        row_scores=_read_rows(path("scores", ".rows.jsonl"), tuple(COMPARED), scores["rows"]),
        predictions=_read_rows(path("predictions", ".jsonl"), ("labels",), scores["rows"]),
        answers={row["prompt"]: row for row in answers},
        training=_read_object(training, TRAINING_KEYS) if is_trained else {},
        curve=_read_curve(path("curves", ".csv")) if is_trained else [],
        runtimes={
            step: _read_object(path(f"runtime/{step}", ".json"), RUNTIME_KEYS) for step in steps
        },
    )


def _read_object(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    value = read_json(path)
    _require(value, keys, str(path))
    return value


def _read_rows(
    path: Path, keys: Sequence[str], expected: int | None = None
) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; there must be as many as `expected` if that is given."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        _require(row, keys, f"{path}: line {number}")
    if expected is not None and len(rows) != expected:
        raise DataError(
            f"{path}: {len(rows)} rows; expected {expected}, as many as were scored; "
            "score the predictions again"
        )
    return rows


def _require(value: Any, keys: Sequence[str], where: str) -> None:
    """Raise DataError unless `value` is an object with all these keys."""
    for key in keys:
        inner = value
        for part in key.split("."):
            if not isinstance(inner, dict):
                raise DataError(
                    f"{where}: found {type(inner).__name__} where {key!r} should be; "
                    "expected a JSON object; delete the file and run again"
                )
            if part not in inner:
                found = ", ".join(map(repr, inner)) or "nothing"
                raise DataError(
                    f"{where}: no key {key!r}; found {found}; delete the file and run again"
                )
            inner = inner[part]


def _read_curve(path: Path) -> list[tuple[int, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines)
        step, loss = header.index("step"), header.index("loss")
        return [(int(row[step]), float(row[loss])) for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the step that writes it first") from None
    except (IndexError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a loss curve ({error}); delete it and run again") from None
