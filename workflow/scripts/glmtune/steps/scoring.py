"""Scores a predictions file: the means as JSON, each row's scores as JSON Lines."""

from __future__ import annotations

from pathlib import Path

from glmtune.files import write_json, write_jsonl
from glmtune.metrics.pairs import load_dictionary
from glmtune.metrics.predictions import read_predictions
from glmtune.metrics.summary import score_predictions
from glmtune.metrics.table import describe_scores

load_dictionary()  # once, in the server that imports this module and then forks for each file


def score(
    *,
    predictions: Path,
    metrics: Path,
    rows: Path | None,
    protocol: str,
    workers: int,
    quiet: bool,
) -> None:
    """Score `predictions` and write `metrics` and `rows`; unless `quiet`, print the table."""
    scores = score_predictions(read_predictions(predictions), protocol, workers=workers)
    if rows is not None:
        write_jsonl(rows, scores.rows)
    write_json(metrics, scores.summary)
    if not quiet:
        print(describe_scores(scores.summary))
