"""The settings from params.yaml for preparing a model; needs no torch.

params.yaml explains each key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MiniatureSettings:
    """The keys of params.yaml's `miniature`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    rows: int
    literal_share: float
    general_share: float
    lr: float
    max_steps: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """An entry of `models:` with its family; None marks a key that it or its source lacks."""

    source: str
    family: str
    seed: int
    revision: str | None = None
    tokenizer: str | None = None
    template: str | None = None
    config: Mapping[str, Any] | None = None
    # For the sources miniature and random; the latter needs it for its vocabulary.
    miniature: MiniatureSettings | None = None
    torch_threads: int | None = None
