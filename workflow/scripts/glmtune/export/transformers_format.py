"""Converts ChatGLM2-6B and ChatGLM3-6B to transformers' own GlmForCausalLM and fast tokenizer.

The architecture is the same under other names: nothing is permuted, two fused matrices are split.
The vocabulary becomes a tokenizer.json that gives the same ids. No remote code is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from glmtune.errors import WeightsError
from glmtune.families.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer
from glmtune.files import write_json
from glmtune.modeling.chatglm2 import ROTARY_BASE, ChatGLM2Config

# GlmConfig's key -> the official one.
CONFIG_NAMES = {
    "vocab_size": "padded_vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "multi_query_group_num",
    "head_dim": "kv_channels",
    "attention_bias": "add_qkv_bias",
    "attention_dropout": "attention_dropout",
    "rms_norm_eps": "layernorm_epsilon",
    "max_position_embeddings": "seq_length",
    "use_cache": "use_cache",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
}
# Parts of tensor names, official -> transformers'.
RENAMED = {
    "transformer.output_layer.": "lm_head.",
    "transformer.embedding.word_embeddings.": "model.embed_tokens.",
    "transformer.encoder.final_layernorm.": "model.norm.",
    "transformer.encoder.layers.": "model.layers.",
    ".self_attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
FUSED = ".self_attention.query_key_value."
# Commands that are plain words; the angle brackets keep them apart from English words.
BRACKETED = {"sop": "<sop>", "eop": "<eop>"}
# Jinja templates for the messages of `chat_prompt_ids`. Transformers encodes the text at once, the
# official code of ChatGLM3 in parts: the space before a content is the dummy one it gets there.
ROUNDS = """[gMASK]<sop>
{%- set said = namespace(before="", rounds=0, last="assistant") %}
{%- for message in messages %}
    {%- if message.role == "system" and said.last != "user" %}
        {%- set said.before = said.before + message.content + "\n" %}
    {%- elif message.role == "user" and said.last != "user" %}
        {%- set said.rounds = said.rounds + 1 %}
        {{- "[Round " ~ said.rounds ~ "]\n\n问：" ~ said.before ~ message.content ~ "\n\n答：" }}
        {%- set said.before = "" %}
        {%- set said.last = "user" %}
    {%- elif message.role == "assistant" and said.last == "user" %}
        {{- message.content ~ "\n\n" }}
        {%- set said.last = "assistant" %}
    {%- else %}
        {{- raise_exception("Questions (user) and answers (assistant) take turns.") }}
    {%- endif %}
{%- endfor %}"""
MESSAGES = """[gMASK]<sop>
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "system" and message.tools is defined %}
        {%- set content = content ~ "\n" ~ message.tools | tojson(indent=4) %}
    {%- endif %}
    {{- "<|" ~ message.role ~ "|>" ~ message.metadata | default("") ~ "\n" }}
    {{- " " ~ content if content else "" }}
{%- endfor %}
{{- "<|assistant|>" if add_generation_prompt else "" }}"""
CHAT_TEMPLATES = {ChatGLM2Tokenizer: ROUNDS, ChatGLM3Tokenizer: MESSAGES}
# Texts that are easy to get wrong; both tokenizers must agree on them.
PROBES = (
    "",
    " ",
    "类型#裙*颜色#白色，风格#简约。",
    "  two  blanks\n\n\tand a tab\r\n ",
    "English, 中文 und Größe 1234567890 mixed",
    "😀👨\u200d👩\u200d👧 한국어 \u3000全角▁ \x00",
    "[gMASK] sop <|user|> </s> <unk> <0x41>",
)


def glm_config(config: ChatGLM2Config, stop_ids: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """The values of transformers' config.json."""
    rotary = _rope_parameters(config)
    return {
        **{new: getattr(config, old) for new, old in CONFIG_NAMES.items()},
        "architectures": ["GlmForCausalLM"],
        "eos_token_id": list(stop_ids),
        "hidden_act": "silu",
        "model_type": "glm",
        # Transformers 5 reads the first key, version 4 the others.
        "rope_parameters": rotary,
        "rope_theta": rotary["rope_theta"],
        "partial_rotary_factor": rotary["partial_rotary_factor"],
        **({"rope_scaling": rotary} if config.interpolates_positions else {}),
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }


def _rope_parameters(config: ChatGLM2Config) -> dict[str, Any]:
    """The rotary embedding in transformers' terms."""
    half = {"partial_rotary_factor": 0.5}
    if config.interpolates_positions:
        scaling = {"rope_type": "linear", "factor": float(config.rope_ratio)}
        return {**scaling, "rope_theta": float(ROTARY_BASE), **half}
    theta = float(ROTARY_BASE * config.rope_ratio)
    return {"rope_type": "default", "rope_theta": theta, **half}


def glm_state(state: dict[str, torch.Tensor], config: ChatGLM2Config) -> dict[str, torch.Tensor]:
    """The tensors under transformers' names, with separate queries, keys and values."""
    widths = [
        config.kv_channels * heads
        for heads in (
            config.num_attention_heads,
            config.multi_query_group_num,
            config.multi_query_group_num,
        )
    ]
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if FUSED not in name:
            renamed[name] = tensor
            continue
        for letter, rows in zip("qkv", tensor.split(widths), strict=True):
            # A copy: safetensors cannot store views of one tensor.
            renamed[name.replace(FUSED, f".self_attn.{letter}_proj.")] = rows.clone()
    return renamed


def write_fast_tokenizer(
    processor: SentencePieceProcessor,
    tokenizer: ChatGLM2Tokenizer | ChatGLM3Tokenizer,
    folder: Path,
) -> None:
    """Write tokenizer.json and tokenizer_config.json, with a chat template, for AutoTokenizer.

    Raises WeightsError if it would not give the ids of `tokenizer`.
    """
    fast = _fast_tokenizer(processor, tokenizer)
    fast.encode_special_tokens = True
    for text in PROBES:
        if fast.encode(text).ids != tokenizer.encode(text):
            raise WeightsError(
                f"{ChatGLM2Tokenizer.file_name}: as a tokenizer.json this vocabulary gives "
                f"different ids for {text!r}; expected BPE with byte fallback and no "
                "normalization, as published; use --format official"
            )
    fast.save(str(folder / "tokenizer.json"))
    unknown, end = (processor.id_to_piece(i) for i in (processor.unk_id(), processor.eos_id()))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unknown,
        "pad_token": unknown,  # as in the official tokenizer
        "eos_token": end,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATES[type(tokenizer)],
    }
    write_json(folder / "tokenizer_config.json", settings)


def _fast_tokenizer(
    processor: SentencePieceProcessor, tokenizer: ChatGLM2Tokenizer | ChatGLM3Tokenizer
) -> FastTokenizer:
    """Rebuild sentencepiece's BPE with the tokenizers library, followed by the commands."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    marks = [processor.unk_id(), processor.bos_id(), processor.eos_id()]
    fast = FastTokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_bpe_merges(processor, pieces),
            unk_token=pieces[processor.unk_id()],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    commands = {BRACKETED.get(name, name): i for name, i in tokenizer.special_ids.items()}
    names = [*(pieces[i] for i in marks), *commands]
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    end = pieces[processor.eos_id()]
    fast.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        pair=f"[gMASK] <sop> $A $B {end}",
        special_tokens=[
            ("[gMASK]", commands["[gMASK]"]),
            ("<sop>", commands["<sop>"]),
            (end, processor.eos_id()),
        ],
    )
    return fast


def _bpe_merges(processor: SentencePieceProcessor, pieces: list[str]) -> list[tuple[str, str]]:
    """Every pair of pieces that forms a piece, best score first, as sentencepiece merges."""
    ordinary = {
        piece: processor.get_score(i)
        for i, piece in enumerate(pieces)
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    ranked = sorted(ordinary, key=lambda piece: -ordinary[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in ordinary and piece[cut:] in ordinary
    ]
