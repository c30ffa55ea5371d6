"""The settings of generation; params.yaml explains each key. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Which token comes next."""

    seed: int
    do_sample: bool
    top_p: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Decoding):
    """The keys of params.yaml's `generation`, with the seed."""

    max_new_tokens: int
    batch_size: int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(GenerationSettings):
    """All settings of a prediction step, as in its settings file."""

    torch_threads: int
    quantization_bit: int | None
    max_source_tokens: int
    long_history: str
    reference_tokens: int | None
    template: str | None
