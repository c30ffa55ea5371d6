"""Notes on single trainings: unusual learning rates or losses, and early stopping."""

from __future__ import annotations

from dataclasses import dataclass

from glmtune.report.contents import Report, Run, finite
from glmtune.report.markdown import plain

SIX_BILLION = 5e9  # parameters; at least this many count as a 6B model


@dataclass(frozen=True)
class Band:
    """Training losses on ADGEN by one tuning method."""

    published: str
    low: float
    high: float


# ChatGLM-6B and ChatGLM2-6B: THUDM's ptuning/README.md and logs published by users, widened by
# about 0.3 because steps, batches and limits differ.
BANDS = {
    "full": Band("3.00", 2.7, 3.4),
    "lora": Band("3.22 to 3.44", 2.9, 3.8),
    "ptuning": Band("3.45 to 3.95", 3.1, 4.2),
}


def training_notes(report: Report) -> list[str]:
    """One line per note on a training."""
    notes = [
        f"- {run.name}: {plain(note)}."
        for run in report.runs
        for note in (*run.training.get("notes", ()), *_early_end_notes(run))
    ]
    return notes + _loss_notes(report)


def _early_end_notes(run: Run) -> list[str]:
    """Say where a training ended, unless it kept the weights of its last planned step."""
    if not run.is_trained:
        return []
    steps, planned = run.training["steps"], run.training["settings"].get("max_steps")
    best = run.training["best_step"]
    notes = []
    if planned is not None and steps < planned:
        notes.append(f"stopped after {steps} of {planned} steps: the dev loss stopped falling")
    if best is not None and best != steps:
        notes.append(f"kept the weights of step {best}, which has the lowest dev loss")
    return notes


def _loss_notes(report: Report) -> list[str]:
    """One line per run with an unusual loss, for 6B models on ADGEN only.

    Random weights are skipped: their loss is always outside the published range.
    """
    if report.dataset["source"]["kind"] != "adgen":
        return []
    large = {
        model
        for model, manifest in report.models.items()
        if manifest["source"] != "random" and (report.parameters_of(model) or 0) >= SIX_BILLION
    }
    return [note for run in report.runs if run.model in large for note in _loss_note(run)]


def _loss_note(run: Run) -> list[str]:
    loss, band = finite(run.training.get("train_loss")), BANDS.get(run.tuning)
    if loss is None or band is None or band.low <= loss <= band.high:
        return []
    return [
        f"- {run.name}: train loss {loss:.2f} is outside {band.low} to {band.high}; published runs "
        f"of {run.tuning} on ADGEN ended at {band.published}."
    ]
