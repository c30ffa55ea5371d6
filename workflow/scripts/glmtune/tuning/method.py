"""The interface of a tuning method: which weights it trains, how they are saved and found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.checkpoints.prepared import ModelRef
from glmtune.errors import ParamsError
from glmtune.modeling.causal_lm import ChatGLMCausalLM


@dataclass(frozen=True)
class TuningMethod:
    """A tuning method as three functions; training and prediction know nothing else about it.

    `prepare(model, settings)` returns the model to train: exactly the method's own weights, in
    float32, require gradients; `settings` are of the method's class in settings.py.
    `save(model, folder, base)` writes those weights in their usual file format.
    `locate(base, checkpoint)` tells `open_prepared` which of the two folders is the model, and
    which its prefix or adapter; None for the method that tunes nothing.
    """

    name: str
    title: str
    prepare: Callable[[ChatGLMCausalLM, Any], ChatGLMCausalLM]
    save: Callable[[ChatGLMCausalLM, Path, Path], None]
    locate: Callable[[Path, Path], ModelRef] | None
    usual_lr: tuple[float, float] | None = None
    """The range of learning rates in published trainings of 6B models, with some margin."""
    rates: Callable[[Any], Mapping[str, float]] = lambda settings: {}
    """Parts of weights' names -> factor of their learning rate, by the settings."""
    trains_base: bool = False
    """The base model itself is trained, so it is opened in float32: half precision suffices for
    frozen weights, but would round the weights that the training starts from."""


def tuned_model(method: TuningMethod, base: Path, checkpoint: Path | None) -> ModelRef:
    """The prepared model `base` with what `method` saved in `checkpoint`, for `open_prepared`.

    Raises ParamsError if the method needs a checkpoint and there is none.
    """
    if method.locate is None:
        return ModelRef(base)
    if checkpoint is None:
        raise ParamsError(
            f"method {method.name}: found no checkpoint; expected the folder that its training "
            "wrote, with its manifest"
        )
    return method.locate(base, checkpoint)


def freeze(model: ChatGLMCausalLM) -> None:
    """Freeze every weight of `model`."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
