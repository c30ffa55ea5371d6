"""Read the tensors of a model, prefix or adapter folder, one at a time.

Knows the formats (pickle and safetensors) and their typical defects; knows nothing about models.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from glmtune.checkpoints.pickle_checks import check_pickle
from glmtune.checkpoints.weight_files import check_is_content, read_object, weight_files
from glmtune.errors import WeightsError, first_line, shown_name

# DistributedDataParallel, torch.compile and PEFT wrap a model in a module of their own.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+|(?<=\.)_orig_mod\.")
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# How weights quantized to 8 or 4 bits are stored.
QUANTIZED_TYPES = (torch.int8, torch.uint8)
# Keys under which trainers store the weights, beside the step, the optimizer and so on.
NESTED_IN = ("state_dict", "model_state_dict", "model", "module")


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read the JSON object in `folder / name`; raises WeightsError if there is none."""
    path = folder / name
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; expected one with {name} and weights")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected the {name} that belongs to the weights")
    return read_object(path)


def read_weights(source: Path, *, quantized: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) for all weights of a folder, or of one file, on the CPU.

    The prefixes that training wrappers add to names are removed. `quantized` also allows weights
    of 8 or 4 bits.
    Raises WeightsError if files are missing, Git-LFS pointers, truncated or not weights, and for a
    tensor whose type or values no weight has.
    """
    seen: set[str] = set()
    for path in weight_files(source):
        check_is_content(path)
        for saved_name, tensor in _read_file(path):
            name = WRAPPERS.sub("", saved_name)
            if name in seen:
                raise WeightsError(
                    f"{path}: {shown_name(name)}: found it twice; expected each tensor once"
                )
            seen.add(name)
            _check_values(path, name, tensor, quantized)
            yield name, tensor


def _check_values(path: Path, name: str, tensor: torch.Tensor, quantized: bool) -> None:
    """Raise WeightsError for a tensor that no trained model has, before it is used."""
    if tensor.dtype not in WEIGHT_TYPES + (QUANTIZED_TYPES if quantized else ()):
        what = f"found {str(tensor.dtype).removeprefix('torch.')} values; expected float weights"
        if tensor.dtype in QUANTIZED_TYPES:
            what += ", or quantization_bit in the model's config.json"
    elif not is_finite(tensor):
        what = "found NaN or infinite values; expected a model whose training did not diverge"
    else:
        return
    raise WeightsError(f"{path}: {shown_name(name)}: {what}")


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN spreads to both; 12 GB take 2 s, with isfinite a minute
    return bool(low.isfinite() & high.isfinite())


def _read_file(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    reader = _read_safetensors if path.suffix == ".safetensors" else _read_pickled
    try:
        yield from reader(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a file of plain tensors ({first_line(error)}); nothing else is loaded, "
            "because unpickling it could run arbitrary code"
        ) from None
    except WeightsError:
        raise
    except Exception as error:  # torch's readers raise anything for corrupt files
        raise WeightsError(
            f"{path}: cannot be read, probably truncated or corrupt ({first_line(error)}); "
            "download it again"
        ) from None


def _read_safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (safe_open is not a dict)
            yield name, tensors.get_tensor(name)


def _read_pickled(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    check_pickle(path)
    with path.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"  # else the format of torch before 1.6, without mmap
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    for _ in NESTED_IN:  # no trainer nests deeper, and a dictionary may contain itself
        state = _inner(state) or state
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise ValueError("expected a dictionary of tensors")
    _check_storage(path, state)
    yield from state.items()


def _inner(state: Any) -> Any:
    """The weights inside a trainer's dictionary; None if it is the weights itself."""
    if not isinstance(state, dict):
        return None
    return next((state[key] for key in NESTED_IN if isinstance(state.get(key), dict)), None)


def _check_storage(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Refuse tensors that need more memory than the file has: a few bytes can claim any shape."""
    for name, tensor in state.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not is_plain or tensor.is_quantized or tensor.is_nested:
            raise WeightsError(
                f"{path}: {shown_name(name)}: found a sparse, nested, quantized or empty tensor; "
                "expected plain weights"
            )
    stated = sum(tensor.nbytes for tensor in state.values())
    # Tied weights are stored once but counted twice.
    if stated > 2 * path.stat().st_size + 2**20:
        raise WeightsError(
            f"{path}: its tensors would take {stated:,} bytes, but the file has only "
            f"{path.stat().st_size:,}; expected the weights themselves"
        )
