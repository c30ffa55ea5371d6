"""Load LoRA adapters in PEFT's format into a model.

Configs of old PEFT versions and forks contain keys that today's PEFT does not know; they are
dropped. So are the parts that savers other than PEFT's add to tensor names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glmtune.checkpoints.adapter_checks import ignored_keys, lora_arguments
from glmtune.checkpoints.config_checks import report_ignored_keys
from glmtune.checkpoints.dora import fix_dora
from glmtune.checkpoints.tensors import read_config, read_weights
from glmtune.errors import WeightsError, shown_name
from glmtune.modeling.quantization import QuantizedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# The adapter's name, which state dicts contain and PEFT's files leave out.
OWN_NAME = re.compile(
    r"(?<=\.lora_[AB])\.default(?=\.)|(?<=\.lora_magnitude_vector)\.default(\.weight)?$"
)
SHOWN = 5


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Load the LoRA adapter in `folder` into `model`, unmerged, to answer and not to train on.

    WeightsError if it does not fit.
    """
    import peft

    source, values = str(folder / CONFIG_FILE), read_config(folder, CONFIG_FILE)
    state = {OWN_NAME.sub("", name): tensor for name, tensor in read_weights(_weights(folder))}
    arguments = lora_arguments(values, state, source)
    if arguments.get("use_dora"):
        _refuse_quantized_base(model, source)
    report_ignored_keys(source, tuple(ignored_keys(values)))
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(**arguments), model)
    except ValueError as error:
        raise WeightsError(f"{source}: does not fit this model: {error}") from None
    # Without save_embedding_layers=False PEFT asks the network for the base model's config.
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    _refuse_unmatched_adapter(folder, state, expected, values)
    for name, module in model.named_modules():
        if name.endswith(".lora_magnitude_vector"):
            module.float()
    peft.set_peft_model_state_dict(model, state)
    fix_dora(model)


def _refuse_quantized_base(model: PreTrainedModel, source: str) -> None:
    """Refuse a base whose weights' rows have no length that DoRA could use."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            raise WeightsError(
                f"{source}: use_dora: computes with the base's own weights, which are quantized to "
                f"{module.bits} bits; expected the base in half or full precision; use that, or "
                "merge into it and quantize the result"
            )


def _weights(folder: Path) -> Path:
    """The adapter's own weight file; a trainer's checkpoint may also contain a model's weights."""
    return next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), folder)


def _refuse_unmatched_adapter(
    folder: Path,
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    values: dict[str, Any],
) -> None:
    """Raise WeightsError unless names and shapes agree."""
    problems = [f"{name}: missing" for name in expected if name not in found]
    problems += [f"{shown_name(name)}: unexpected" for name in found if name not in expected]
    for name in found.keys() & expected.keys():
        if found[name].shape != expected[name].shape:
            sizes = ("x".join(map(str, t.shape)) for t in (found[name], expected[name]))
            problems.append("{}: found {}, expected {}".format(name, *sizes))
    if not problems:
        return
    hint = "was it tuned on another model?"
    if values.get("enable_lora"):
        hint = (
            "its config has enable_lora, which tunes only parts of query_key_value and is not "
            "supported"
        )
    shown = "; ".join(sorted(problems)[:SHOWN])
    raise WeightsError(f"{folder}: {len(problems)} tensors do not fit this model: {shown}; {hint}")
