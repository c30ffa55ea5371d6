"""config.json: the architecture it describes, and its values under their official names."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from transformers import PreTrainedModel

from glmtune.checkpoints.config_checks import checked_values
from glmtune.errors import WeightsError
from glmtune.families.registry import get_family
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.chatglm import ChatGLMForConditionalGeneration
from glmtune.modeling.chatglm2 import ChatGLM2ForConditionalGeneration

ARCHITECTURES: tuple[type[ChatGLMCausalLM], ...] = (
    ChatGLMForConditionalGeneration,
    ChatGLM2ForConditionalGeneration,
)
# rope_ratio of published models, or (rope_ratio, seq_length) -> whether positions are divided by
# it: ChatGLM2-6B-32K; ChatGLM3-6B-32K, ChatGLM3-6B-128K and GLM-4-9B-Chat, GLM-4-9B-Chat-1M, whose
# values no ChatGLM2-6B has.
PUBLISHED_RATIOS: dict[Any, bool] = {(16, 32768): True, 50: False, 500: False, 10_000: False}


def model_class_of(
    values: dict[str, Any], family: str | None, source: str
) -> type[ChatGLMCausalLM]:
    """Return the model class for config.json values, which must fit `family` if it is given."""
    found = _architecture(values)
    if found is None:
        raise WeightsError(
            f"{source}: found model_type {values.get('model_type')!r} without the keys of "
            "ChatGLM-6B (inner_hidden_size) or of ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B "
            "(padded_vocab_size); expected a model of one of these families"
        )
    if family is not None:
        wanted = get_family(family)
        expected = _architecture(wanted.real_config)
        if found is not expected:
            keys = (
                " and ".join(expected.config_class.distinguishing_keys)
                if expected
                else "other keys"
            )
            raise WeightsError(
                f"{source}: found a model of another family; expected {wanted.title}, whose config "
                f"has {keys}"
            )
    return found


def _architecture(values: dict[str, Any]) -> type[ChatGLMCausalLM] | None:
    """Return the class whose distinguishing keys config.json has, if it is exactly one."""
    found = [
        a for a in ARCHITECTURES if any(key in values for key in a.config_class.distinguishing_keys)
    ]
    return found[0] if len(found) == 1 else None


def make_config(
    model_class: type[ChatGLMCausalLM], values: dict[str, Any], family: str | None, source: str
) -> Any:
    """Return the configuration object; raises WeightsError for unsupported values."""
    config_class = model_class.config_class
    kept = checked_values(known_keys(model_class), config_class.required_values, values, source)
    config = config_class(**kept)
    if problem := config.misfit():
        raise WeightsError(f"{source}: {problem}")
    if "rope_ratio" in kept:
        config.interpolates_positions = interpolates_positions(values, family, source)
    return config


def known_keys(model_class: type[ChatGLMCausalLM]) -> dict[str, Any]:
    """The keys of config.json that an architecture reads, with their defaults."""
    config_class = model_class.config_class
    fields = {field.name: field.default for field in dataclasses.fields(config_class)}
    return {name: fields[name] for name in config_class.__annotations__ if name in fields}


def interpolates_positions(values: dict[str, Any], family: str | None, source: str) -> bool:
    """Return whether `rope_ratio` divides the positions; otherwise it multiplies the rotary base.

    The family decides; else the key that this project writes; else the published model with these
    values. Raises WeightsError if these disagree or none of them is available.
    """
    ratio, length = values["rope_ratio"], values.get("seq_length")
    if ratio == 1:
        return False
    published = PUBLISHED_RATIOS.get(ratio, PUBLISHED_RATIOS.get((ratio, length)))
    settled = values.get("interpolates_positions", published)
    wanted = get_family(family).interpolates_positions if family else settled
    if wanted is None:
        raise WeightsError(
            f"{source}: rope_ratio {ratio!r}: ChatGLM2-6B divides positions by it, ChatGLM3-6B and "
            "GLM-4-9B multiply the rotary base by it, and the config does not say which of them "
            "this is; pass family='chatglm2-6b', family='chatglm3-6b-base' or family='glm-4-9b' to "
            "load_model, or --family to export_model.py"
        )
    if settled not in (None, wanted):
        owner = "ChatGLM2-6B" if settled else "ChatGLM3-6B or GLM-4-9B"
        raise WeightsError(
            f"{source}: rope_ratio {ratio!r} with seq_length {length}: a model of {owner}; found "
            f"family {family}; expected the family of {owner}"
        )
    return wanted


def config_values(model: PreTrainedModel) -> dict[str, Any]:
    """The config.json values of `model`, as `load_model` and `build_model` take them."""
    config, model_class = model.config, cast(type[ChatGLMCausalLM], type(model))
    values = {name: getattr(config, name) for name in known_keys(model_class)}
    if values.get("rope_ratio") == 1:
        del values["interpolates_positions"]  # a key that only this project uses
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return {
        **{name: value for name, value in values.items() if value is not None},
        "architectures": [type(model).__name__],
        "model_type": config.model_type,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
