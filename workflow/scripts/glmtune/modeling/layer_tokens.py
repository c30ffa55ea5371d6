"""Which tokens a layer computes: no padding, and in the last layer only what the loss needs.

Attention alone sees whole rows; all other parts of a layer treat each token by itself.

Shapes: b batch, s positions with padding, n tokens that a layer takes, m tokens that it returns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LayerTokens:
    """The tokens that one layer takes and returns; without indices, whole rows (b, s, width)."""

    rows: torch.Tensor | None = None
    """(b, s): which of the n tokens stands there; in the place of padding, any other."""
    returned: torch.Tensor | None = None
    """(m,): places, among all b * s, of the tokens to return."""
    kept: torch.Tensor | None = None
    """(m,): the same tokens, as indices of the n taken ones; None if all are returned."""

    def in_rows(self, taken: torch.Tensor) -> torch.Tensor:
        """(1, n, width) -> (b, s, width)."""
        if self.rows is None:
            return taken
        return taken[0].index_select(0, self.rows.flatten()).unflatten(0, self.rows.shape)

    def of_rows(self, states: torch.Tensor) -> torch.Tensor:
        """(b, s, width) -> (1, m, width)."""
        return _selected(states, self.returned)

    def of_taken(self, taken: torch.Tensor) -> torch.Tensor:
        """(1, n, width) -> (1, m, width): what a residual path adds to."""
        return _selected(taken, self.kept)


def tokens_of_layers(
    real: torch.Tensor | None, wanted: torch.Tensor | None, layers: int
) -> tuple[LayerTokens, list[LayerTokens]]:
    """The tokens that enter the first layer, and those of each layer.

    Both masks are booleans (b, s), None meaning all: `real` tokens are computed, and those that are
    `wanted` leave the last layer.
    """
    entering = LayerTokens()
    if real is not None and wanted is not None and bool((wanted & ~real).any()):
        real = None  # after padding on the left the first token is a target, which padding predicts
    if real is not None:
        entering = LayerTokens(_indices(real).view(real.shape), _places(real))
    if wanted is None:
        return entering, [entering] * layers
    places = _places(wanted)
    kept = places if real is None else _indices(real)[places]
    last = LayerTokens(entering.rows, places, kept)
    return entering, [*[entering] * (layers - 1), last]


def _places(chosen: torch.Tensor) -> torch.Tensor:
    return chosen.flatten().nonzero().squeeze(1)


def _indices(chosen: torch.Tensor) -> torch.Tensor:
    """(b * s,): the index of each chosen token among the chosen; else of the one before it."""
    return (chosen.flatten().cumsum(0) - 1).clamp(min=0)


def _selected(states: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
    return states if indices is None else states.flatten(0, 1).index_select(0, indices)[None]
