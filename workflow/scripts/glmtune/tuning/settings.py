"""The tuning settings from params.yaml, by method; needs no torch.

One class per method, because a settings file has the keys of training and method side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from glmtune.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TuningSettings(TrainingSettings):
    """The settings of every method; full fine-tuning has no others."""

    method: str
    torch_threads: int
    quantization_bit: int | None


@dataclass(frozen=True, kw_only=True)
class PrefixSettings(TuningSettings):
    """P-Tuning v2."""

    pre_seq_len: int
    prefix_projection: bool
    prefix_dropout: float


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(TuningSettings):
    """LoRA and its variants; those whose keys params.yaml leaves out are off."""

    rank: int
    alpha: float
    dropout: float
    target_modules: list[str] | Literal["all-linear"]
    rslora: bool = False
    dora: bool = False
    init: Literal["default", "pissa", "olora"] = "default"
    lora_plus_ratio: float = 1


# By method, as in `METHODS` of registry.py; `none` trains nothing.
SETTINGS: dict[str, type[TuningSettings]] = {
    "ptuning": PrefixSettings,
    "lora": AdapterSettings,
    "full": TuningSettings,
}


def without_defaults(settings: TuningSettings) -> dict[str, Any]:
    """The keys and values of a settings file that leaves out each optional key at its default."""
    values = ((field, getattr(settings, field.name)) for field in fields(settings))
    return {field.name: value for field, value in values if value != field.default}


def settings_class(values: Mapping[str, Any]) -> type[TuningSettings]:
    """The class for a file's settings, by the method that they name."""
    return SETTINGS.get(str(values.get("method")), TuningSettings)


def pick_settings(values: Mapping[str, Any]) -> TuningSettings:
    """The settings of the method that `values` names, without the keys of other methods."""
    kind = settings_class(values)
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
