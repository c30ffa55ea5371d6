"""Checks of adapter_config.json. The file is untrusted: only checked keys reach PEFT.

PEFT imports a module that the file names (`megatron_core`), runs its regular expressions, and
allocates the rank it states. So every key must be known, of the right type and in range; patterns
must be plain names; no rank may exceed that of the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from glmtune.checkpoints.config_checks import Numbers, shown_keys
from glmtune.errors import WeightsError

# Module names, optionally anchored: no regular expression that could run forever.
NAME = re.compile(r"\^?(\.\*\\?\.)?\w+(\\?\.\w+)*\$?")
LONGEST_NAME, MOST_NAMES = 200, 10_000
RANK = Numbers(1, 65_536)
LAYER = Numbers(0, 1_000)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) < LONGEST_NAME and bool(NAME.fullmatch(value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) < MOST_NAMES and all(map(_is_name, value))


def _are_layers(value: Any) -> bool:
    return all(map(LAYER.allow, value)) if isinstance(value, list) else LAYER.allow(value)


def _by_name(numbers: Numbers) -> Callable[[Any], bool]:
    def allows(value: Any) -> bool:
        return isinstance(value, dict) and all(
            _is_name(name) and numbers.allow(number) for name, number in value.items()
        )

    return allows


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


ALPHA, DROPOUT = Numbers(1e-6, 1e6, real=True), Numbers(0, 0.999, real=True)
NAMES = "a list of module names"
# Key -> (check, expected value in words). Null always means PEFT's default.
KNOWN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (RANK.allow, str(RANK)),
    "lora_alpha": (ALPHA.allow, str(ALPHA)),
    "lora_dropout": (DROPOUT.allow, str(DROPOUT)),
    "target_modules": (_are_names, NAMES),
    "exclude_modules": (_are_names, NAMES),
    "modules_to_save": (_are_names, NAMES),
    "layers_to_transform": (_are_layers, "layer numbers"),
    "layers_pattern": (lambda value: _is_name(value) or _are_names(value), NAMES),
    "rank_pattern": (_by_name(RANK), "ranks by module name"),
    "alpha_pattern": (_by_name(ALPHA), "numbers by module name"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias"), (_is_switch, "true or false")),
}
# Keys about initialization, origin or speed: they do not affect what an adapter computes.
DROPPED = (
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "fan_in_fan_out", "init_lora_weights", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
    *("runtime_config", "merge_weights", "enable_lora", "qalora_group_size"),
)
# Initializations that move a part of the base model's weights into the adapter.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Keys that change what an adapter computes, unless empty.
REFUSED = (
    *("megatron_config", "target_parameters", "trainable_token_indices", "layer_replication"),
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config"),
    *("monteclora_config", "alora_invocation_tokens"),
)


def lora_arguments(
    values: Mapping[str, Any], state: Mapping[str, torch.Tensor], source: str
) -> dict[str, Any]:
    """Return the arguments of PEFT's LoraConfig for an adapter with the tensors `state`.

    Names in `state` have no wrapper prefixes. Raises WeightsError for an invalid value.
    """
    kind = values.get("peft_type")
    if kind != "LORA":
        raise WeightsError(
            f"{source}: peft_type: found {repr(kind)[:60]}; expected 'LORA' "
            "(pass a P-Tuning v2 prefix as prefix, not as adapter)"
        )
    begun = values.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(CHANGE_THE_BASE):
        raise WeightsError(
            f"{source}: init_lora_weights: found {begun[:40]!r}, which also changed the base "
            "model; expected plain LoRA; convert it with PEFT "
            "(path_initial_model_for_weight_conversion)"
        )
    if found := [name for name in REFUSED if values.get(name)]:
        raise WeightsError(f"{source}: {found[0]}: not supported; expected plain LoRA")
    given = {n: v for n, v in values.items() if n in KNOWN and v is not None}
    if isinstance(given.get("target_modules"), str):
        # A regular expression, which is never run: the tensors show which modules it matched.
        given["target_modules"] = _modules(state)
    for name, value in given.items():
        allows, expected = KNOWN[name]
        if not allows(value):
            raise WeightsError(f"{source}: {name}: found {repr(value)[:60]}; expected {expected}")
    _check_ranks(given, state, source)
    full_tensors = [name for name in state if ".lora_" not in name]
    for module in given.get("modules_to_save", ()):  # PEFT would copy each
        if not any(f".{module}." in f".{name}" for name in full_tensors):
            raise WeightsError(
                f"{source}: modules_to_save: found {module!r}; expected a module with tensors in "
                "the adapter's weight file"
            )
    return given


def ignored_keys(values: Mapping[str, Any]) -> list[str]:
    """Return the keys that this project ignores but another program may use."""
    return shown_keys(values, {*KNOWN, *DROPPED, *REFUSED})


def _modules(state: Mapping[str, torch.Tensor]) -> list[str]:
    found = (name.partition(".lora_A.")[0] for name in state if ".lora_A." in name)
    return [name for name in found if _is_name(name)]


def _check_ranks(given: Mapping[str, Any], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse ranks above those of the tensors, before PEFT allocates them."""
    ranks = [t.shape[0] for name, t in state.items() if ".lora_A." in name and t.ndim]
    stated = [given.get("r", 8), *given.get("rank_pattern", {}).values()]
    if not ranks:
        raise WeightsError(
            f"{source}: found no LoRA tensors in the weight file; expected names with .lora_A."
        )
    if max(stated) > max(ranks):
        raise WeightsError(
            f"{source}: found rank {max(stated)}; expected at most {max(ranks)}, the rank of the "
            "adapter's tensors; does the config belong to another adapter?"
        )
