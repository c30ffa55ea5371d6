"""The keys and values of a batch of rows while their answers grow.

transformers' own cache copies everything with each token, and leaves the tuned prefix to be copied
in front of it. Here both lie in one buffer that grows in blocks, and rows can leave.

Shapes: b batch, g key-value groups, d head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

KeyValue = tuple[torch.Tensor, torch.Tensor]
BLOCK = 32  # positions


class DecodingCache:
    """A layer's tensors are (b, g, positions, d): the prefix, then the tokens so far.

    Has what the models ask of a transformers `Cache`; `get_seq_length` does not count the prefix.
    """

    def __init__(self) -> None:
        self._prefixes: Sequence[KeyValue] = ()
        self._keys: list[_Buffer] = []
        self._values: list[_Buffer] = []

    def take_prefixes(self, prefixes: Sequence[KeyValue]) -> None:
        """Put the prefix of each layer, (b, g, positions, d), in front; only the first ones."""
        if not self._keys:
            self._prefixes = prefixes

    def get_seq_length(self, layer_index: int = 0) -> int:
        """How many tokens are in it."""
        if layer_index >= len(self._keys):
            return 0
        prefix = self._prefixes[layer_index][0].shape[2] if self._prefixes else 0
        return self._keys[layer_index].length - prefix

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_index: int) -> KeyValue:
        """Append a layer's new keys and values; returns all of them."""
        if layer_index == len(self._keys):
            self._keys.append(_Buffer(key))
            self._values.append(_Buffer(value))
            if self._prefixes:
                self._keys[layer_index].append(self._prefixes[layer_index][0])
                self._values[layer_index].append(self._prefixes[layer_index][1])
        return self._keys[layer_index].append(key), self._values[layer_index].append(value)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Leave out all rows of the batch but these, (kept,) in their new order."""
        for buffer in (*self._keys, *self._values):
            buffer.tensor = buffer.tensor[rows]


class _Buffer:
    """A tensor (b, g, capacity, d) of which the first `length` positions are in use."""

    def __init__(self, like: torch.Tensor) -> None:
        self.tensor = like[:, :, :0]
        self.length = 0

    def append(self, new: torch.Tensor) -> torch.Tensor:
        end = self.length + new.shape[2]
        missing = end - self.tensor.shape[2]
        if missing > 0:
            self.tensor = F.pad(self.tensor, (0, 0, 0, missing + BLOCK))
        self.tensor[:, :, self.length : end] = new
        self.length = end
        return self.tensor[:, :, :end]
