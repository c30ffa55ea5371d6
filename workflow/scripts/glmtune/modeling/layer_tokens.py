"""Which tokens a layer computes for the loss: no padding, and in the end only what has a target.

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
    """(b, s): which of the n tokens belongs there; at padding positions, any of them."""
    returned: torch.Tensor | None = None
    """(m,): the positions, among all b * s, of the tokens to return."""
    kept: torch.Tensor | None = None
    """(m,): the same tokens, as indices of the n taken ones; None if all are returned."""

    def in_rows(self, taken: torch.Tensor) -> torch.Tensor:
        """(1, n, width) -> (b, s, width)."""
        if self.rows is None:
            return taken
        return _selected(taken, self.rows.flatten())[0].unflatten(0, self.rows.shape)

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

    `wanted` tokens leave the last layer, and only `real` ones are computed; both are booleans
    (b, s). None: all tokens are wanted, or real.
    """
    usual = LayerTokens()
    if wanted is None:
        return usual, [usual] * layers
    positions = kept = _positions(wanted)
    if real is not None and _can_drop_padding(real, wanted):
        real = real.expand_as(wanted)
        indices = _indices(real)
        usual = LayerTokens(indices.view(real.shape), _positions(real))
        kept = indices[positions]
    return usual, [*[usual] * (layers - 1), LayerTokens(usual.rows, positions, kept)]


def _can_drop_padding(real: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether there is a real token, and no padding position on the left predicts the first one."""
    return bool(real.any()) and not bool((wanted & ~real).any())


def _positions(chosen: torch.Tensor) -> torch.Tensor:
    return chosen.flatten().nonzero().squeeze(1)


def _indices(chosen: torch.Tensor) -> torch.Tensor:
    """(b * s,): the index of each chosen token among the chosen; elsewhere that of a neighbor."""
    return (chosen.flatten().cumsum(0) - 1).clamp(min=0)


def _selected(states: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
    if indices is None:
        return states
    return states.flatten(0, 1).index_select(0, indices.to(states.device))[None]
