"""Models in memory: each base once, whatever was tuned on it beside it, full models as they fit.

A prefix and an adapter are modules that take the place of others, so that one base serves all:
putting one in place moves no weight. The model that was not used for longest leaves when another
needs its room.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from glmtune.checkpoints.adapters import load_adapter
from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.prefix import read_prefix
from glmtune.checkpoints.prepared import ModelRef, open_prepared, read_prepared_config
from glmtune.devices import Device, total_memory
from glmtune.errors import ResourceError
from glmtune.generation.memory import auto_batch_size
from glmtune.modeling.quantization import prepare_quantized
from glmtune.serving.catalog import Served, stamp_of

PREFIX_PLACE = "transformer.prefix_encoder"
Modules = dict[str, nn.Module | None]


@dataclass(frozen=True)
class Limits:
    """What a process may hold."""

    max_memory: float | None = None
    """Bytes of weights; None: all there is room for."""
    max_rows: int = 64
    """Answers at once."""
    max_tokens: int = 2048
    """Of a prompt with its answer; decides how many answers fit beside the weights."""
    quantization_bit: int | None = None


@dataclass
class Loaded:
    """A model in memory, and the modules of everything tuned on it that was asked for."""

    model: Any
    bytes: int
    rows: int
    parts: dict[str, Modules] = field(default_factory=dict)
    replaced: Modules = field(default_factory=dict)
    current: str | None = None

    def put(self, served: Served) -> Any:
        """The model as `served` is: its prefix or adapter in place, no other."""
        if served.name == self.current:
            return self.model
        if served.name not in self.parts:
            self._put_all(self.replaced)
            self.current, self.replaced = None, {}
            self.parts[served.name] = _read_part(self.model, served)
        self._put_all(self.replaced)
        part = self.parts[served.name]
        self.replaced = {name: _module_at(self.model, name) for name in part}
        self._put_all(part)
        self.current = served.name
        return self.model

    def _put_all(self, modules: Modules) -> None:
        for name, module in modules.items():
            _put(self.model, name, module)


class Library:
    """The models in memory by folder, the one used last at the end."""

    def __init__(self, device: Device, limits: Limits) -> None:
        self.device = device
        self.limits = limits
        self._loaded: dict[Path, Loaded] = {}

    def is_loaded(self, served: Served) -> bool:
        """Whether no weights of a base have to be read for it."""
        return served.folder in self._loaded

    def has_room(self, served: Served, busy: Collection[Path]) -> bool:
        """Whether it can be had now; models that are not busy leave for it.

        Raises ResourceError for one that has no room even alone.
        """
        if self.is_loaded(served) or self.limits.max_memory is None:
            return True
        needed = self._bytes(served)
        if needed > self.limits.max_memory:
            raise ResourceError(
                f"{served.name}: needs {needed / 1e9:.3g} GB; --max-memory is "
                f"{self.limits.max_memory / 1e9:.3g} GB; raise it, or start with --quantization-bit"
            )
        free = self.limits.max_memory - sum(loaded.bytes for loaded in self._loaded.values())
        leaving = []
        for folder, loaded in self._loaded.items():
            if free < needed and folder not in busy:
                leaving.append(folder)
                free += loaded.bytes
        if free < needed:
            return False
        for folder in leaving:
            del self._loaded[folder]
        return True

    def open(self, served: Served) -> Loaded:
        """The model in memory with `served` in place, read from its folders if need be."""
        is_new = not self.is_loaded(served) or served.name not in self._loaded[served.folder].parts
        if is_new:
            _refuse_changed(served)
        loaded = self._loaded.pop(served.folder, None) or self._load(served)
        self._loaded[served.folder] = loaded
        loaded.put(served)
        return loaded

    def _load(self, served: Served) -> Loaded:
        model = open_prepared(
            ModelRef(served.folder, family=served.family),
            dtype=self.device.dtype,
            device=self.device.name,
            quantization_bit=self.limits.quantization_bit,
        )
        longest = [[0] * self.limits.max_tokens]
        rows = auto_batch_size(model, longest, 0, total_memory(self.device))
        return Loaded(model, _bytes_of(model), min(rows, self.limits.max_rows))

    def _bytes(self, served: Served) -> int:
        """What it will take, from its config alone."""
        config = read_prepared_config(served.folder)
        model = build_model(config, served.family, dtype=self.device.dtype, device="meta")
        bits = self.limits.quantization_bit or config.get("quantization_bit")
        if bits:
            prepare_quantized(model, bits)
        return _bytes_of(model)


def _refuse_changed(served: Served) -> None:
    """A method trained again does not belong to a base that was loaded before."""
    if stamp_of(served) != served.stamp:
        raise ResourceError(
            f"{served.name}: its files have changed or disappeared since this program started; "
            "expected the same files; restart it"
        )


def _bytes_of(model: Any) -> int:
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def _read_part(model: Any, served: Served) -> Modules:
    """The modules that `served` puts in place of others; {} for the model as it is."""
    if served.prefix is not None:
        encoder = read_prefix(model.prefix_shape(), served.prefix)
        return {PREFIX_PLACE: encoder.to(model.device).float().eval()}
    if served.adapter is not None:
        return _read_adapter(model, served.adapter)
    return {}


def _read_adapter(model: Any, folder: Path) -> Modules:
    """The layers of an adapter, each around the layer that it adapts; the model stays as it was."""
    before = dict(model.named_modules())
    try:
        load_adapter(model, folder)
        model.eval()
        return {name: _module_at(model, name) for name in _replaced(model, before)}
    finally:
        for name in _replaced(model, before):
            _put(model, name, before[name])
        if hasattr(model, "peft_config"):  # by which PEFT would know that it was here
            del model.peft_config


def _replaced(model: Any, before: dict[str, nn.Module]) -> list[str]:
    """The places where another module is than was; of nested ones the outermost."""
    names: list[str] = []
    for name, module in before.items():
        is_inside = any(name.startswith(f"{outer}.") for outer in names)
        if name and not is_inside and _module_at(model, name) is not module:
            names.append(name)
    return names


def _module_at(model: Any, name: str) -> nn.Module | None:
    parent, _, child = name.rpartition(".")
    return getattr(model.get_submodule(parent), child)


def _put(model: Any, name: str, module: nn.Module | None) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
