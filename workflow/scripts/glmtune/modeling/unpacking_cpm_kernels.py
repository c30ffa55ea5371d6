"""int8 weights unpacked by cpm_kernels, the CUDA library of the official code: on request only.

It has no kernel from int8 to fp16: `gemm_scale_x` scales rows of int32, so the numbers are widened
first. It is ready machine code for some GPUs, and importing it fails where there is no driver.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from glmtune.errors import ResourceError

ELF = 2  # the kind of a fatbin's entry that is machine code


def open_cpm_kernels(
    device: torch.device, bits: int, dtype: torch.dtype
) -> Callable[..., torch.Tensor]:
    """The unpacker; ResourceError where cpm_kernels cannot run."""
    if bits != 8:
        raise ResourceError(f"found {bits} bits; expected 8: it has no kernel for others")
    if device.type != "cuda":
        raise ResourceError(f"found device {device}; expected a CUDA GPU with its driver")
    package = find_spec("cpm_kernels")
    if package is None or not package.submodule_search_locations:
        raise ResourceError(
            "the package is not installed; expected cpm_kernels 1.0.11: "
            "pip install -e '.[cpm-kernels]'"
        )
    if find_spec("pkg_resources") is None:
        raise ResourceError(
            "pkg_resources, which it imports, is missing; expected a setuptools that has it: "
            "pip install 'setuptools<81'"
        )
    kernels = Path(package.submodule_search_locations[0], "kernels", "cuda", "gemm.fatbin")
    _refuse_gpu(torch.cuda.get_device_capability(device), architectures(kernels.read_bytes()))
    return unpack_with_cpm_kernels


def _refuse_gpu(capability: tuple[int, int], held: list[tuple[int, int]]) -> None:
    """Machine code runs on GPUs of its own major version and of no lower minor one."""
    major, minor = capability
    if not any(major == own and minor >= least for own, least in held):
        names = ", ".join(f"{own}.{least}" for own, least in held)
        raise ResourceError(
            f"found a GPU of compute capability {major}.{minor}; expected one that its machine "
            f"code ({names}) runs on"
        )


def architectures(fatbin: bytes) -> list[tuple[int, int]]:
    """The compute capabilities that a CUDA fatbin holds machine code for."""
    found = []
    _magic, _version, start = struct.unpack_from("<IHH", fatbin)
    while start < len(fatbin):
        kind, _version, header, size = struct.unpack_from("<HHIQ", fatbin, start)
        (architecture,) = struct.unpack_from("<I", fatbin, start + 28)
        if kind == ELF:
            found.append(divmod(architecture, 10))
        start += header + size
    return found


def unpack_with_cpm_kernels(
    packed: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """The weight (n, m) of a packed one of 8 bits."""
    from cpm_kernels.kernels.gemm import gemm_scale_x

    numbers, scale = packed.int().contiguous(), scale.half().contiguous()
    weight = torch.empty(packed.shape, dtype=torch.float16, device=packed.device)
    pointers = (tensor.data_ptr() for tensor in (numbers, scale, weight))
    with torch.cuda.device_of(packed):
        gemm_scale_x(1, *packed.shape, *pointers, torch.cuda.current_stream().cuda_stream)
    return weight.to(dtype)
