"""The matrix products of a run, recorded and then computed alone: a run takes at least as long.

Recorded are products of matrices, and attention with its backward pass. All else that a run does
passes over memory or waits for Python.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# Parts of the operators' names: torch's, the fused attention of any device, oneDNN's.
PRODUCTS = ("mm", "scaled_dot_product", "linear_pointwise")


@dataclass(frozen=True)
class _Tensor:
    """An argument that may have any numbers; those of one place in a call share their memory."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    place: int


class RecordedProducts(TorchDispatchMode):
    """While active, notes each product: the operator, its weights, and the shapes of all else."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        # Weights are kept as they are: to read them from memory is a part of a product.
        held = (*model.parameters(), *model.buffers())
        self._weights = {_address(tensor) for tensor in held if tensor.layout == torch.strided}
        self._device = next(model.parameters()).device
        self._sizes: dict[tuple[torch.dtype, int], int] = {}
        self._calls: list[tuple[Any, Any, Any]] = []
        self._place = 0  # of an argument in its call

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the call if it is a product, and let it run."""
        kwargs = kwargs or {}
        if any(part in function.overloadpacket.__name__ for part in PRODUCTS):
            self._place = 0
            described = tree_map_only(torch.Tensor, self._described, (args, kwargs))
            self._calls.append((function, *described))
        return function(*args, **kwargs)

    def _described(self, tensor: torch.Tensor) -> torch.Tensor | _Tensor:
        self._place += 1
        if tensor.layout != torch.strided or _address(tensor) in self._weights:
            return tensor.detach()
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        size = 1 + sum((length - 1) * step for length, step in steps)
        key = tensor.dtype, self._place
        self._sizes[key] = max(size, self._sizes.get(key, 0))
        return _Tensor(tensor.dtype, tensor.shape, tensor.stride(), self._place)

    @torch.no_grad()
    def seconds_alone(self) -> float:
        """How long the products take in their order: CPU time, on a GPU that of the clock."""
        memory = {
            (dtype, place): torch.rand(size, device=self._device).to(dtype)
            for (dtype, place), size in self._sizes.items()
        }

        def tensor(described: _Tensor) -> torch.Tensor:
            whole = memory[described.dtype, described.place]
            return whole.as_strided(described.shape, described.stride)

        calls = [
            (function, *tree_map_only(_Tensor, tensor, arguments))
            for function, *arguments in self._calls
        ]
        on_gpu = self._device.type == "cuda"
        clock = time.perf_counter if on_gpu else time.process_time
        if on_gpu:
            torch.cuda.synchronize()
        start = clock()
        for function, args, kwargs in calls:
            function(*args, **kwargs)
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
