"""Reads a report from the results tree; reports a missing or invalid file in one message.

The keys that each file must have are listed only here; all other code relies on them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from glmtune.errors import DataError
from glmtune.files import read_json, read_jsonl
from glmtune.metrics.probe import TRAINING_ANSWERS, style_of
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.report.contents import COMPARED, Report, Run, own_rows
from glmtune.report.request import ReportParams, RequestedRun

SPLITS = ("train", "dev")
FIGURES = ("mean", "p95", "max")  # of a distribution; only those shown
CARD_FACTS = (
    *(f"{part}_characters.{figure}" for part in ("prompt", "answer") for figure in FIGURES),
    *(
        "rows",
        "multi_turn_rows",
        "repeated_rows",
        "repeated_prompts",
        "unk_answers",
        "brand_answers",
        "attributes",
    ),
)
TOKEN_FACTS = (
    *(f"{part}_tokens.{figure}" for part in ("prompt", "answer") for figure in FIGURES),
    *("rows", "tokens", "cut_prompts", "cut_answers", "shortened_prompts"),
)
# A dot separates nested keys.
DATASET_KEYS = (
    "source.kind",
    *(f"{split}.{k}" for split in SPLITS for k in ("rows", "sha256")),
)
CARD_KEYS = (
    "licence",
    *(f"leakage.{k}" for k in ("pairs", "prompts", "answers")),
    *(f"splits.{split}.{k}" for split in SPLITS for k in CARD_FACTS),
)
TOKEN_KEYS = (
    "template",
    "trains_on",
    *(f"splits.{split}.{k}" for split in SPLITS for k in TOKEN_FACTS),
)
MODEL_KEYS = ("family", "source")
TRAINING_KEYS = (
    *("settings", "steps", "best_step", "train_loss", "dev_loss", "notes"),
    *("trainable_parameters", "total_parameters"),
)
SCORE_KEYS = ("rows", *METRICS)
RUNTIME_KEYS = ("seconds",)


def read_report(
    runs: Sequence[RequestedRun],
    params: ReportParams,
    *,
    results_dir: Path,
    data_dir: Path,
) -> Report:
    """Read all content of the report; DataError names the first missing or broken file."""
    names = dict.fromkeys(run.model for run in runs)
    dataset, tokenized = data_dir / "dataset", data_dir / "tokenized"
    models = results_dir / "models"
    report = Report(
        dataset=_read_object("fetch_dataset", dataset / "manifest.json", DATASET_KEYS),
        card=_read_object("fetch_dataset", dataset / "card.json", CARD_KEYS),
        style=style_of(_read_own_answers("fetch_dataset", dataset)),
        models={
            name: _read_object("prepare_model", models / f"{name}.json", MODEL_KEYS)
            for name in names
        },
        tokenized={
            name: _read_object("tokenize_dataset", tokenized / name / "manifest.json", TOKEN_KEYS)
            for name in names
        },
        runs=[_read_run(results_dir, run, params) for run in runs],
        params=params,
    )
    _check_same_questions(report.runs)
    return report


def _read_run(results: Path, run: RequestedRun, params: ReportParams) -> Run:
    tuning, generation, scoring = "finetune_model", "generate_predictions", "score_predictions"
    steps = [tuning, generation] if run.is_trained else [generation]

    def path(folder: str, suffix: str) -> Path:
        return results / folder / run.model / f"{run.method}{suffix}"

    scores = _read_scores(scoring, path("scores", ".json"))
    rows, predictions = path("scores", ".rows.jsonl"), path("predictions", ".jsonl")
    training, curve = path("training", ".json"), path("curves", ".csv")
    answers = _read_rows(generation, path("examples", ".jsonl"), ("prompt", "predict"))
    return Run(
        model=run.model,
        method=run.method,
        entry=run.entry,
        seed=run.seed,
        tuning=params.methods.get(run.entry, run.entry),
        is_trained=run.is_trained,
        scores=scores,
        row_scores=_read_rows(scoring, rows, tuple(COMPARED), scores["rows"]),
        predictions=_read_rows(generation, predictions, ("labels",), scores["rows"]),
        example_responses={row["prompt"]: row for row in answers},
        probe=_read_rows(generation, path("probe", ".jsonl"), ("prompt", "labels", "predict")),
        training=_read_object(tuning, training, TRAINING_KEYS) if run.is_trained else {},
        curve=_read_curve(tuning, curve, "loss") if run.is_trained else [],
        dev_curve=_read_dev_curve(tuning, curve) if run.is_trained else [],
        runtimes={
            step: _read_object(step, path(f"runtime/{step}", ".json"), RUNTIME_KEYS)
            for step in steps
        },
    )


def _read_scores(step: str, path: Path) -> dict[str, Any]:
    scores = _read_object(step, path, SCORE_KEYS)
    missing = [name for name in PROTOCOLS if name not in (scores.get("protocols") or {})]
    if missing:
        raise DataError(
            f"{path}: no scores for {', '.join(missing)} under 'protocols'; an older version wrote "
            "the file; score again: "
            "`snakemake --cores 1 --forcerun score_predictions -- results/report.md`"
        )
    keys = [f"protocols.{name}.{score}" for name in PROTOCOLS for score in METRICS]
    _require_keys(scores, keys, str(path))
    return scores


def _check_same_questions(runs: Sequence[Run]) -> None:
    """Raise DataError unless all runs answered the same general questions, at least one."""
    first, *others = ([row["prompt"] for row in run.probe] for run in runs)
    for run, asked in zip(runs, (first, *others), strict=True):
        if not asked or asked != first:
            raise DataError(
                f"probe of {run.name}: different general questions than those of {runs[0].name} "
                f"({len(asked)} and {len(first)}); run generate_predictions again"
            )


def _read_own_answers(step: str, dataset: Path) -> list[str]:
    """Read the first training answers that were not mixed in; the whole file may be large."""
    path, train = dataset / "train.jsonl", read_json(dataset / "manifest.json")["train"]
    own = own_rows(train)
    _require_file(step, path)
    with path.open(encoding="utf-8") as lines:
        first = list(islice(lines, min(own, TRAINING_ANSWERS)))
    answers = []
    for number, line in enumerate(first, 1):
        try:
            answers.append(json.loads(line)["summary"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number}: not a row with 'summary' ({error}); delete the file and "
                "run again"
            ) from None
    return answers


def _read_object(step: str, path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The object of a JSON file that `step` writes."""
    _require_file(step, path)
    value = read_json(path)
    _require_keys(value, keys, str(path))
    return value


def _read_rows(
    step: str, path: Path, keys: Sequence[str], expected: int | None = None
) -> list[dict[str, Any]]:
    """Read the objects of a JSON Lines file that `step` writes; require `expected` if given."""
    _require_file(step, path)
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        _require_keys(row, keys, f"{path}: line {number}")
    if expected is not None and len(rows) != expected:
        raise DataError(
            f"{path}: {len(rows)} rows; expected {expected}, the number scored; "
            "score the predictions again"
        )
    return rows


def _require_file(step: str, path: Path) -> None:
    """Raise DataError if the file is missing, naming the step that writes it."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the step {step} writes it: run "
            "`snakemake --cores 1 results/report.md`"
        )


def _require_keys(value: Any, keys: Sequence[str], where: str) -> None:
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


def _read_dev_curve(step: str, path: Path) -> list[tuple[int, float]]:
    """Read the losses that chose the best step: of valid rows if there are any, else of dev."""
    _require_file(step, path)
    with path.open(encoding="utf-8") as lines:
        has_valid = "valid_loss" in next(lines, "")
    return _read_curve(step, path, "valid_loss" if has_valid else "dev_loss")


def _read_curve(step: str, path: Path, column: str) -> list[tuple[int, float]]:
    """Read (step, value) for the rows that have a value in the column."""
    _require_file(step, path)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines)
        x, y = header.index("step"), header.index(column)
        return [(int(row[x]), float(row[y])) for row in rows if row[y]]
    except (IndexError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a loss curve ({error}); delete it and run again") from None
