"""Load models from folders: official or transformers' layout, with a prefix or a PEFT adapter.

Never runs code from a model folder, and unpickles nothing but tensors. Refuses a folder whose
tensors are not exactly those that its config.json needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.config import known_keys, make_config, model_class_of
from glmtune.checkpoints.config_checks import ignored_keys, report_ignored_keys
from glmtune.checkpoints.filling import fill
from glmtune.checkpoints.other_models import refuse_other_models
from glmtune.checkpoints.prefix import INFO_FILE, install_prefix, load_prefix
from glmtune.checkpoints.tensors import read_config, read_weights
from glmtune.checkpoints.transformers_layout import official_values
from glmtune.checkpoints.weight_files import weight_files
from glmtune.devices import choose_device, parse_device, parse_dtype
from glmtune.errors import ParamsError, WeightsError
from glmtune.families.loading import refuse_first_release
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.precision import BITS
from glmtune.modeling.prefix import PREFIX_KEY
from glmtune.modeling.quantization import prepare_quantized

# A file that only this kind of folder has -> its description, the argument that takes it.
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
    """Load the model in the folder `path`, in official or transformers' layout, in eval mode.

    Users start here.

    Steps of the workflow open prepared models with `open_prepared` (`prepared.py`).
    `device` and `dtype` default to those of the workflow's steps: the GPU in 16 bits if there is
    one, else the CPU in float32. An explicitly requested CPU also means float32.
    `prefix` is a folder with a P-Tuning v2 prefix (kept in fp32), `adapter` a PEFT folder.
    `quantization_bit` 8 or 4 quantizes the linears of the layers in the official format, one by
    one as they are read: neither RAM nor the GPU ever holds the whole model in full precision.
    `family` is the expected family, such as "chatglm2-6b"; None takes it from config.json, which
    cannot distinguish the long-context models of ChatGLM2 and ChatGLM3 except published ones.
    Raises WeightsError with one message for any problem with the folders.
    """
    folder = Path(path)
    torch_dtype, torch_device = _dtype_and_device(dtype, device)
    values = read_model_config(folder)
    refuse_first_release(folder)
    model_class = model_class_of(values, family, source=str(folder / "config.json"))
    config = make_config(model_class, values, family, source=str(folder / "config.json"))
    ignored = ignored_keys(known_keys(model_class), values)
    report_ignored_keys(str(folder / "config.json"), tuple(ignored))
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
    """Load a prefix and an adapter, if given, into `model`; return it in eval mode.

    Raises WeightsError for a folder without one, or with one for another model.
    """
    if prefix is not None:
        load_prefix(model, prefix)
    if adapter is not None:
        load_adapter(model, Path(adapter))
    return model.eval()


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model folder, in either layout, as official values.

    WeightsError for the folder of a tuned part alone, and for a model of no family here.
    """
    if not (folder / "config.json").is_file():
        for marker, (what, role) in TUNED_PARTS.items():
            if (folder / marker).is_file():
                raise WeightsError(
                    f"{folder}: found {what}; expected a model; pass the folder of its base model, "
                    f"and this folder as {role}"
                )
    values, source = read_config(folder), str(folder / "config.json")
    refuse_other_models(values, source)
    return official_values(values, source)


def _dtype_and_device(
    dtype: str | torch.dtype | None, device: str | torch.device | None
) -> tuple[torch.dtype, torch.device]:
    """The requested dtype and device; None means what the workflow's steps would use."""
    usual = choose_device()
    torch_device = parse_device(usual.name if device is None else device)
    if dtype is None:
        dtype = usual.dtype if torch_device.type == usual.name else "float32"
    return parse_dtype(dtype), torch_device


def _bits(stored: int, wanted: int | None, folder: Path) -> int:
    """The bits per weight of the linears, 0 for full precision; `stored` is that of the files."""
    if wanted not in (None, *BITS):
        raise ParamsError(f"quantization_bit: found {wanted!r}; expected None, 8 or 4")
    if stored and wanted not in (None, stored):
        raise WeightsError(
            f"{folder}: found quantization_bit {wanted} for weights that are already quantized to "
            f"{stored} bits; set it to {stored} or leave it out"
        )
    return stored or wanted or 0


def _check_sizes(config: Any, folder: Path) -> None:
    """Refuse sizes that the weight files cannot hold, before a model of these sizes is built.

    Problems with the files themselves, and folders with only a prefix, are reported first.
    """
    stored = sum(path.stat().st_size for path in weight_files(folder))
    weights = config.matrix_weights()
    if weights <= 2 * stored:  # the official int4 takes half a byte a weight
        return
    names = [name for name, _ in read_weights(folder, quantized=True)]
    if not all(name.startswith(PREFIX_KEY) for name in names):
        raise WeightsError(
            f"{folder / 'config.json'}: describes a model with {weights:,} weights, but the "
            f"weight files hold only {stored:,} bytes; is a file missing, or does the config "
            "belong to another model?"
        )


def _empty_model(model_class: type[ChatGLMCausalLM], config: Any) -> ChatGLMCausalLM:
    """Build a model without allocating its weights, so that loading holds them only once."""
    with torch.device("meta"):
        model = model_class(config)
    if config.quantization_bit:
        prepare_quantized(model, config.quantization_bit)
    return model
