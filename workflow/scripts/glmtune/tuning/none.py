"""No tuning: the baseline every other method is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmtune.checkpoints.base_model import open_model
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.settings import TuningSettings


def _refuse(*_: Any) -> Any:
    raise ValueError("method 'none' trains nothing")


def _prepare(model: ChatGLMCausalLM, settings: TuningSettings) -> ChatGLMCausalLM:
    return _refuse()


def _restore(base: Path, checkpoint: Path | None, **where: Any) -> ChatGLMCausalLM:
    return open_model(base, **where)


NONE = TuningMethod("none", "untuned", _prepare, _refuse, _restore)
