"""The architecture of ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B, with the official names of parameters.

A decoder with RMSNorm, grouped queries, SwiGLU and rotary positions on half of each head, with
interleaved pairs. Official checkpoints, prefixes and adapters load without conversion. Written from
scratch; tests/models/test_goldens.py compares it with the official code.

Shapes: b batch, s positions, h heads, g key-value groups, d head dim (kv_channels).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable
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


class ChatGLM2Config(PreTrainedConfig):
    """config.json of ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B; the defaults are the 6B models'."""

    model_type = "chatglm"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "vocab_size": "padded_vocab_size",
        "max_position_embeddings": "seq_length",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    # Keys that only this architecture has, and switches of the official code with the values of all
    # published models.
    distinguishing_keys: ClassVar[tuple[str, ...]] = ("padded_vocab_size", "ffn_hidden_size")
    required_values: ClassVar[dict[str, bool]] = {
        "rmsnorm": True,
        "post_layer_norm": True,
        "original_rope": True,
        "multi_query_attention": True,
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
        "fp32_residual_connection": False,
    }

    num_layers: int = 28
    padded_vocab_size: int = 65024
    hidden_size: int = 4096
    ffn_hidden_size: int = 13696
    kv_channels: int = 128
    num_attention_heads: int = 32
    seq_length: int = 32768
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    layernorm_epsilon: float = 1e-5
    rmsnorm: bool = True
    apply_residual_connection_post_layernorm: bool = False
    post_layer_norm: bool = True
    add_bias_linear: bool = False
    add_qkv_bias: bool = True
    multi_query_attention: bool = True
    multi_query_group_num: int = 2
    fp32_residual_connection: bool = False
    original_rope: bool = True
    rope_ratio: float = 1.0
    # Whether positions are divided by rope_ratio, or the rotary base is multiplied by it. Official
    # files do not have this key: there the family decides.
    interpolates_positions: bool = False
    quantization_bit: int = 0
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0

    def misfit(self) -> str | None:
        """Return why sizes are incompatible, or None: half a head rotates, heads share groups."""
        if self.kv_channels % 4 == 0 == self.num_attention_heads % self.multi_query_group_num:
            return None
        return (
            f"kv_channels {self.kv_channels}, num_attention_heads {self.num_attention_heads}, "
            f"multi_query_group_num {self.multi_query_group_num}: expected kv_channels that are a "
            "multiple of 4, and heads that are a multiple of the groups"
        )

    def matrix_weights(self) -> int:
        """The number of elements of all weight matrices: everything but biases and norms."""
        groups = self.num_attention_heads
        if self.multi_query_attention:
            groups = self.multi_query_group_num
        heads = 2 * self.num_attention_heads + 2 * groups  # of query, output, key and value
        layer = heads * self.kv_channels + 3 * self.ffn_hidden_size
        embeddings = self.padded_vocab_size * (1 if self.tie_word_embeddings else 2)
        return self.hidden_size * (self.num_layers * layer + embeddings)


def rotary_table(
    position_ids: torch.Tensor, config: ChatGLM2Config, dtype: torch.dtype
) -> KeyValue:
    """Cosines and sines (b, 1, s, d / 4) of the angles, computed in fp32 for every model dtype.

    The official code computes them in the model's dtype, which in fp16 is off by 0.78 rad at
    position 2048.
    """
    rotated = config.kv_channels // 2
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32, device=position_ids.device)
    base, positions = ROTARY_BASE * config.rope_ratio, position_ids[:, None, :, None].float()
    if config.interpolates_positions:
        base, positions = ROTARY_BASE, positions / config.rope_ratio
    angles = positions * (1.0 / base ** (exponents / rotated))
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: torch.Tensor, table: KeyValue) -> torch.Tensor:
    """Rotate the first half of the dims of (b, heads, s, d) in pairs: dims 0 and 1, 2 and 3, …"""
    return rotate_by(_rotate_pairs, states, table)


def _rotate_pairs(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    output = torch.empty_like(states)
    output[..., half:] = states[..., half:]
    given, rotated = (part[..., :half].unflatten(-1, (-1, 2)) for part in (states, output))
    if states.dtype is cos.dtype is torch.float32:  # a product of complex numbers is a rotation
        given, rotated = torch.view_as_complex(given), torch.view_as_complex(rotated)
        torch.mul(given, torch.complex(cos, sin), out=rotated)
    else:
        even, odd = given.unbind(-1)
        rotated[..., 0] = even * cos - odd * sin
        rotated[..., 1] = odd * cos + even * sin
    return output


class RMSNorm(nn.Module):
    """Scale to unit root mean square, in fp32, then by a learned weight."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, size) -> (…, size)."""
        if hidden.device.type == "cpu" and hidden.dtype is self.weight.dtype is torch.float32:
            normed: torch.Tensor = _RMSNorm.apply(hidden, self.weight, self.epsilon)
            return normed
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class _RMSNorm(torch.autograd.Function):
    """The norm on a CPU, where torch's own consists of many operators and takes twice as long."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = length.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        unit = hidden * scale
        context.save_for_backward(unit, weight, scale)
        return unit * weight

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        unit, weight, scale = context.saved_tensors
        product = gradients[0] * unit
        of_weight = None
        if context.needs_input_grad[1]:
            of_weight = product.reshape(-1, len(weight)).sum(dim=0)
        along = (product * weight).mean(dim=-1, keepdim=True).neg_()
        of_hidden = torch.mul(gradients[0], weight, out=product).addcmul_(unit, along).mul_(scale)
        return of_hidden, of_weight, None


class SelfAttention(nn.Module):
    """Grouped-query attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ChatGLM2Config, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.heads = config.num_attention_heads
        self.groups = config.multi_query_group_num
        self.head_dim = config.kv_channels
        self.dropout = config.attention_dropout
        self.widths = [self.head_dim * n for n in (self.heads, self.groups, self.groups)]
        self.query_key_value = Linear(
            config.hidden_size, sum(self.widths), bias=config.add_qkv_bias
        )
        self.dense = Linear(self.widths[0], config.hidden_size, bias=False)

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
        fused = tokens.in_rows(self.query_key_value(hidden)).split(self.widths, dim=-1)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in fused
        )
        query, key = rotate(query, rotary), rotate(key, rotary)
        context = attend_cached(
            query,
            key,
            value,
            cache=past_key_values,
            layer_index=self.layer_index,
            prefix=prefix,
            visible=visible,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.dense(tokens.of_rows(context))


class MLP(nn.Module):
    """SwiGLU: the first half of the wide projection gates the second."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, hidden) -> (…, hidden)."""
        gate, wide = self.dense_h_to_4h(hidden).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * wide)


class GLMBlock(GradientCheckpointingLayer):
    """One pre-norm layer."""

    def __init__(self, config: ChatGLM2Config, layer_index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = SelfAttention(config, layer_index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: torch.Tensor, tokens: LayerTokens, **context: Any) -> torch.Tensor:
        """The tokens taken -> those returned; arguments as for `SelfAttention.forward`."""
        attended = self.self_attention(self.input_layernorm(hidden), tokens, **context)
        hidden = tokens.of_taken(hidden) + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


class Embedding(nn.Module):
    """Holds the word embeddings under their official name.

    No padding_idx: pad is id 0, which is also `<unk>` and would then get no gradient.
    """

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        # Embeddings then outweigh what new layers add to them; otherwise a miniature does not learn
        # to copy words from its prompt within a thousand steps.
        set_initial_scale(self.word_embeddings, 5.0)


class GLMTransformer(nn.Module):
    """Holds the layers and the last norm under their official names."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GLMBlock(config, i) for i in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)


class ChatGLM2Model(nn.Module):
    """Maps token ids to the hidden states that the output layer takes."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = GLMTransformer(config)
        self.output_layer = Linear(config.hidden_size, config.padded_vocab_size, bias=False)
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
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        encoder = self.prefix_encoder
        visible = visible_positions(
            attention_mask,
            length,
            past_length,
            prefix_length=0 if encoder is None else encoder.pre_seq_len,
            device=input_ids.device,
        )
        hidden = self.embedding.word_embeddings(input_ids)
        if position_ids is None:
            position_ids = _positions(attention_mask, past_length, length, input_ids.device)
        hidden = run_layers(
            self,
            hidden,
            recorded,
            attention_mask,
            past_key_values,
            wanted,
            rotary=rotary_table(position_ids, self.config, working_dtype(hidden)),
            visible=visible,
        )
        return self.encoder.final_layernorm(hidden)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, wherever the official names put them."""
        return self.encoder.layers


def _positions(
    attention_mask: torch.Tensor | None, past_length: int, length: int, device: torch.device
) -> torch.Tensor:
    """Positions (b or 1, s) of the new tokens: from 0 at a row's first real token."""
    if attention_mask is None:
        return torch.arange(past_length, past_length + length, device=device)[None]
    return token_positions(attention_mask)[:, past_length:]


class ChatGLM2ForConditionalGeneration(ChatGLMCausalLM):
    """ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B as a transformers model."""

    config_class = ChatGLM2Config
    _no_split_modules = ["GLMBlock"]
    _keys_to_ignore_on_load_unexpected = [r"rotary_pos_emb\.inv_freq"]
    # A name that LLaMA-Factory also saves -> the official name.
    aliases: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.output_layer.weight"}

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__(config)
        self.transformer = ChatGLM2Model(config)
        self.post_init()

    def prefix_shape(self) -> PrefixShape:
        """As in the official code, the reparametrized prefix starts from full-width rows."""
        config = self.config
        shape = PrefixShape(
            layers=config.num_layers,
            groups=config.multi_query_group_num,
            head_dim=config.kv_channels,
            hidden_size=config.hidden_size,
            projected_from=2
            * config.num_layers
            * config.multi_query_group_num
            * config.kv_channels,
        )
        return shape

    def get_input_embeddings(self) -> Any:
        """The word embeddings."""
        return self.transformer.embedding.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.transformer.embedding.word_embeddings = value

    def get_output_embeddings(self) -> Any:
        """The output layer, which is not tied."""
        return self.transformer.output_layer

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.transformer.output_layer = new_embeddings
