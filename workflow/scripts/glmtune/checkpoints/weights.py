"""Models to and from folders: official checkpoints, ours, prefixes and PEFT adapters.

Never runs code from a model folder, and unpickles nothing but tensors. Refuses a folder whose
tensors are not exactly those that its config.json needs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.config import (
    config_values,
    known_keys,
    make_config,
    model_class_of,
    read_model_config,
)
from glmtune.checkpoints.config_checks import say_not_read, unread_keys
from glmtune.checkpoints.prefix import PREFIX_KEY, install_prefix, load_prefix
from glmtune.checkpoints.tensors import PACKED_TYPES, is_finite, read_weights, write_weights
from glmtune.checkpoints.weight_files import weight_files
from glmtune.devices import choose_device
from glmtune.errors import ParamsError, ResourceError, WeightsError, shown_name
from glmtune.families.loading import refuse_first_release
from glmtune.files import write_json
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.quantization import BITS, prepare_quantized, quantize

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Computed, not learned; the official loaders ignore them too.
IGNORED_KEYS = re.compile(r"rotary_(pos_)?emb\.inv_freq$")
SHOWN_KEYS = 5


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
    """The model in the folder `path`, official or ours, in eval mode.

    `device` and `dtype` None are those of the workflow's steps: the GPU in 16 bits where there is
    one, else the CPU in float32; float32 also for a CPU that is named.
    `prefix` is a folder with a P-Tuning v2 prefix (kept in fp32), `adapter` a PEFT folder.
    `quantization_bit` 8 or 4 packs the linears of the layers in the official format, one by one as
    they are read: neither RAM nor the GPU ever holds the whole model unpacked.
    `family` names what is expected, such as "chatglm2-6b"; None takes what config.json says, which
    does not tell the long-context models of ChatGLM2 and ChatGLM3 apart unless they are published.
    Raises WeightsError with one message for anything that is wrong with the folders.
    """
    folder = Path(path)
    torch_dtype, torch_device = _place(dtype, device)
    values = read_model_config(folder)
    refuse_first_release(folder)
    model_class = model_class_of(values, family, source=str(folder / "config.json"))
    config = make_config(model_class, values, family, source=str(folder / "config.json"))
    unread = unread_keys(known_keys(model_class), values)
    say_not_read(str(folder / "config.json"), tuple(unread))
    _check_sizes(config, folder)
    packs = 0 if config.quantization_bit else quantization_bit
    config.quantization_bit = _bits(config.quantization_bit, quantization_bit, folder)
    model = _empty_model(model_class, config)
    own_prefix = _fill(model, folder, torch_dtype, torch_device, packs or 0)
    if prefix is not None:
        load_prefix(model, prefix)
    elif own_prefix:
        install_prefix(model, own_prefix, source=str(folder))
    if adapter is not None:
        load_adapter(model, Path(adapter))
    return model.eval()


def build_model(
    config: dict[str, Any],
    family: str | None = None,
    *,
    seed: int | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    source: str = "config",
) -> ChatGLMCausalLM:
    """A model with fresh random weights, made on `device` in `dtype`, in eval mode.

    `config` holds config.json values under their official names; `source` names it in messages.
    The same `seed` gives the same weights on one kind of device; None draws from torch's generator
    as the caller seeded it.
    """
    model_class = model_class_of(config, family, source)
    values = make_config(model_class, config | {"quantization_bit": 0}, family, source)
    torch_dtype, torch_device = parse_dtype(dtype), parse_device(device)
    # Named, because fork_rng warns about a machine with several GPUs otherwise.
    gpus = [torch_device] if torch_device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus, enabled=seed is not None), torch_device:
        if seed is not None:
            torch.manual_seed(seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch_dtype)
        try:
            return model_class(values).eval()
        finally:
            torch.set_default_dtype(before)


def save_model(model: PreTrainedModel, folder: Path | str) -> None:
    """Write config.json and model.safetensors, under official names and without a prefix.

    Weights above 5 GB become shards with an index. Other files in `folder`, such as the
    tokenizer's, stay. Raises WeightsError for a model with a LoRA adapter in it.
    """
    folder = Path(folder)
    if hasattr(model, "peft_config"):
        raise WeightsError(
            f"{folder}: not written: the model has a LoRA adapter in it, which official files have "
            "no place for; merge it first (glmtune.export.merging), or save the adapter"
        )
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(PREFIX_KEY)
    }
    for name in _tied_names(model):
        del state[name]
    write_weights(folder, state)
    write_json(folder / "config.json", config_values(model))


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32, float16 or bfloat16 by name or as torch's own."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ParamsError(f"dtype: found {dtype}; expected one of {', '.join(DTYPES)}")
    return found


def parse_device(device: str | torch.device) -> torch.device:
    """A torch device; raises if there is no such hardware here."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ParamsError(f"device: found {device!r}; expected cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device: found {device}; this machine has {torch.cuda.device_count()} CUDA devices; "
            "choose cpu"
        )
    return found


def _place(
    dtype: str | torch.dtype | None, device: str | torch.device | None
) -> tuple[torch.dtype, torch.device]:
    """What was asked for; None: what the workflow's steps would use."""
    usual = choose_device()
    torch_device = parse_device(usual.device if device is None else device)
    if dtype is None:
        dtype = usual.dtype if torch_device.type == usual.device else "float32"
    return parse_dtype(dtype), torch_device


def _bits(stored: int, wanted: int | None, folder: Path) -> int:
    """In how many bits to hold the linears, 0 for whole; `stored` is how the files hold them."""
    if wanted not in (None, *BITS):
        raise ParamsError(f"quantization_bit: found {wanted!r}; expected None, 8 or 4")
    if stored and wanted not in (None, stored):
        raise WeightsError(
            f"{folder}: its weights are packed in {stored} bits; found quantization_bit {wanted}; "
            f"set it to {stored} or leave it out"
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
    names = [name for name, _ in read_weights(folder, packed=True)]
    if not all(name.startswith(PREFIX_KEY) for name in names):
        raise WeightsError(
            f"{folder / 'config.json'}: the sizes of a model with {weights:,} weights; the files "
            f"beside it have {stored:,} bytes; is a file missing, or is it the config of another "
            "model?"
        )


def _empty_model(model_class: type[ChatGLMCausalLM], config: Any) -> ChatGLMCausalLM:
    """A model without memory for its weights, so that loading needs them only once."""
    with torch.device("meta"):
        model = model_class(config)
    if config.quantization_bit:
        prepare_quantized(model, config.quantization_bit)
    return model


def _fill(
    model: ChatGLMCausalLM, folder: Path, dtype: torch.dtype, device: torch.device, packs: int
) -> dict[str, torch.Tensor]:
    """Give `model` the weights in `folder`; returns those of a prefix stored among them.

    Whole weights of packed linears are packed into `packs` bits; 0: the files hold them packed.
    """
    expected = model.state_dict()
    loaded: dict[str, torch.Tensor] = {}
    prefix: dict[str, torch.Tensor] = {}
    unexpected: list[str] = []
    misshaped: dict[str, str] = {}
    aliased: dict[str, torch.Tensor] = {}
    for name, tensor in read_weights(folder, packed=bool(model.config.quantization_bit)):
        if name in model.aliases and name not in expected:
            aliased[name] = tensor.to(device, dtype, copy=True)
        elif name.startswith(PREFIX_KEY):
            prefix[name.removeprefix(PREFIX_KEY)] = tensor.clone()
        elif name not in expected:
            unexpected += [] if IGNORED_KEYS.search(name) else [name]
        elif _is_to_be_packed(name, tensor, expected, packs):
            packed, scale = quantize(tensor.to(device), packs)
            loaded |= {name: packed, f"{name}_scale": scale}
        elif tensor.shape != expected[name].shape:
            found, needed = ("x".join(map(str, t.shape)) for t in (tensor, expected[name]))
            misshaped[name] = f"{name} is {found}, not {needed}"
        else:
            loaded[name] = _converted(folder, name, tensor, expected[name], device, dtype)
    _take_aliased(folder, model, loaded, aliased)
    _untie_if_different(model, loaded)
    tied = _tied_names(model)
    seen = {*loaded, *tied, *misshaped}
    missing = [name for name in expected if name not in seen]
    _refuse_mismatch(
        folder,
        missing,
        unexpected,
        list(misshaped.values()),
        only_prefix=bool(prefix and not loaded),
    )
    model.load_state_dict(loaded, strict=False, assign=True)
    model.tie_weights()
    return prefix


def _converted(
    folder: Path,
    name: str,
    tensor: torch.Tensor,
    expected: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """A copy of a stored weight on `device`: in `dtype`, or as it is where the model packs it.

    Raises WeightsError for bytes in place of numbers and the reverse, and for numbers that are
    too large for `dtype`.
    """
    holds_bytes, needs_bytes = (t.dtype in PACKED_TYPES for t in (tensor, expected))
    if holds_bytes != needs_bytes:
        found, needed = (str(t.dtype).removeprefix("torch.") for t in (tensor, expected))
        raise WeightsError(f"{folder}: {name} is {found}; this model expects {needed}")
    is_plain = expected.dtype == torch.get_default_dtype()  # bytes and their scales are not
    moved = tensor.to(device, dtype if is_plain else tensor.dtype, copy=True)
    if dtype == torch.float16 and tensor.dtype != dtype and not is_finite(moved):
        raise WeightsError(
            f"{folder}: {name} has numbers above 65,504, the largest of float16; expected dtype "
            "bfloat16 or float32"
        )
    return moved


def _take_aliased(
    folder: Path,
    model: ChatGLMCausalLM,
    loaded: dict[str, torch.Tensor],
    aliased: dict[str, torch.Tensor],
) -> None:
    """Give tensors under other savers' names their official ones; refuse two that differ."""
    for name, tensor in aliased.items():
        official = model.aliases[name]
        needed = model.get_parameter(official).shape
        if tensor.shape != needed:
            found, expected = ("x".join(map(str, shape)) for shape in (tensor.shape, needed))
            raise WeightsError(f"{folder}: {name} is {found}; this model expects {expected}")
        if official in loaded and not torch.equal(loaded[official], tensor):
            raise WeightsError(
                f"{folder}: {name} and {official} are one weight under two names and differ; "
                "expected them equal; remove the one that was not trained"
            )
        loaded[official] = tensor


def _is_to_be_packed(
    name: str, tensor: torch.Tensor, expected: dict[str, torch.Tensor], bits: int
) -> bool:
    """Whether a file holds a weight whole that the model holds packed in `bits`."""
    if not bits or f"{name}_scale" not in expected or not tensor.is_floating_point():
        return False
    rows, packed_columns = expected[name].shape
    return tensor.shape == (rows, packed_columns * 8 // bits)


def _tied_names(model: PreTrainedModel) -> list[str]:
    """Parameters that are another one under a second name, if the model ties them."""
    return list(model._tied_weights_keys or {}) if model.config.tie_word_embeddings else []


def _untie_if_different(model: ChatGLMCausalLM, loaded: dict[str, torch.Tensor]) -> None:
    """Keep both tensors of a tied pair if the files hold different values, else the first."""
    for second in _tied_names(model):
        first = (model._tied_weights_keys or {})[second]
        if second not in loaded or first not in loaded:
            continue
        if torch.equal(loaded[first], loaded[second]):
            del loaded[second]
        else:
            model.config.tie_word_embeddings = False
            model.all_tied_weights_keys = {}


def _refuse_mismatch(
    folder: Path,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
    *,
    only_prefix: bool,
) -> None:
    """Raise WeightsError that names the first few keys of each kind, if there are any."""
    if only_prefix:
        raise WeightsError(
            f"{folder}: holds a P-Tuning v2 prefix and no model; give the folder of its base "
            "model and this one as prefix"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    problems = [
        f"{len(names)} {kind}: {', '.join(map(shown_name, names[:SHOWN_KEYS]))}"
        + ", …" * (len(names) > SHOWN_KEYS)
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise WeightsError(
            f"{folder}: weights do not fit its config.json: {'; '.join(problems)}; "
            "is a file missing, or the config of another model?"
        )
