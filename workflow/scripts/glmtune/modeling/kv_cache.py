"""Keys and values of rows that join and leave a running batch.

Row i of the batch is slot i: its tokens lie at positions 0 to its length, whatever the ages of its
neighbours, so that a row joins without moving the others. When a row leaves, the last one takes its
slot. A tuned prefix is stored once, for all rows.

Keys are stored transposed, (slots, g, d, positions): a product of one query with each row's keys
reads them twice as fast on a CPU. Shapes: n rows, g key-value groups, q queries of a group, d head
dim, p prefix length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

KeyValue = tuple[torch.Tensor, torch.Tensor]
BLOCK = 64  # positions; buffers grow by whole blocks


class SlotCache:
    """The cache of a decoding batch: `PromptCache` fills new slots, a decoding step extends all.

    Replaces a transformers `Cache`; `attend` takes the place of `update`.
    """

    def __init__(self, prefixes: Sequence[KeyValue] = ()) -> None:
        """`prefixes` are each layer's keys and values, (1, g, p, d)."""
        self.lengths: list[int] = []
        self._layers: list[_Layer] = []
        self._prefixes = [(key[0].mT.contiguous(), value[0]) for key, value in prefixes]

    def get_seq_length(self, layer_index: int = 0) -> int:
        """The tokens of the longest row, without the prefix."""
        return max(self.lengths, default=0)

    def add_rows(self, lengths: Sequence[int]) -> PromptCache:
        """Take new slots for prompts of these lengths; their forward pass fills them."""
        first = len(self.lengths)
        self.lengths += lengths
        return PromptCache(self, slice(first, len(self.lengths)))

    def begin_step(self, device: torch.device) -> None:
        """Make room for one more token in every row."""
        self._places = torch.tensor(self.lengths, device=device)
        self._slots = torch.arange(len(self.lengths), device=device)
        self.lengths = [length + 1 for length in self.lengths]
        columns = torch.arange(max(self.lengths), device=device)
        self._hidden = (columns > self._places[:, None])[:, None]  # (n, 1, positions)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer_index: int
    ) -> torch.Tensor:
        """Append key and value (n, g, 1, d); attention of query (n, h, 1, d): (n, 1, h * d).

        One softmax over the prefix and the row's own tokens. The prefix is the same for all rows,
        so all queries of a group meet it in one matrix product.
        """
        layer = self._reserve(layer_index, key, max(self.lengths))
        layer.keys[self._slots, :, :, self._places] = key[:, :, 0]
        layer.values[self._slots, :, self._places] = value[:, :, 0]
        rows, groups, _, head_dim = key.shape
        used = self._hidden.shape[-1]
        query = query.reshape(rows * groups, -1, head_dim) * head_dim**-0.5
        keys = layer.keys[:rows, :, :, :used].flatten(0, 1)
        scores = torch.bmm(query, keys).float()  # (n * g, q, positions)
        scores.view(rows, -1, used).masked_fill_(self._hidden, -torch.inf)
        if self._prefixes:
            prefix_keys, prefix_values = self._prefixes[layer_index]
            shared = torch.bmm(_by_group(query, groups), prefix_keys).float()
            scores = torch.cat((_by_row(shared, rows), scores), dim=-1)
        weights = scores.softmax(dim=-1).to(value.dtype)
        values = layer.values[:rows, :, :used].flatten(0, 1)
        context = torch.bmm(weights[..., -used:], values)
        if self._prefixes:
            shared = torch.bmm(_by_group(weights[..., :-used], groups), prefix_values)
            context += _by_row(shared, rows)
        return context.view(rows, 1, -1)

    def fill(self, slots: slice, key: torch.Tensor, value: torch.Tensor, layer_index: int) -> None:
        """Store keys and values (new rows, g, s, d) of prompts, padded on the right, in `slots`."""
        layer = self._reserve(layer_index, key, key.shape[2])
        layer.keys[slots, :, :, : key.shape[2]] = key.mT
        layer.values[slots, :, : key.shape[2]] = value

    def remove_rows(self, rows: Sequence[int]) -> list[int]:
        """Free these slots; returns the former slot of each row that stays, in its new order."""
        stay = len(self.lengths) - len(rows)
        left = set(rows)
        holes = [row for row in rows if row < stay]
        moved = [row for row in range(stay, len(self.lengths)) if row not in left]
        order = list(range(stay))
        for hole, row in zip(holes, moved, strict=True):
            order[hole] = row
        if holes:
            used = max(self.lengths[row] for row in moved)
            for layer in self._layers:
                layer.keys[holes, :, :, :used] = layer.keys[moved, :, :, :used]
                layer.values[holes, :, :used] = layer.values[moved, :, :used]
        self.lengths = [self.lengths[row] for row in order]
        return order

    def _reserve(self, layer_index: int, like: torch.Tensor, positions: int) -> _Layer:
        """The buffers of a layer, grown so that all rows fit with `positions` positions each."""
        if layer_index == len(self._layers):
            groups, head_dim = like.shape[1], like.shape[3]
            self._layers.append(
                _Layer(
                    like.new_zeros(0, groups, head_dim, 0), like.new_zeros(0, groups, 0, head_dim)
                )
            )
        layer = self._layers[layer_index]
        layer.grow(len(self.lengths), -(-positions // BLOCK) * BLOCK)
        return layer


@dataclass(frozen=True)
class PromptCache:
    """What the forward pass of new prompts, padded on the right, sees of a `SlotCache`."""

    cache: SlotCache
    slots: slice

    def get_seq_length(self, layer_index: int = 0) -> int:
        """A prompt is the first of its row."""
        return 0

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_index: int) -> KeyValue:
        """Store the keys and values of a layer; returns them, as there are no earlier ones."""
        self.cache.fill(self.slots, key, value, layer_index)
        return key, value


@dataclass
class _Layer:
    """Buffers (slots, g, d, positions) and (slots, g, positions, d).

    What no row has written is 0: its weight in attention is 0, and 0 times NaN would be NaN.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def grow(self, slots: int, positions: int) -> None:
        more_slots = max(0, slots - self.keys.shape[0])
        more_positions = max(0, positions - self.keys.shape[3])
        if more_slots or more_positions:
            self.keys = F.pad(self.keys, (0, more_positions, 0, 0, 0, 0, 0, more_slots))
            self.values = F.pad(self.values, (0, 0, 0, more_positions, 0, 0, 0, more_slots))


def _by_group(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(n * g, q, x) -> (g, n * q, x)."""
    return states.unflatten(0, (-1, groups)).transpose(0, 1).flatten(1, 2)


def _by_row(states: torch.Tensor, rows: int) -> torch.Tensor:
    """(g, n * q, x) -> (n * g, q, x)."""
    return states.unflatten(1, (rows, -1)).transpose(0, 1).flatten(0, 1)
