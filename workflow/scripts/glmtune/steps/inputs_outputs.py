"""The files that steps read and write, grouped: a model with its manifests, the output folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A prepared or tuned model, with the manifests that its files must match."""

    folder: Path
    """Of the prepared model, as `prepare_model` writes it."""
    manifest: Path
    method: str = "none"
    """A key of METHODS: what it was tuned with."""
    checkpoint: Path | None = None
    """Of the training; None: the model is untuned."""
    training_manifest: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where a step writes."""

    out_dir: Path
    """An empty folder for the results."""
    resume_dir: Path
    """What a killed run resumes from."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where a training shows its losses while it runs; no part of what decides its result."""

    trackers: list[str]
    """Of `training.report_to`."""
    run: str
    """`model/method`."""
    folder: Path
    """Of the trackers' logs."""
