"""What the two architectures share: attention over a prefix, visibility, the loss, the outer class.

Knows nothing about positions, norms or residual paths: those are what tells ChatGLM-6B
(`modeling/chatglm.py`) from ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B (`modeling/chatglm2.py`).

Shapes: b batch, s query positions, t key positions (cached and new), p prefix length, h heads,
g key-value groups, d head dim. Caches and prefixes are (b, g, positions, d).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from glmtune.labels import IGNORED_LABEL
from glmtune.modeling.kv_cache import KeyValue, PromptCache, SlotCache
from glmtune.modeling.layer_tokens import tokens_of_layers
from glmtune.modeling.precision import working_dtype
from glmtune.modeling.target_loss import count_items, mean_target_loss

if TYPE_CHECKING:
    from glmtune.modeling.prefix import PrefixShape


def attend_cached(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    cache: Cache | PromptCache | SlotCache | None,
    layer_index: int,
    prefix: KeyValue | None,
    visible: torch.Tensor | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Let new keys and values enter the cache, the prefix not; then as `attend`."""
    if isinstance(cache, SlotCache):  # its rows differ in length, and it holds the prefix
        return cache.attend(query, key, value, layer_index)
    if cache is not None:
        key, value = cache.update(key, value, layer_index)
    return attend(query, key, value, prefix=prefix, visible=visible, dropout=dropout)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    prefix: KeyValue | None,
    visible: torch.Tensor | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention of query (b, h, s, d) over a prefix, key and value (b, g, ., d): (b, s, h * d).

    `visible` is (b or 1, 1, s, p + t), True where a query may look; None means causal, or
    everything for a single query.
    """
    if prefix is not None:
        key = torch.cat((prefix[0], key), dim=2)
        value = torch.cat((prefix[1], value), dim=2)
    batch, heads, length, head_dim = query.shape
    groups = key.shape[1]
    if length == 1:
        # The heads of a group ask the same keys: as rows of one query they need no copied keys.
        query = query.reshape(batch, groups, heads // groups, head_dim)
    elif groups != heads and (query.device.type != "cpu" or query.dtype != torch.float32):
        # A GPU's fused kernels take a mask or fewer heads of keys than of queries, but not both. In
        # half precision the CPU's kernel adds up the gradients of a group's heads less exactly.
        key = key.repeat_interleave(heads // groups, dim=1)
        value = value.repeat_interleave(heads // groups, dim=1)
    context = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=visible is None and length > 1,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    if length == 1:
        return context.reshape(batch, 1, heads * head_dim)
    return context.transpose(1, 2).reshape(batch, length, heads * head_dim)


def visible_positions(
    attention_mask: torch.Tensor | None,
    length: int,
    past_length: int,
    *,
    prefix_length: int = 0,
    context_lengths: torch.Tensor | None = None,
    device: torch.device,
) -> torch.Tensor | None:
    """Where queries may look, as `attend` takes it.

    Causal; besides, the first `context_lengths[i]` columns of row i are visible to all its
    queries (prefix-LM), and so is the tuned prefix. Padding is visible to no real token; a query
    that is padding sees everything, because a softmax over nothing is not a number.
    """
    total = past_length + length
    real = _real_tokens(attention_mask, total)
    if real is None and length == 1:
        return None
    if real is None and total == length and prefix_length == 0 and context_lengths is None:
        return None
    columns = torch.arange(total, device=device)
    rows = columns[past_length:]
    visible = (columns <= rows[:, None])[None]  # (1, s, t)
    if context_lengths is not None:
        visible = visible | (columns < context_lengths[:, None])[:, None, :]
    if real is not None:
        visible = visible & real[:, None, :] | ~real[:, past_length:, None]
    return F.pad(visible, (prefix_length, 0), value=True)[:, None]


def _real_tokens(attention_mask: torch.Tensor | None, total: int) -> torch.Tensor | None:
    """The 2-D mask as booleans (b, t), or None if nothing is padding."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] != total:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected (batch, {total}): "
            "1 for a real token, 0 for padding, cached tokens included"
        )
    real = attention_mask.bool()
    return None if bool(real.all()) else real


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Count real tokens from 0 in each row; left padding gets 0. [0, 0, 1, 1] -> [0, 0, 0, 1]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def rotate_by(
    turn: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    states: torch.Tensor,
    table: KeyValue,
) -> torch.Tensor:
    """`turn(states, cos, sin)`, a rotation in any layout; gradients turn by the opposite angle.

    Left to autograd, the slices of a rotation take four times as long on a CPU.
    """
    if not torch.is_grad_enabled():
        return turn(states, *table)
    rotated: torch.Tensor = _Rotation.apply(states, *table, turn)
    return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, turn: Any
    ) -> torch.Tensor:
        context.save_for_backward(cos, sin)
        context.turn = turn
        rotated: torch.Tensor = turn(states, cos, sin)
        return rotated

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = context.saved_tensors
        gradient = gradients[0]
        if gradient.stride(-1) != 1:
            gradient = gradient.contiguous()
        return context.turn(gradient, cos, -sin), None, None, None


def run_layers(
    model: Any,
    hidden: torch.Tensor,
    recorded: list[torch.Tensor] | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    wanted: torch.Tensor | None,
    **context: Any,
) -> torch.Tensor:
    """Pass hidden (b, s, hidden) through `model.layers`, each with its part of the prefix.

    Returns (b, s, hidden), or (1, m, hidden) of the tokens where `wanted` (b, s) is True. With
    `wanted`, layers skip padding unless a record or a cache needs whole rows. The input of each
    layer is appended to `recorded`; `context` goes to every layer.
    """
    encoder = model.prefix_encoder
    prefixes: list[KeyValue | None] = [None] * len(model.layers)
    if encoder is not None and not isinstance(past_key_values, SlotCache):
        prefixes = encoder(hidden.shape[0], working_dtype(hidden))
    real = None
    if wanted is not None and recorded is None and past_key_values is None:
        real = _real_tokens(attention_mask, hidden.shape[1])
    entering, tokens = tokens_of_layers(real, wanted, len(model.layers))
    hidden = entering.of_rows(hidden)
    for layer, own_tokens, prefix in zip(model.layers, tokens, prefixes, strict=True):
        if recorded is not None:
            recorded.append(hidden)
        hidden = layer(
            hidden, tokens=own_tokens, prefix=prefix, past_key_values=past_key_values, **context
        )
    return hidden


def set_initial_scale(module: nn.Linear | nn.Embedding, scale: float) -> None:
    """Let a model built anew draw this module's weights `scale` times as large as others."""
    module.initial_scale = scale  # type: ignore[assignment]


class ChatGLMCausalLM(PreTrainedModel, GenerationMixin):
    """The outer class of both architectures: hidden states in, logits or loss out.

    A subclass provides `transformer` (token ids to final hidden states), `prefix_shape()` and the
    two embeddings.
    """

    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    loss_type = "ForCausalLM"  # tells the Trainer that labels are shifted in here
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_attention_backend = False
    _skip_keys_device_placement = ["past_key_values"]
    config_class: Any
    # Other savers' names of tensors -> the official ones.
    aliases: ClassVar[dict[str, str]] = {}
    transformer: Any

    def prefix_shape(self) -> PrefixShape:
        """The sizes of a P-Tuning v2 prefix for this model."""
        raise NotImplementedError

    def position_shape(self, rows: int, length: int) -> tuple[int, ...]:
        """The shape of position_ids for `rows` rows of this length."""
        return (rows, length)

    def prompt_position_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The position_ids of prompts (b, s) that are padded on the right, if at all."""
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)

    def next_position_ids(self, position_ids: torch.Tensor) -> torch.Tensor:
        """The position_ids (b, …, 1) of the tokens that follow those at `position_ids`."""
        return position_ids + 1

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of variance 1 / hidden size: 0.02 at 6B, and it suits a miniature."""
        if isinstance(module, nn.Linear | nn.Embedding):
            std = getattr(module, "initial_scale", 1.0) * self.config.hidden_size**-0.5
            init.normal_(module.weight, mean=0.0, std=std)
        elif "Norm" in type(module).__name__:
            init.ones_(module.get_parameter("weight"))
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            init.zeros_(module.get_parameter("bias"))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        skip_logits: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, s, vocabulary) of token ids (b, s), and the loss if there are labels (b, s).

        With `skip_logits`, which is so by default in training, only the loss is computed, from the
        positions that have a target: logits at 130,000 words would be most of the memory.
        """
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("inputs_embeds: not supported; pass input_ids")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if not use_cache:
            past_key_values = None
        elif past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        recorded: list[torch.Tensor] | None = [] if output_hidden_states else None
        skip_logits = self.training if skip_logits is None else skip_logits
        targets = None if labels is None else _next_labels(labels.to(input_ids.device))
        wanted = None
        if targets is not None and skip_logits and recorded is None:
            wanted = targets != IGNORED_LABEL  # the loss needs nothing else of the last layer
        hidden = self.transformer(
            input_ids, attention_mask, position_ids, past_key_values, recorded, wanted
        )
        loss: torch.Tensor | None = None
        logits: torch.Tensor | None = None
        if targets is None:
            logits = self._logits(hidden, logits_to_keep)
        else:
            targets = targets.to(hidden.device)
            chosen = targets != IGNORED_LABEL
            targets = targets[chosen]
            if skip_logits:
                states = hidden[chosen] if wanted is None else hidden[0]
                head = self.get_output_embeddings()
                loss = mean_target_loss(states, head, targets, num_items_in_batch)
            else:
                logits = self._logits(hidden, 0)
                total = F.cross_entropy(logits[chosen].float(), targets, reduction="sum")
                loss = total / count_items(targets, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=None if recorded is None else (*recorded, hidden),
        )

    def _logits(self, hidden: torch.Tensor, kept: int | torch.Tensor) -> torch.Tensor:
        positions = slice(-kept, None) if isinstance(kept, int) else kept
        # One matrix product for the batch: with gaps between rows torch makes one of each.
        return self.get_output_embeddings()(hidden[:, positions].contiguous())

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        """Leave the 2-D mask as it is: the model itself knows what is visible."""
        return attention_mask


def _next_labels(labels: torch.Tensor) -> torch.Tensor:
    """The label that each position of (b, s) predicts; the last one predicts none."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


def tied_names(model: PreTrainedModel) -> list[str]:
    """Parameters that are another one under a second name, if the model ties them."""
    return list(model._tied_weights_keys or {}) if model.config.tie_word_embeddings else []
