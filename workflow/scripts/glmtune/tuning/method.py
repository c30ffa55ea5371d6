"""What a tuning method has to say: which weights it trains, and how they are kept and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.modeling.causal_lm import ChatGLMCausalLM


@dataclass(frozen=True)
class TuningMethod:
    """A tuning method as three functions; training and generation know nothing else of it.

    `prepare(model, settings)` returns the model to train: exactly the method's own weights, in
    float32, require gradients; `settings` are of the method's class in settings.py.
    `save(model, folder, base)` writes those weights in the form the field uses.
    `restore(base, checkpoint, **where)` loads the base model at folder `base` with them, in eval
    mode; `where` are the keywords of `open_model`.
    """

    name: str
    title: str
    prepare: Callable[[ChatGLMCausalLM, Any], ChatGLMCausalLM]
    save: Callable[[ChatGLMCausalLM, Path, Path], None]
    restore: Callable[..., ChatGLMCausalLM]
    usual_lr: tuple[float, float] | None = None
    """The learning rates at which published trainings of 6B models are, with some room."""
    trains_base: bool = False
    """The base model itself is trained, so it is opened in float32, not in the half precision that
    suffices for frozen weights and would round what the training starts from."""


def freeze(model: ChatGLMCausalLM) -> None:
    """Take every weight out of training."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
