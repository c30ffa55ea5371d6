"""Checks of config.json. The file is untrusted: only checked keys reach transformers.

A key that this project does not read is dropped and named in the log, because transformers acts
on many of them: `attn_implementation` may name code on a hub, `num_labels` allocates memory. A key
that changes what the model computes is refused.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from glmtune.errors import WeightsError, shown_name
from glmtune.modeling.precision import BITS

# Keys of published configs that do not describe the architecture: code to run (never), paths, the
# library's version, and the sizes of a prefix, which are read from its tensors.
DROPPED_KEYS = (
    *("auto_map", "_name_or_path", "architectures", "transformers_version", "model_type"),
    *("torch_dtype", "dtype", "pre_seq_len", "prefix_projection"),
)
# Switches of published models that affect the speed of the official code, not its results.
SPEED_KEYS = (
    *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion"),
    *("torchscript", "return_dict", "output_attentions", "output_hidden_states"),
)
SHOWN = 8


@dataclass(frozen=True)
class Numbers:
    """A range of numbers from `low` to `high`; integers unless `real`."""

    low: float
    high: float
    real: bool = False
    optional: bool = False
    several: bool = False  # allows a list of such numbers, too

    def allow(self, value: Any) -> bool:
        """Return whether a JSON value is in the range."""
        if value is None:
            return self.optional
        if self.several and isinstance(value, list) and value:
            return all(map(replace(self, optional=False, several=False).allow, value))
        types = (int, float) if self.real else (int,)
        is_number = isinstance(value, types) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # false for NaN

    def __str__(self) -> str:
        ends = f"from {self.low:,} to {self.high:,}"
        return f"a {'number' if self.real else 'whole number'} {ends}"


WIDTH, TOKEN_ID = Numbers(1, 1_000_000), Numbers(0, 10_000_000, optional=True)
VOCABULARY, LENGTH = Numbers(1, 10_000_000), Numbers(1, 1_000_000_000)
DROPOUT = Numbers(0, 0.999, real=True)
NUMBERS = {
    "num_layers": Numbers(1, 1_000),  # every layer is built, however small it is
    **dict.fromkeys(("hidden_size", "inner_hidden_size", "ffn_hidden_size", "kv_channels"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "multi_query_group_num"), WIDTH),
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("max_sequence_length", "seq_length"), LENGTH),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN_ID),
    **dict.fromkeys(("mask_token_id", "gmask_token_id"), TOKEN_ID),
    **dict.fromkeys(("hidden_dropout", "attention_dropout"), DROPOUT),
    "eos_token_id": Numbers(0, 10_000_000, optional=True, several=True),
    "layernorm_epsilon": Numbers(1e-12, 0.1, real=True),
    "rope_ratio": Numbers(0.001, 1_000_000, real=True),
}


def _quantized_by_others(value: Any) -> str:
    method = value.get("quant_method") if isinstance(value, dict) else None
    by = f"by {method.upper()[:20]}" if isinstance(method, str) else "by another program"
    return (
        f"found weights quantized {by}; expected full precision, or the official quantized format "
        "(quantization_bit)"
    )


# Keys that change the computation, unless empty -> the message.
REFUSED: dict[str, Callable[[Any], str]] = {
    "quantization_config": _quantized_by_others,
    "quantization_embeddings": lambda _: (
        "found quantized embeddings, as in chatglm-6b-int4-qe; expected embeddings in full "
        "precision; use chatglm-6b-int4"
    ),
    "rope_scaling": lambda _: (
        "found position scaling that no published model uses; expected none (rope_ratio is "
        "supported)"
    ),
}


# Keys of other programs; only the value of all published models is supported.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "rope_theta": (10_000,),
    "rotary_percent": (0.5,),
    "partial_rotary_factor": (0.5,),
    "interleaved_qkv": (False,),
    "sliding_window": (False,),
}


def checked_values(
    known: Mapping[str, Any],
    required_values: Mapping[str, bool],
    values: Mapping[str, Any],
    source: str,
) -> dict[str, Any]:
    """Return the values of the `known` keys (name -> default); WeightsError for an invalid one.

    `required_values` are switches with their only supported value.
    """
    for name, explain in REFUSED.items():
        if values.get(name):
            raise WeightsError(f"{source}: {name}: {explain(values[name])}")
    for name, allowed in SUPPORTED_VALUES.items():
        if values.get(name) is not None and values[name] not in allowed:
            raise WeightsError(
                f"{source}: {name}: found {repr(values[name])[:60]}; expected {allowed[0]}, as in "
                "all published models"
            )
    kept = {n: v for n, v in values.items() if n in known and v is not None}
    for name, value in kept.items():
        if expected := _expected(name, value, known[name], required_values):
            shown = repr(value)[:60]
            raise WeightsError(f"{source}: {name}: found {shown}; expected {expected}")
    return kept


def _expected(
    name: str, value: Any, default: Any, required_values: Mapping[str, bool]
) -> str | None:
    """Return what was expected instead of a value; None if the value is valid."""
    if name in required_values:
        only = required_values[name]
        return None if value is only else f"{only}, as in all published models"
    if name in NUMBERS:
        return None if NUMBERS[name].allow(value) else str(NUMBERS[name])
    if name == "quantization_bit":
        is_known = type(value) is int and value in (0, *BITS)
        return None if is_known else "0, 4 or 8"
    assert isinstance(default, bool), f"{name} needs a rule"
    return None if isinstance(value, bool) else "true or false"


def ignored_keys(known: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return the keys that this project ignores but another program may use."""
    return shown_keys(values, {*known, *DROPPED_KEYS, *SPEED_KEYS, *REFUSED, *SUPPORTED_VALUES})


def shown_keys(values: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """Return the non-empty keys that are not in `read`, in printable characters."""
    names = [shown_name(name, 40) for name, value in values.items() if name not in read and value]
    rest = len(names) - SHOWN
    return names[:SHOWN] + ([f"and {rest} more"] if rest > 0 else [])


@functools.cache
def report_ignored_keys(source: str, names: tuple[str, ...]) -> None:
    """Report once which keys of a file are ignored."""
    if names:
        print(f"{source}: ignored keys: {', '.join(names)}", file=sys.stderr)
