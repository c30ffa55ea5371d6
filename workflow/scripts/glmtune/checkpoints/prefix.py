"""Read and write P-Tuning v2 prefixes: THUDM's `ptuning/`, PEFT's PREFIX_TUNING, our own."""

from __future__ import annotations

from pathlib import Path

import torch

from glmtune.checkpoints.tensors import read_weights
from glmtune.errors import WeightsError
from glmtune.files import atomic_path, write_json
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.prefix import (
    PREFIX_KEY,
    PrefixEncoder,
    PrefixShape,
    install,
    prefix_holder,
)

# A prefix of PEFT's PREFIX_TUNING, as ChatGLM3's finetune_demo writes it: one row per position,
# its keys and values in the official order. A projection network has already been applied.
PEFT_KEY = "prompt_embeddings"
WEIGHTS_FILE = "pytorch_model.bin"
INFO_FILE = "info.json"


def save_prefix(model: ChatGLMCausalLM, folder: Path | str) -> None:
    """Write the prefix of `model` as in THUDM's checkpoints, and its sizes for human readers."""
    encoder: PrefixEncoder | None = prefix_holder(model).prefix_encoder
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
    """Write only the weights, under the names that THUDM's trainer uses; return them."""
    state = {PREFIX_KEY + name: t.cpu().contiguous() for name, t in encoder.state_dict().items()}
    with atomic_path(Path(folder) / WEIGHTS_FILE) as temporary:
        torch.save(state, temporary)
    return state


def load_prefix(model: ChatGLMCausalLM, folder: Path | str) -> PrefixEncoder:
    """Attach the prefix in `folder` (ours, THUDM's or PEFT's); its tensors decide its sizes.

    Raises WeightsError if the folder holds no prefix, or one for another model.
    """
    return install(model, read_prefix(model.prefix_shape(), folder))


def read_prefix(shape: PrefixShape, folder: Path | str) -> PrefixEncoder:
    """Read the prefix in `folder` for a model with the sizes `shape`; raises like `load_prefix`."""
    state = {
        "embedding.weight" if name == PEFT_KEY else name.removeprefix(PREFIX_KEY): tensor
        for name, tensor in read_weights(Path(folder))
        if name == PEFT_KEY or name.startswith(PREFIX_KEY)
    }
    return _encoder(shape, state, source=str(folder))


def install_prefix(
    model: ChatGLMCausalLM, state: dict[str, torch.Tensor], *, source: str
) -> PrefixEncoder:
    """Attach a prefix with the weights `state`; `source` names them in messages."""
    return install(model, _encoder(model.prefix_shape(), state, source=source))


def _encoder(shape: PrefixShape, state: dict[str, torch.Tensor], *, source: str) -> PrefixEncoder:
    """Build a prefix with the weights `state`; WeightsError unless they have these sizes."""
    embedding = state.get("embedding.weight")
    if embedding is None:
        raise WeightsError(
            f"{source}: found no prefix; expected {PREFIX_KEY}embedding.weight, "
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


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else "x".join(map(str, shape))


def _sizes(shape: PrefixShape) -> str:
    return f"{shape.layers} layers, {shape.groups} key-value heads of {shape.head_dim}"
