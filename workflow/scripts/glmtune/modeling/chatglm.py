"""The architecture of ChatGLM-6B (the first family), with the official names of parameters.

A prefix-LM: attention is bidirectional in the prompt, up to `<sop>` (config.bos_token_id), and
causal in the answer. Positions are two-dimensional: row 0 counts the prompt and then stays at the
position of the token to fill in, [gMASK] or [MASK]; row 1 is 0 in the prompt and counts the answer
from 1. Each row of positions rotates half of each head. Residual paths are scaled and start at the
normed input. Written from scratch; the golden tests in tests/models/test_goldens.py compare it with
the official code.

Shapes: b batch, s positions, h heads, d head dim.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from glmtune.modeling.causal_lm import (
    ChatGLMCausalLM,
    attend_cached,
    rotate_by,
    run_layers,
    set_initial_scale,
    token_positions,
    visible_positions,
)
from glmtune.modeling.kv_cache import KeyValue
from glmtune.modeling.layer_tokens import LayerTokens
from glmtune.modeling.linear import Linear
from glmtune.modeling.precision import working_dtype
from glmtune.modeling.prefix import PrefixEncoder, PrefixShape

ROTARY_BASE = 10000
# The official code never passes num_layers to its blocks, so every model, even a 4-layer one, is
# scaled as if it had 28 layers; kept for checkpoint compatibility (golden tests: v1).
RESIDUAL_SCALE = math.sqrt(2 * 28)


class ChatGLMConfig(PreTrainedConfig):
    """config.json of ChatGLM-6B; the defaults are those of the 6B model."""

    model_type = "chatglm"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    # Keys that only this architecture has, and switches with the value of every published model.
    distinguishing_keys: ClassVar[tuple[str, ...]] = ("inner_hidden_size", "position_encoding_2d")
    required_values: ClassVar[dict[str, bool]] = {"position_encoding_2d": True}

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    max_sequence_length: int = 2048
    layernorm_epsilon: float = 1e-5
    position_encoding_2d: bool = True
    quantization_bit: int = 0
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int = 130004
    eos_token_id: int | None = 130005
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    pad_token_id: int | None = 3

    def misfit(self) -> str | None:
        """Return why the sizes are incompatible, or None: each half of a head rotates in pairs."""
        if self.hidden_size % (4 * self.num_attention_heads) == 0:
            return None
        return (
            f"hidden_size {self.hidden_size}, num_attention_heads {self.num_attention_heads}: "
            "expected a hidden_size that is a multiple of 4 x num_attention_heads"
        )

    def matrix_weights(self) -> int:
        """The number of elements of all weight matrices: everything but biases and norms."""
        layer = 4 * self.hidden_size + 2 * self.inner_hidden_size
        embeddings = self.vocab_size * (1 if self.tie_word_embeddings else 2)
        return self.hidden_size * (self.num_layers * layer + embeddings)


def first_index(input_ids: torch.Tensor, token_id: int) -> torch.Tensor:
    """The first column of `token_id` in each row of (b, s), or s: (b,)."""
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    return columns.where(input_ids == token_id, input_ids.shape[1]).amin(dim=1)


def prompt_positions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: ChatGLMConfig
) -> torch.Tensor:
    """Positions (b, 2, s) of rows that begin with a prompt; real tokens are counted from 0.

    Where a row has both [MASK] and [gMASK], the official tokenizer, which makes mask and
    positions together, fills in [MASK]; the official model, given ids alone, fills in [gMASK].
    Kept: with an attention_mask [MASK] comes first, without one [gMASK] (golden tests: v1).
    Example: 7 8 [gMASK] `<sop>` 9 -> [0, 1, 2, 2, 2] and [0, 0, 0, 1, 2].
    """
    length = input_ids.shape[1]
    columns = torch.arange(length, device=input_ids.device)
    start = first_index(input_ids, config.bos_token_id)[:, None]
    fill_tokens = [config.mask_token_id, config.gmask_token_id]
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
        fill_tokens.reverse()
    first, second = (first_index(input_ids, token)[:, None] for token in fill_tokens)
    fill = first.where(first < length, second)
    if bool((start == length).any() | (fill == length).any()):
        raise ValueError(
            "ChatGLM-6B needs [gMASK] or [MASK], and <sop>, in every row of input_ids: "
            f"ids {config.gmask_token_id} or {config.mask_token_id}, and {config.bos_token_id}"
        )
    counted = token_positions(attention_mask)
    answering = columns >= start  # (b, s)
    row = counted.gather(1, fill).expand_as(counted).where(answering, counted)
    block = (columns - start + 1).where(answering, 0)
    return torch.stack((row, block), dim=1)


def rotary_table(position_ids: torch.Tensor, config: ChatGLMConfig, dtype: torch.dtype) -> KeyValue:
    """Cosines and sines (b, 1, s, 2, d / 4) for positions (b, 2, s), computed in fp32.

    The frequencies are rounded to fp16 first, as the official code does in models of every type;
    kept for checkpoint compatibility (golden tests: v1).
    """
    rotated = config.hidden_size // config.num_attention_heads // 2
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32, device=position_ids.device)
    frequencies = (1.0 / ROTARY_BASE ** (exponents / rotated)).half().float()
    positions = position_ids.transpose(1, 2).contiguous()  # so that the table is, too
    angles = positions[:, None, :, :, None].float() * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: torch.Tensor, table: KeyValue) -> torch.Tensor:
    """Rotate each half of the dims of (b, h, s, d) by its own position, dim i with i + d / 4."""
    return rotate_by(_rotate_halves, states, table)


def _rotate_halves(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    # On a CPU, a slice of the projection takes twice as long to rotate as a contiguous copy.
    is_copied = states.device.type == "cpu"
    halves = (states.contiguous() if is_copied else states).unflatten(-1, (2, -1))
    output = torch.empty_like(halves)
    (low, high), (rotated_low, rotated_high) = halves.chunk(2, dim=-1), output.chunk(2, dim=-1)
    torch.mul(low, cos, out=rotated_low).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=rotated_high).addcmul_(low, sin)
    rotated = output.flatten(-2)
    # Attention's result has the layout of its queries, and this one saves `attend` a copy.
    return rotated.transpose(1, 2).contiguous().transpose(1, 2) if is_copied else rotated


class SelfAttention(nn.Module):
    """Attention with one fused projection: the query, key and value of a head side by side."""

    def __init__(self, config: ChatGLMConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.heads = config.num_attention_heads
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        tokens: LayerTokens,
        rotary: KeyValue,
        visible: torch.Tensor | None,
        prefix: KeyValue | None,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        """The tokens taken -> those returned; caches new keys and values, but not the prefix."""
        fused = tokens.in_rows(self.query_key_value(hidden))
        fused = fused.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = fused.chunk(3, dim=-1)
        query, key = rotate(query, rotary), rotate(key, rotary)
        context = attend_cached(
            query,
            key,
            value,
            cache=past_key_values,
            layer_index=self.layer_index,
            prefix=prefix,
            visible=visible,
        )
        return self.dense(tokens.of_rows(context))


class MLP(nn.Module):
    """Two projections around a GELU (its tanh form)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, hidden) -> (…, hidden)."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate="tanh"))


class GLMBlock(GradientCheckpointingLayer):
    """One layer; each residual path starts at the normed input and is scaled up."""

    def __init__(self, config: ChatGLMConfig, layer_index: int) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.attention = SelfAttention(config, layer_index)
        self.post_attention_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.mlp = MLP(config)
        for linear in (self.attention.dense, self.mlp.dense_4h_to_h):
            # A new layer contributes as much as in a network without the residual scale.
            set_initial_scale(linear, RESIDUAL_SCALE)

    def forward(self, hidden: torch.Tensor, tokens: LayerTokens, **context: Any) -> torch.Tensor:
        """The tokens taken -> those returned; arguments as for `SelfAttention.forward`."""
        normed = self.input_layernorm(hidden)
        attended = self.attention(normed, tokens, **context)
        hidden = tokens.of_taken(normed) * RESIDUAL_SCALE + attended
        normed = self.post_attention_layernorm(hidden)
        return normed * RESIDUAL_SCALE + self.mlp(normed)


class ChatGLMModel(nn.Module):
    """Maps token ids to the hidden states that the output layer takes."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, i) for i in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.prefix_encoder: PrefixEncoder | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        past_key_values: Cache | None,
        recorded: list[torch.Tensor] | None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(b, s) -> (b, s, hidden), or (1, m, hidden) of the tokens where `wanted` (b, s) is True.

        The input of every layer is appended to `recorded`.
        """
        length = input_ids.shape[1]
        config = self.config
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        encoder = self.prefix_encoder
        visible = visible_positions(
            attention_mask,
            length,
            past_length,
            prefix_length=0 if encoder is None else encoder.pre_seq_len,
            context_lengths=self._context_lengths(input_ids, past_length),
            device=input_ids.device,
        )
        if position_ids is None:
            if past_length:
                raise ValueError("position_ids: needed with past_key_values; (b, 2, s)")
            position_ids = prompt_positions(input_ids, attention_mask, config)
        hidden = self.word_embeddings(input_ids)
        hidden = run_layers(
            self,
            hidden,
            recorded,
            attention_mask,
            past_key_values,
            wanted,
            rotary=rotary_table(position_ids, config, working_dtype(hidden)),
            visible=visible,
        )
        return self.final_layernorm(hidden)

    def _context_lengths(self, input_ids: torch.Tensor, past_length: int) -> torch.Tensor | None:
        """The number of leading columns all queries of a row attend to: the prompt before `<sop>`.

        Ids without `<sop>` continue an answer; then only the past is context.
        """
        if past_length and input_ids.shape[1] == 1:
            return None
        start = first_index(input_ids, self.config.bos_token_id)
        return past_length + start.where(start < input_ids.shape[1], 0)


class ChatGLMForConditionalGeneration(ChatGLMCausalLM):
    """ChatGLM-6B as a transformers model."""

    config_class = ChatGLMConfig
    _no_split_modules = ["GLMBlock"]
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def prefix_shape(self) -> PrefixShape:
        """As in the official code, the reparametrized prefix starts from rows of hidden_size."""
        config = self.config
        return PrefixShape(
            layers=config.num_layers,
            groups=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            hidden_size=config.hidden_size,
            projected_from=config.hidden_size,
        )

    def position_shape(self, rows: int, length: int) -> tuple[int, ...]:
        """Two positions for each token: in the prompt, and in the answer."""
        return (rows, 2, length)

    def prompt_position_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Two rows of positions, (b, 2, s), as the official tokenizer makes them."""
        config: Any = self.config
        return prompt_positions(input_ids, torch.ones_like(input_ids), config)

    def next_position_ids(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Only the second row of positions advances in an answer."""
        return torch.cat((position_ids[:, :1], position_ids[:, 1:] + 1), dim=1)

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Two rows of positions for the prompt of `generate()`, (b, 2, s)."""
        config: Any = self.config
        return prompt_positions(inputs_tensor, model_kwargs.get("attention_mask"), config)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat each row for its beams; transformers takes 3-D positions for (rows, b, s)."""
        position_ids = kwargs.pop("position_ids", None)
        parent: Any = super()
        expanded = parent._expand_inputs_for_generation(expand_size, *args, **kwargs)
        if position_ids is not None:
            expanded[1]["position_ids"] = position_ids.repeat_interleave(expand_size, dim=0)
        return expanded

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Append the positions of the new tokens: only the second row advances."""
        position_ids = model_kwargs["position_ids"]
        updated = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, **kwargs
        )
        new = updated["position_ids"][..., position_ids.shape[-1] :].clone()
        new[:, 0] = position_ids[:, 0, -1:]
        updated["position_ids"] = torch.cat((position_ids, new), dim=-1)
        return updated

    def get_input_embeddings(self) -> Any:
        """The word embeddings."""
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> Any:
        """The output layer; its weight is that of the word embeddings."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings
