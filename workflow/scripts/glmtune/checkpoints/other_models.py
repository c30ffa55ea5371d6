"""Models that look like ours and are not: recognised by config.json and refused by name.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmtune.errors import WeightsError

# model_type in config.json -> what is different.
OTHER_MODELS = {
    "glm4": "a GLM-4-0414 or GLM-Z1 model, whose layers have two more norms",
    "glm4_moe": "a GLM-4.5 model or a later one, whose layers are mixtures of experts",
    "glm4v": "a GLM-4.1V model, which reads images",
}


def refuse_other_models(values: Mapping[str, Any], source: str) -> None:
    """WeightsError for config.json values of a GLM that no family here describes."""
    if what := _other_model(values):
        raise WeightsError(
            f"{source}: found {what}; expected GLM-4-9B, GLM-4-9B-Chat or GLM-4-9B-Chat-1M, or a "
            "ChatGLM; use one of these"
        )


def _other_model(values: Mapping[str, Any]) -> str | None:
    kind = values.get("model_type")
    if kind == "glm" and rotary_values(values).get("partial_rotary_factor", 0.5) != 0.5:
        return "a GLM-Edge model, which rotates whole heads and has its own vocabulary"
    if "vision_config" in values and kind == "chatglm":
        return "GLM-4V-9B, which reads images"
    return OTHER_MODELS.get(kind) if isinstance(kind, str) else None


def rotary_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """How transformers' config.json describes positions; version 5 has one key, 4 had three."""
    names = ("rope_theta", "partial_rotary_factor")
    nested = [values.get("rope_scaling"), values.get("rope_parameters")]
    merged = {name: values[name] for name in names if values.get(name) is not None}
    for part in nested:
        merged |= part if isinstance(part, dict) else {}
    return merged
