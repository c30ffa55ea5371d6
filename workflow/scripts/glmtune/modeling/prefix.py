"""P-Tuning v2: a tuned prefix of keys and values in front of every layer's attention.

The prefix stays outside the KV cache: `causal_lm.attend` puts it before the keys, so
stock `generate()`, gradient checkpointing and left padding need to know nothing about it. Prefix
keys are not rotated and positions start at 0 after it. `checkpoints.prefix` reads and writes its
files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from glmtune.modeling.kv_cache import KeyValue

if TYPE_CHECKING:
    from glmtune.modeling.causal_lm import ChatGLMCausalLM

# The start of its weights' names in a model's state dict.
PREFIX_KEY = "transformer.prefix_encoder."
DROPOUT = 0.1  # as in the official code, in training only


@dataclass(frozen=True)
class PrefixShape:
    """The sizes of a model that determine the sizes of its prefix."""

    layers: int
    groups: int
    """Key-value heads."""
    head_dim: int
    hidden_size: int
    projected_from: int
    """Width of the rows that the reparametrized prefix starts from; the families differ."""

    @property
    def width(self) -> int:
        """Values per prefix position: keys and values of all layers."""
        return 2 * self.layers * self.groups * self.head_dim


class PrefixEncoder(nn.Module):
    """`pre_seq_len` trainable positions: direct, or computed by a small network (`projection`)."""

    def __init__(
        self, shape: PrefixShape, pre_seq_len: int, projection: bool, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.shape = shape
        self.pre_seq_len = pre_seq_len
        self.projection = projection
        self.dropout = nn.Dropout(dropout)
        self._computed: tuple[list[object], torch.Tensor] | None = None
        # torch's default initialization, N(0, 1) for the embedding, is the official one.
        if projection:
            self.embedding = nn.Embedding(pre_seq_len, shape.projected_from)
            self.trans = nn.Sequential(
                nn.Linear(shape.projected_from, shape.hidden_size),
                nn.Tanh(),
                nn.Linear(shape.hidden_size, shape.width),
            )
        else:
            self.embedding = nn.Embedding(pre_seq_len, shape.width)

    def forward(self, batch: int, dtype: torch.dtype) -> list[KeyValue]:
        """Keys and values of each layer, (batch, groups, pre_seq_len, head_dim) in `dtype`.

        Dropout applies to each row of the batch separately. In eval mode without gradients the
        network runs once, not once per generated token.
        """
        states = self._states(dtype).expand(-1, batch, -1, -1, -1)
        states = self.dropout(states)
        return list(zip(states[0::2], states[1::2], strict=True))

    def _states(self, dtype: torch.dtype) -> torch.Tensor:
        """The prefix as (2 * layers, 1, groups, pre_seq_len, head_dim)."""
        if self.training or torch.is_grad_enabled():
            self._computed = None
            return self._compute(dtype)
        # An optimizer step or loading changes a version, `.to()` changes an address.
        key: list[object] = [dtype]
        for parameter in self.parameters():
            key += [parameter.data_ptr(), parameter._version, parameter.device]
        if self._computed is None or self._computed[0] != key:
            self._computed = (key, self._compute(dtype))
        return self._computed[1]

    def _compute(self, dtype: torch.dtype) -> torch.Tensor:
        rows = self.embedding.weight
        if self.projection:
            rows = self.trans(rows)
        shape = self.shape
        states = rows.to(dtype).view(
            1, self.pre_seq_len, 2 * shape.layers, shape.groups, shape.head_dim
        )
        return states.permute(2, 0, 3, 1, 4)


def attach_prefix(
    model: ChatGLMCausalLM, *, pre_seq_len: int, projection: bool = False, dropout: float = DROPOUT
) -> PrefixEncoder:
    """Attach a new prefix to `model`, in fp32 whatever the model's dtype; freezes nothing."""
    shape = model.prefix_shape()
    # Initialized on the CPU, to be the same on every device; without weights if the model has none.
    with torch.device("meta" if model.device.type == "meta" else "cpu"):
        encoder = PrefixEncoder(shape, pre_seq_len, projection, dropout)
    return install(model, encoder)


def install(model: ChatGLMCausalLM, encoder: PrefixEncoder) -> PrefixEncoder:
    """Install a prefix in `model`, in fp32 on its device."""
    # A caller may have built the prefix under another default dtype.
    encoder.to(model.device, torch.float32).train(model.training)
    prefix_holder(model).prefix_encoder = encoder
    return encoder


def prefix_holder(model: ChatGLMCausalLM) -> Any:
    """The module with the attribute `prefix_encoder`, at the same place in both architectures."""
    return model.transformer
