"""transformers' own layout of the second architecture: GlmForCausalLM and its config.json.

The same model under other names: nothing is permuted, but queries, keys and values are apart.
GLM-4's `-hf` folders have it, and exports are written in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from glmtune.checkpoints.other_models import rotary_values
from glmtune.errors import WeightsError
from glmtune.modeling.chatglm2 import ROTARY_BASE, ChatGLM2Config

# GlmConfig's key -> the official one.
CONFIG_NAMES = {
    "vocab_size": "padded_vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "multi_query_group_num",
    "head_dim": "kv_channels",
    "attention_bias": "add_qkv_bias",
    "attention_dropout": "attention_dropout",
    "rms_norm_eps": "layernorm_epsilon",
    "max_position_embeddings": "seq_length",
    "use_cache": "use_cache",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
}
# Parts of names of tensors, official -> transformers'.
RENAMED = {
    "transformer.output_layer.": "lm_head.",
    "transformer.embedding.word_embeddings.": "model.embed_tokens.",
    "transformer.encoder.final_layernorm.": "model.norm.",
    "transformer.encoder.layers.": "model.layers.",
    ".self_attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
FUSED = ".self_attention.query_key_value."
# Keys of GlmConfig that the official config expresses differently, or that have one value.
REPLACED = {"architectures", "hidden_act", "initializer_range", "rope_parameters", "rope_theta"}
REPLACED |= {"partial_rotary_factor", "rope_scaling"}


def official_values(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """config.json values of GlmForCausalLM under their official names; others as they are.

    Raises WeightsError for positions that no GLM of this layout has.
    """
    if values.get("model_type") != "glm":
        return dict(values)
    kept = {name: value for name, value in values.items() if name not in REPLACED}
    named = {CONFIG_NAMES.get(name, name): value for name, value in kept.items()}
    return named | {"model_type": ChatGLM2Config.model_type} | _rope_ratio(values, source)


def _rope_ratio(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The rotary angles in the official keys."""
    rotary = rotary_values(values)
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    theta = rotary.get("rope_theta", ROTARY_BASE)
    ratio = rotary.get("factor") if kind == "linear" else None
    numbers = [theta] if ratio is None else [theta, ratio]
    is_known = all(type(number) in (int, float) and 0 < number < 1e12 for number in numbers)
    if is_known and kind == "default":
        return {"rope_ratio": _plain(theta / ROTARY_BASE), "interpolates_positions": False}
    if is_known and kind == "linear" and ratio is not None and theta == ROTARY_BASE:
        return {"rope_ratio": _plain(ratio), "interpolates_positions": True}
    raise WeightsError(
        f"{source}: rope_parameters: found {repr(rotary)[:80]}; expected rope_type default, or "
        f"linear with a factor and rope_theta {ROTARY_BASE}"
    )


def _plain(ratio: float) -> float | int:
    return int(ratio) if float(ratio).is_integer() else ratio


def official_weights(
    weights: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of GlmForCausalLM under their official names; others as they are.

    Holds queries, keys and values of a layer until all three are there: weights (rows, hidden) and
    biases (rows,), one below the other. What is incomplete comes last, under its own name.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights:
        if not name.startswith("model."):
            yield name, tensor
            continue
        official = name
        for ours, theirs in RENAMED.items():
            official = official.replace(theirs, ours)
        letter = next((c for c in "qkv" if f".self_attn.{c}_proj." in official), None)
        if letter is None:
            yield official, tensor
            continue
        fused = official.replace(f".self_attn.{letter}_proj.", FUSED)
        found = parts.setdefault(fused, {})
        found[letter] = tensor
        if len(found) == 3:
            del parts[fused]
            yield fused, torch.cat([found[c] for c in "qkv"])
    for fused, found in parts.items():
        for letter, tensor in found.items():
            yield fused.replace(FUSED, f".self_attn.{letter}_proj."), tensor


def glm_config(config: ChatGLM2Config, stop_ids: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """The values of transformers' config.json."""
    rotary = _rope_parameters(config)
    return {
        **{new: getattr(config, old) for new, old in CONFIG_NAMES.items()},
        "architectures": ["GlmForCausalLM"],
        "eos_token_id": list(stop_ids),
        "hidden_act": "silu",
        "model_type": "glm",
        # Transformers 5 reads the first, version 4 the others.
        "rope_parameters": rotary,
        "rope_theta": rotary["rope_theta"],
        "partial_rotary_factor": rotary["partial_rotary_factor"],
        **({"rope_scaling": rotary} if config.interpolates_positions else {}),
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }


def _rope_parameters(config: ChatGLM2Config) -> dict[str, Any]:
    """The rotary angles in the keys of transformers."""
    half = {"partial_rotary_factor": 0.5}
    if config.interpolates_positions:
        scaling = {"rope_type": "linear", "factor": float(config.rope_ratio)}
        return {**scaling, "rope_theta": float(ROTARY_BASE), **half}
    theta = float(ROTARY_BASE * config.rope_ratio)
    return {"rope_type": "default", "rope_theta": theta, **half}


def glm_state(state: dict[str, torch.Tensor], config: ChatGLM2Config) -> dict[str, torch.Tensor]:
    """The tensors under transformers' names; the rows of queries, keys and values apart."""
    widths = [
        config.kv_channels * heads
        for heads in (
            config.num_attention_heads,
            config.multi_query_group_num,
            config.multi_query_group_num,
        )
    ]
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if FUSED not in name:
            renamed[name] = tensor
            continue
        for letter, rows in zip("qkv", tensor.split(widths), strict=True):
            # A copy: a file cannot hold views of one tensor.
            renamed[name.replace(FUSED, f".self_attn.{letter}_proj.")] = rows.clone()
    return renamed
