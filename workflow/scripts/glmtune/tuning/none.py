"""No tuning: the baseline every other method is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from glmtune.checkpoints.base_model import open_model
from glmtune.tuning.method import Settings, TuningMethod


def _refuse(*_: Any) -> Any:
    raise ValueError("method 'none' trains nothing")


def _prepare(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    return _refuse()


def _restore(base: Path, checkpoint: Path | None, **where: Any) -> PreTrainedModel:
    return open_model(base, **where)


NONE = TuningMethod("none", "untuned", _prepare, _refuse, _restore)
