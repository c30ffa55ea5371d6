"""Models from folders: official checkpoints, ours, with a prefix or a PEFT adapter.

Never runs code from a model folder, and unpickles nothing but tensors. Refuses a folder whose
tensors are not exactly those that its config.json needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.config import known_keys, make_config, model_class_of
from glmtune.checkpoints.config_checks import say_not_read, unread_keys
from glmtune.checkpoints.filling import fill
from glmtune.checkpoints.prefix import INFO_FILE, install_prefix, load_prefix
from glmtune.checkpoints.tensors import read_config, read_weights
from glmtune.checkpoints.weight_files import weight_files
from glmtune.devices import choose_device, parse_device, parse_dtype
from glmtune.errors import ParamsError, WeightsError
from glmtune.families.loading import refuse_first_release
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.precision import BITS
from glmtune.modeling.prefix import PREFIX_KEY
from glmtune.modeling.quantization import prepare_quantized

# A file that only they have, what they are, the option that takes them.
TUNED_PARTS = {
    "adapter_config.json": ("a PEFT adapter", "adapter"),
    INFO_FILE: ("a P-Tuning v2 prefix", "prefix"),
}


def load_model(
    path: Path | str,
    *,
    prefix: Path | str | None = None,
    adapter: Path | str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    quantization_bit: int | None = None,
    family: str | None = None,
) -> ChatGLMCausalLM:
    """The model in the folder `path`, official or ours, in eval mode: the door for users.

    Steps of the workflow open prepared models with `open_prepared` (`prepared.py`).
    `device` and `dtype` None are those of the workflow's steps: the GPU in 16 bits where there is
    one, else the CPU in float32; float32 also for a CPU that is named.
    `prefix` is a folder with a P-Tuning v2 prefix (kept in fp32), `adapter` a PEFT folder.
    `quantization_bit` 8 or 4 quantizes the linears of the layers in the official format, one by
    one as they are read: neither RAM nor the GPU ever holds the whole model in full precision.
    `family` names what is expected, such as "chatglm2-6b"; None takes what config.json says, which
    does not tell the long-context models of ChatGLM2 and ChatGLM3 apart unless they are published.
    Raises WeightsError with one message for anything that is wrong with the folders.
    """
    folder = Path(path)
    torch_dtype, torch_device = _dtype_and_device(dtype, device)
    values = read_model_config(folder)
    refuse_first_release(folder)
    model_class = model_class_of(values, family, source=str(folder / "config.json"))
    config = make_config(model_class, values, family, source=str(folder / "config.json"))
    unread = unread_keys(known_keys(model_class), values)
    say_not_read(str(folder / "config.json"), tuple(unread))
    _check_sizes(config, folder)
    bits = 0 if config.quantization_bit else quantization_bit
    config.quantization_bit = _bits(config.quantization_bit, quantization_bit, folder)
    model = _empty_model(model_class, config)
    own_prefix = fill(model, folder, torch_dtype, torch_device, bits or 0)
    if own_prefix and prefix is None:
        install_prefix(model, own_prefix, source=str(folder))
    return attach_parts(model, prefix, adapter)


def attach_parts(
    model: ChatGLMCausalLM, prefix: Path | str | None, adapter: Path | str | None
) -> ChatGLMCausalLM:
    """Put a prefix and an adapter from their folders into `model`, if given; in eval mode.

    Raises WeightsError for a folder that holds none, or one of another model.
    """
    if prefix is not None:
        load_prefix(model, prefix)
    if adapter is not None:
        load_adapter(model, Path(adapter))
    return model.eval()


def read_model_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder; WeightsError for a part of a model given as the model."""
    if not (folder / "config.json").is_file():
        for marker, (what, role) in TUNED_PARTS.items():
            if (folder / marker).is_file():
                raise WeightsError(
                    f"{folder}: {what}, not a model; give the folder of its base model and this "
                    f"one as {role}"
                )
    return read_config(folder)


def _dtype_and_device(
    dtype: str | torch.dtype | None, device: str | torch.device | None
) -> tuple[torch.dtype, torch.device]:
    """What was asked for; None: what the workflow's steps would use."""
    usual = choose_device()
    torch_device = parse_device(usual.name if device is None else device)
    if dtype is None:
        dtype = usual.dtype if torch_device.type == usual.name else "float32"
    return parse_dtype(dtype), torch_device


def _bits(stored: int, wanted: int | None, folder: Path) -> int:
    """In how many bits to hold the linears, 0 for whole; `stored` is how the files hold them."""
    if wanted not in (None, *BITS):
        raise ParamsError(f"quantization_bit: found {wanted!r}; expected None, 8 or 4")
    if stored and wanted not in (None, stored):
        raise WeightsError(
            f"{folder}: its weights are quantized to {stored} bits; found quantization_bit "
            f"{wanted}; set it to {stored} or leave it out"
        )
    return stored or wanted or 0


def _check_sizes(config: Any, folder: Path) -> None:
    """Refuse sizes that the weight files cannot hold, before a model of these sizes is built.

    What is wrong with the files themselves, or a folder that holds a prefix only, comes first.
    """
    stored = sum(path.stat().st_size for path in weight_files(folder))
    weights = config.matrix_weights()
    if weights <= 2 * stored:  # the official int4 takes half a byte a weight
        return
    names = [name for name, _ in read_weights(folder, quantized=True)]
    if not all(name.startswith(PREFIX_KEY) for name in names):
        raise WeightsError(
            f"{folder / 'config.json'}: describes a model with {weights:,} weights, but the "
            f"weight files hold only {stored:,} bytes; is a file missing, or is this the config "
            "of another model?"
        )


def _empty_model(model_class: type[ChatGLMCausalLM], config: Any) -> ChatGLMCausalLM:
    """A model without memory for its weights, so that loading needs them only once."""
    with torch.device("meta"):
        model = model_class(config)
    if config.quantization_bit:
        prepare_quantized(model, config.quantization_bit)
    return model
