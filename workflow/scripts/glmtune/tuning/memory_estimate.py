"""Estimate the peak memory of a training before it begins, from the configuration alone.

The forward pass runs on fake tensors, which have shapes but no contents, while autograd's saved
tensors are counted: what a layer saves for its backward pass is measured, not guessed. Three layers
are enough: each further one saves what the third did. The CPU's kernels represent the GPU's: both
save the queries, keys, values and results of attention, but not its weights. Only the GPU computes
norms in float32, which is emulated.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from glmtune.checkpoints.building import build_model
from glmtune.devices import Device, parse_dtype
from glmtune.errors import ResourceError, is_full_gpu
from glmtune.families.tokenized import TokenizedRows
from glmtune.modeling.quantization import QuantizedLinear, prepare_quantized
from glmtune.modeling.target_loss import bytes_of_loss
from glmtune.training.processes import BUCKET
from glmtune.training.settings import ZERO_STAGES
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.settings import TuningSettings

# Bytes per weight: AdamW's two moments in fp32, or in 8 bits, which may leave the GPU when they are
# paged; Adafactor keeps only sums of rows and columns.
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 0, "adafactor": 0}
# Bytes per weight: the 16-bit result, and the temporaries while it is dequantized.
DEQUANTIZING_BYTES = 6
MEASURED_LAYERS = 3
GB = 1e9


@dataclass(frozen=True)
class BatchShape:
    """The largest batch: rows, tokens of the longest row, and how many of them have a target."""

    rows: int
    length: int
    targets: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose, of one process."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    dequantizing: float
    buffers: float = 0
    """What several processes send and receive at once."""
    loading: float = 0
    """All weights, before processes share them out; gone when training begins."""

    @property
    def parts(self) -> dict[str, float]:
        """What training holds, by its name."""
        names = (part.name for part in fields(self) if part.name != "loading")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> float:
        """The sum of all parts, a little more than is ever needed at the same time."""
        return max(self.loading, sum(self.parts.values()))

    @property
    def fixed(self) -> float:
        """The part that no smaller batch reduces: weights, gradients, optimizer, buffers."""
        in_training = self.weights + self.gradients + self.optimizer + self.buffers
        return max(self.loading, in_training)

    def of_process(self, count: int, sharding: str) -> MemoryEstimate:
        """What each of `count` processes needs, if this is the need of one that trains alone.

        Its batch stays as large, so it is the rows of one pass of one process.
        """
        if count == 1:
            return self
        if sharding == "none":  # a copy of the gradients is what they send
            return replace(self, buffers=self.gradients)
        # DeepSpeed keeps a copy of the weights that a process updates, as large as their gradients.
        shared = replace(
            self,
            gradients=self.gradients / count,
            optimizer=(self.optimizer + self.gradients) / count,
            buffers=min(2 * BUCKET, self.gradients),
        )
        if ZERO_STAGES[sharding] < 3:
            return shared
        buffers = min(4 * BUCKET, self.weights) + shared.buffers
        return replace(shared, weights=self.weights / count, buffers=buffers, loading=self.weights)

    def __str__(self) -> str:
        parts = self.parts.items()
        shown = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts if size >= 1e6)
        return f"{_gigabytes(self.total)} GB" + (f" ({shown})" if shown else "")


def largest_batch(rows: TokenizedRows, batch_size: int) -> BatchShape:
    """The worst case: a batch as long as the longest row, with the most targets of any row."""
    longest = int(np.diff(rows.offsets).max())
    most_targets = int(rows.targets_of_rows().max())
    return BatchShape(min(batch_size, len(rows)), longest, most_targets)


def estimate_memory(
    config: Mapping[str, Any],
    method: TuningMethod,
    settings: TuningSettings,
    batch: BatchShape,
    device: Device,
) -> MemoryEstimate:
    """Estimate the peak memory of training a model with these config.json values on `device`."""
    layers = build_model(dict(config), device="meta").config.num_layers
    measured = min(layers, MEASURED_LAYERS)
    shallow, deep = (
        _measure(config, count, method, settings, batch, device)
        for count in (max(measured - 1, 1), measured)
    )
    layer = {key: deep[key] - shallow[key] for key in deep}
    whole = {key: deep[key] + (layers - measured) * layer[key] for key in deep}
    saved = whole["activations"]
    if settings.gradient_checkpointing:
        # Each layer's input, the one layer being recomputed, and the prefix that all layers share.
        saved = layers * whole["hidden"] + layer["activations"] + whole["prefix"]
    return MemoryEstimate(
        weights=whole["weights"],
        gradients=4 * whole["trained"],
        optimizer=whole["moments"],
        # Plus the gradients of one layer, which are as large as what it saves.
        activations=saved + layer["activations"],
        logits=whole["logits"],
        dequantizing=DEQUANTIZING_BYTES * whole["quantized"],
    )


def check_memory(
    estimate: MemoryEstimate, free: float, settings: TuningSettings, sharding: str = "none"
) -> str:
    """Return a line for the log; ResourceError if even the fixed part exceeds `free` bytes.

    A total above `free` is only a warning: the estimate may be too high.
    """
    line = f"estimated memory: {estimate}; available: {_gigabytes(free)} GB"
    if estimate.fixed > free:
        raise ResourceError(f"{line}; {advice(settings, sharding, batch_helps=False)}")
    if estimate.total > free:
        return f"warning: {line}, which may not suffice; {advice(settings, sharding)}"
    return line


@contextmanager
def explained_when_full(settings: TuningSettings, sharding: str = "none") -> Iterator[None]:
    """Add advice to the error if the GPU runs out of memory after all."""
    try:
        yield
    except RuntimeError as error:
        if not is_full_gpu(error):
            raise
        facts = ". ".join(str(error).split(". ")[:3])  # requested and available memory
        raise ResourceError(f"{facts}; {advice(settings, sharding)}") from None


def advice(settings: TuningSettings, sharding: str = "none", *, batch_helps: bool = True) -> str:
    """Changes of params.yaml with which training needs less memory, the cheapest first."""
    size, steps = settings.batch_size, settings.gradient_accumulation_steps
    ways = []
    if batch_helps and size > 1:
        smaller = max(part for part in range(1, size) if size % part == 0)
        ways.append(
            f"batch_size {size} -> {smaller} with gradient_accumulation_steps {steps} -> "
            f"{steps * size // smaller}"
        )
    if batch_helps and not settings.gradient_checkpointing:
        ways.append("gradient_checkpointing: true")
    if settings.method == "full":
        if settings.optimizer == "adamw" and sharding == "none":
            ways.append("optimizer: adamw_8bit")
        if sharding != "zero3":
            ways.append("launcher: {processes: all, sharding: zero3} on several GPUs")
        ways.append("the methods lora or ptuning instead of full")
    elif settings.quantization_bit is None:
        ways.append("quantization_bit: 4 (not with full, dora or init)")
    in_params = f"to save memory, change in params.yaml: {'; '.join(ways)}; or " if ways else ""
    return f"{in_params}use a machine with more memory"


def _gigabytes(size: float) -> str:
    """Gigabytes with two digits: 117e9 -> "117", 5.62e9 -> "5.6", 7.3e6 -> "0.0073"."""
    return f"{size / GB:.0f}" if size >= 10 * GB else f"{size / GB:.2g}"


def free_memory(device: Device) -> float:
    """The bytes available on `device` now: GPU memory or RAM."""
    if device.name == "cpu":
        import psutil

        return float(psutil.virtual_memory().available)
    return float(torch.cuda.mem_get_info()[0])


def used_memory(device: Device) -> float:
    """The bytes this process already uses on `device`; on the CPU, its libraries."""
    if device.name == "cpu":
        import psutil

        return float(psutil.Process().memory_info().rss)
    return float(torch.cuda.memory_allocated())


def _measure(
    config: Mapping[str, Any],
    layers: int,
    method: TuningMethod,
    settings: TuningSettings,
    batch: BatchShape,
    device: Device,
) -> dict[str, float]:
    """Measure the bytes, by purpose, of the same model with `layers` layers."""
    dtype = "float32" if method.trains_base else device.dtype
    base: Any = build_model({**config, "num_layers": layers}, dtype=dtype, device="meta")
    if settings.quantization_bit:
        prepare_quantized(base, settings.quantization_bit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about weights without contents
        model = method.prepare(base, settings).train()
    weights = [*model.parameters(), *model.buffers()]
    quantized = [m.in_features * m.out_features for m in model.modules() if _is_quantized(m)]
    hidden, activations, prefix = _run_forward(base, batch, device)
    head = base.get_output_embeddings()
    return {
        "weights": sum(weight.numel() * weight.element_size() for weight in weights),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "moments": _bytes_of_moments(model, settings.optimizer),
        "activations": activations,
        "prefix": prefix,
        "hidden": hidden.numel() * hidden.element_size(),
        "logits": bytes_of_loss(batch.rows * batch.targets, head, parse_dtype(device.dtype)),
        "quantized": max(quantized, default=0),
    }


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLinear)


def _bytes_of_moments(model: nn.Module, optimizer: str) -> float:
    """The bytes of the optimizer; transformers leaves the moments of embeddings in fp32."""
    sizes: dict[int, float] = {}
    for module in model.modules():
        in_full = "8bit" in optimizer and isinstance(module, nn.Embedding)
        each = MOMENT_BYTES["adamw" if in_full else optimizer]
        for weight in module.parameters(recurse=False):
            if weight.requires_grad:  # a tied one occurs twice
                sizes[id(weight)] = max(sizes.get(id(weight), 0), each * weight.numel())
    return sum(sizes.values())


class _SavedTensor:
    """What the graph holds instead of a tensor: it goes when the graph lets the tensor go."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _SavedTensors:
    """The memory behind saved tensors: each storage counts once, the model's own not at all.

    What is saved for a result that is then detached, as DoRA's lengths, goes during the pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.own = {_storage(t) for t in (*model.parameters(), *model.buffers())}
        self.held: WeakSet[_SavedTensor] = WeakSet()

    def add(self, tensor: torch.Tensor) -> _SavedTensor:
        saved = _SavedTensor(tensor)
        self.held.add(saved)
        return saved

    def bytes(self) -> float:
        pieces = {_storage(saved.tensor): saved.tensor.untyped_storage() for saved in self.held}
        return float(sum(piece.nbytes() for key, piece in pieces.items() if key not in self.own))


class _NormsInFloat32(TorchFunctionMode):
    """Norms in float32, as autocast does on CUDA but not on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.layer_norm, F.rms_norm):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(a.float() if isinstance(a, torch.Tensor) else a for a in args))


def _run_forward(base: Any, batch: BatchShape, device: Device) -> tuple[torch.Tensor, float, float]:
    """The last hidden states, and the bytes saved by a forward pass and by its prefix alone."""
    mode = FakeTensorMode()
    _make_fake(base, mode)
    dtype = parse_dtype(device.dtype)
    activations, prefix = _SavedTensors(base), _SavedTensors(base)
    in_half = torch.autocast("cpu", dtype, enabled=device.dtype != "float32")
    is_cuda_in_half = device.name == "cuda" and device.dtype != "float32"
    norms = _NormsInFloat32() if is_cuda_in_half else nullcontext()
    with mode, norms, in_half:
        zeros = partial(torch.zeros, dtype=torch.long)
        positions = zeros(base.position_shape(batch.rows, batch.length))
        ids = zeros((batch.rows, batch.length))
        with torch.autograd.graph.saved_tensors_hooks(activations.add, _unpack):
            hidden = base.transformer(ids, None, positions, None, None)
        encoder = base.transformer.prefix_encoder
        if encoder is not None:
            with torch.autograd.graph.saved_tensors_hooks(prefix.add, _unpack):
                # Held to the end, as the layers hold them.
                _held = [prefix.add(t) for pair in encoder(batch.rows, dtype) for t in pair]
    return hidden, activations.bytes(), prefix.bytes()


def _unpack(saved: _SavedTensor) -> torch.Tensor:
    return saved.tensor


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace weights without memory (`meta`) by fake ones that claim to be on the CPU."""
    fakes: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    fake: Any = FakeTensor(mode, tensor.data, torch.device("cpu"))
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    fakes[id(tensor)] = fake
                tensors[name] = fakes[id(tensor)]
