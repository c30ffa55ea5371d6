"""What adapter_config.json may hold. The file is foreign: nothing else of it reaches PEFT.

PEFT imports a module that it names (`megatron_core`), runs its regular expressions, and allocates
the rank it states. So keys are known, typed and ranged; patterns are names; ranks are those of the
tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from glmtune.checkpoints.config_checks import Numbers, shown_keys
from glmtune.errors import WeightsError

# Names of modules, perhaps anchored: no regular expression that could take forever.
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
NAMES = "a list of names of modules"
# Key -> what it may be, and that in words. Null is PEFT's default everywhere.
KNOWN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (RANK.allow, str(RANK)),
    "lora_alpha": (ALPHA.allow, str(ALPHA)),
    "lora_dropout": (DROPOUT.allow, str(DROPOUT)),
    "target_modules": (_are_names, NAMES),
    "exclude_modules": (_are_names, NAMES),
    "modules_to_save": (_are_names, NAMES),
    "layers_to_transform": (_are_layers, "numbers of layers"),
    "layers_pattern": (lambda value: _is_name(value) or _are_names(value), NAMES),
    "rank_pattern": (_by_name(RANK), "ranks by names of modules"),
    "alpha_pattern": (_by_name(ALPHA), "numbers by names of modules"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias"), (_is_switch, "true or false")),
}
# They say how weights began, where they are from, or how to be faster.
DROPPED = (
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "fan_in_fan_out", "init_lora_weights", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
    *("runtime_config", "merge_weights", "enable_lora"),
)
# Ways to begin a training that take a part out of the base model's own weights.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# They change what an adapter computes, if they hold anything.
REFUSED = (
    *("megatron_config", "target_parameters", "trainable_token_indices", "layer_replication"),
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config"),
    *("monteclora_config", "alora_invocation_tokens"),
)


def lora_arguments(
    values: Mapping[str, Any], state: Mapping[str, torch.Tensor], source: str
) -> dict[str, Any]:
    """The arguments of PEFT's LoraConfig, of an adapter with these tensors.

    `state` has names without wrappers. Raises WeightsError for a value that cannot be.
    """
    kind = values.get("peft_type")
    if kind != "LORA":
        raise WeightsError(
            f"{source}: peft_type: found {repr(kind)[:60]}; expected 'LORA' "
            "(a P-Tuning v2 prefix is given as prefix, not as adapter)"
        )
    begun = values.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(CHANGE_THE_BASE):
        raise WeightsError(
            f"{source}: init_lora_weights: found {begun[:40]!r}, which changed the base model too; "
            "expected plain LoRA: convert it with PEFT (path_initial_model_for_weight_conversion)"
        )
    if found := [name for name in REFUSED if values.get(name)]:
        raise WeightsError(f"{source}: {found[0]}: not supported; expected plain LoRA")
    given = {n: v for n, v in values.items() if n in KNOWN and v is not None}
    if isinstance(given.get("target_modules"), str):
        # A regular expression, which is never run: the tensors say which modules it found.
        given["target_modules"] = _modules(state)
    for name, value in given.items():
        allows, expected = KNOWN[name]
        if not allows(value):
            raise WeightsError(f"{source}: {name}: found {repr(value)[:60]}; expected {expected}")
    _check_ranks(given, state, source)
    whole = [name for name in state if ".lora_" not in name]
    for module in given.get("modules_to_save", ()):  # PEFT would copy each
        if not any(f".{module}." in f".{name}" for name in whole):
            raise WeightsError(
                f"{source}: modules_to_save: found {module!r}; the tensors beside it have none "
                "of it"
            )
    return given


def unread_keys(values: Mapping[str, Any]) -> list[str]:
    """The keys that mean nothing here, but may to another program."""
    return shown_keys(values, {*KNOWN, *DROPPED, *REFUSED})


def _modules(state: Mapping[str, torch.Tensor]) -> list[str]:
    found = (name.partition(".lora_A.")[0] for name in state if ".lora_A." in name)
    return [name for name in found if _is_name(name)]


def _check_ranks(given: Mapping[str, Any], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Before PEFT makes room: no rank may be above those of the tensors."""
    ranks = [t.shape[0] for name, t in state.items() if ".lora_A." in name and t.ndim]
    stated = [given.get("r", 8), *given.get("rank_pattern", {}).values()]
    if not ranks:
        raise WeightsError(f"{source}: no LoRA tensors beside it; expected names with .lora_A.")
    if max(stated) > max(ranks):
        raise WeightsError(
            f"{source}: rank {max(stated)}; the tensors beside it have rank {max(ranks)}; is it "
            "the config of another adapter?"
        )
