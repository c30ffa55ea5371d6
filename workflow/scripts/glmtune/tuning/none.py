"""No tuning: the baseline every other method is compared with."""

from __future__ import annotations

from typing import Any

from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.settings import TuningSettings


def _refuse(*_: Any) -> Any:
    raise ValueError("method 'none' trains nothing")


def _prepare(model: ChatGLMCausalLM, settings: TuningSettings) -> ChatGLMCausalLM:
    return _refuse()


NONE = TuningMethod("none", "untuned", _prepare, _refuse, locate=None)
