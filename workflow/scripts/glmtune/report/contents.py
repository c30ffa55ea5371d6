"""What a report holds: runs, their models, their data, and how each run differs from its baseline.

Knows nothing about files or about how anything is shown.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmtune.errors import DataError
from glmtune.significance import Interval, paired_difference

COMPARED = {"bleu-4": "BLEU-4", "rouge-l": "ROUGE-L"}  # the scores with intervals


@dataclass(frozen=True)
class Run:
    """One model with one method: everything of the results tree that belongs to it."""

    model: str
    method: str  # an entry of `methods:` in params.yaml
    tuning: str  # the tuning method of that entry, e.g. lora
    is_trained: bool  # False: the model as it came
    scores: dict[str, Any]  # means, as score_predictions.py writes them
    row_scores: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    answers: dict[str, dict[str, Any]]  # example prompt -> {"predict"[, "labels"]}
    training: dict[str, Any]  # the manifest of the checkpoint; empty if not trained
    curve: list[tuple[int, float]]  # (step, loss); empty if not trained
    runtimes: dict[str, dict[str, Any]]  # step of the workflow -> seconds, memory, versions

    @property
    def name(self) -> str:
        """How prose and lists call it."""
        return f"{self.model} / {self.method}"

    @property
    def label(self) -> str:
        """How a table of methods calls it.

        Example: none -> "none (untuned)", an entry small with `method: lora` -> "small (lora)".
        """
        if not self.is_trained:
            return f"{self.method} (untuned)"
        return self.method if self.tuning == self.method else f"{self.method} ({self.tuning})"

    def column(self, score: str) -> list[float]:
        """One score of every row, in the order of the dev rows."""
        return [row[score] for row in self.row_scores]


@dataclass(frozen=True)
class Report:
    """All runs in display order, with what they were made from."""

    runs: list[Run]
    models: dict[str, dict[str, Any]]  # manifests
    dataset: dict[str, Any]  # manifest
    params: Mapping[str, Any]  # the checked values of params.yaml

    @property
    def examples(self) -> list[str]:
        """The user's own prompts."""
        return self.params["examples"]

    @property
    def rows(self) -> int:
        """How many dev rows each run answered."""
        return self.runs[0].scores["rows"]

    def runs_of(self, model: str) -> list[Run]:
        """The runs of one model, the untrained first."""
        runs = [run for run in self.runs if run.model == model]
        return sorted(runs, key=lambda run: run.is_trained)

    def baseline_of(self, model: str) -> Run | None:
        """The run that the others of a model are compared with: its first untrained one."""
        first = self.runs_of(model)[0]
        return None if first.is_trained else first

    @functools.cached_property
    def differences(self) -> dict[tuple[str, str, str], Interval]:
        """Run minus baseline by (model, method, score), for each run with a baseline.

        Raises DataError for a run that answered other rows than its baseline.
        """
        found = {}
        for model in self.models:
            baseline = self.baseline_of(model)
            if baseline is None:
                continue
            for run in self.runs_of(model)[1:]:
                _check_same_rows(run, baseline)
                for score in COMPARED:
                    key = (model, run.method, score)
                    found[key] = paired_difference(run.column(score), baseline.column(score))
        return found


def _check_same_rows(run: Run, baseline: Run) -> None:
    rows, expected = (
        [(row.get("prompt"), row["labels"]) for row in each.predictions] for each in (run, baseline)
    )
    if rows != expected:
        raise DataError(
            f"predictions of {run.name}: not the dev rows that {baseline.name} answered "
            f"({len(rows)} against {len(expected)} rows); generate and score both again"
        )
