"""P-Tuning v2: a tuned prefix of keys and values in front of every layer's attention.

The prefix stays outside the KV cache: `families.causal_lm.attend` puts it before the keys, so
stock `generate()`, gradient checkpointing and left padding need to know nothing about it. Prefix
keys are not rotated and positions start at 0 after it. Files are as THUDM's `ptuning/` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from glmtune.errors import WeightsError
from glmtune.files import atomic_path, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX_KEY = "transformer.prefix_encoder."
# A prefix of PEFT's PREFIX_TUNING, as ChatGLM3's finetune_demo writes it: one row a position, its
# keys and values in the official order. A network before it is already applied.
PEFT_KEY = "prompt_embeddings"
WEIGHTS_FILE = "pytorch_model.bin"
INFO_FILE = "info.json"
DROPOUT = 0.1  # of the official code, in training

KeyValue = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class PrefixShape:
    """The sizes of a model that decide the sizes of its prefix."""

    layers: int
    groups: int
    """Key-value heads."""
    head_dim: int
    hidden_size: int
    projected_from: int
    """Width of the rows that the reparametrised prefix starts from; the generations differ."""

    @property
    def width(self) -> int:
        """Values in one prefix position: keys and values of all layers."""
        return 2 * self.layers * self.groups * self.head_dim


class PrefixEncoder(nn.Module):
    """`pre_seq_len` trainable positions: direct, or through a small network (`projection`)."""

    def __init__(
        self, shape: PrefixShape, pre_seq_len: int, projection: bool, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.shape = shape
        self.pre_seq_len = pre_seq_len
        self.projection = projection
        self.dropout = nn.Dropout(dropout)
        self._computed: tuple[list[object], torch.Tensor] | None = None
        # torch's own initial values, N(0, 1) for the embedding, are the official ones.
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

        Dropout falls on each row of the batch by itself. Without training and gradients the
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
        # An optimizer step or a load changes a version, `.to()` an address.
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
    model: PreTrainedModel, *, pre_seq_len: int, projection: bool = False, dropout: float = DROPOUT
) -> PrefixEncoder:
    """Give `model` a fresh prefix in fp32, whatever the type of the model; freezes nothing."""
    shape = _prefix_shape(model)
    # Drawn on the CPU, so that it is the same on every device; of no weights for a model of none.
    with torch.device("meta" if model.device.type == "meta" else "cpu"):
        encoder = PrefixEncoder(shape, pre_seq_len, projection, dropout)
    return _attach(model, encoder)


def save_prefix(model: PreTrainedModel, folder: Path | str) -> None:
    """Write the prefix of `model` as THUDM's checkpoints hold it, and its sizes for a reader."""
    encoder: PrefixEncoder | None = _inside(model).prefix_encoder
    if encoder is None:
        raise ValueError("the model has no prefix to save; call attach_prefix first")
    state = write_prefix(encoder, folder)
    info = {
        "pre_seq_len": encoder.pre_seq_len,
        "prefix_projection": encoder.projection,
        "parameters": {name: list(tensor.shape) for name, tensor in state.items()},
    }
    write_json(Path(folder) / INFO_FILE, info)


def write_prefix(encoder: PrefixEncoder, folder: Path | str) -> dict[str, torch.Tensor]:
    """Write the weights alone, under the names that THUDM's trainer gives them; returns them."""
    state = {PREFIX_KEY + name: t.cpu().contiguous() for name, t in encoder.state_dict().items()}
    with atomic_path(Path(folder) / WEIGHTS_FILE) as temporary:
        torch.save(state, temporary)
    return state


def load_prefix(model: PreTrainedModel, folder: Path | str) -> PrefixEncoder:
    """Attach the prefix in `folder`, ours, THUDM's or PEFT's, sizes taken from its tensors.

    Raises WeightsError if the folder holds no prefix or one of another model.
    """
    return _attach(model, read_prefix(_prefix_shape(model), folder))


def read_prefix(shape: PrefixShape, folder: Path | str) -> PrefixEncoder:
    """The prefix in `folder`, of a model with the sizes `shape`; raises as `load_prefix`."""
    from glmtune.checkpoints.tensors import read_weights

    state = {
        "embedding.weight" if name == PEFT_KEY else name.removeprefix(PREFIX_KEY): tensor
        for name, tensor in read_weights(Path(folder))
        if name == PEFT_KEY or name.startswith(PREFIX_KEY)
    }
    return _encoder(shape, state, source=str(folder))


def install_prefix(
    model: PreTrainedModel, state: dict[str, torch.Tensor], *, source: str
) -> PrefixEncoder:
    """Attach a prefix with the weights `state`; `source` names them in messages."""
    return _attach(model, _encoder(_prefix_shape(model), state, source=source))


def _encoder(shape: PrefixShape, state: dict[str, torch.Tensor], *, source: str) -> PrefixEncoder:
    """A prefix with the weights `state`; raises WeightsError unless they are of these sizes."""
    embedding = state.get("embedding.weight")
    if embedding is None:
        raise WeightsError(
            f"{source}: no prefix in it; expected {PREFIX_KEY}embedding.weight, "
            f"as P-Tuning v2 saves it, or {PEFT_KEY}, as PEFT does"
        )
    encoder = PrefixEncoder(shape, embedding.shape[0], "trans.0.weight" in state)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise WeightsError(
                f"{source}: {PREFIX_KEY}{name}: found {_shape(found.get(name))}; this model "
                f"({_sizes(shape)}) expects {_shape(expected.get(name))}; "
                "was the prefix tuned on another model?"
            )
    encoder.load_state_dict(state)
    return encoder


def _attach(model: PreTrainedModel, encoder: PrefixEncoder) -> PrefixEncoder:
    # A caller may have built the model under another default type; the prefix is fp32.
    encoder.to(model.device, torch.float32).train(model.training)
    _inside(model).prefix_encoder = encoder
    return encoder


def _inside(model: PreTrainedModel) -> Any:
    """The module that holds the prefix; both architectures name it so."""
    return model.transformer


def _prefix_shape(model: Any) -> PrefixShape:
    return model.prefix_shape()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else "x".join(map(str, shape))


def _sizes(shape: PrefixShape) -> str:
    return f"{shape.layers} layers, {shape.groups} key-value heads of {shape.head_dim}"
