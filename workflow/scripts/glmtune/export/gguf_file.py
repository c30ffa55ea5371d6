"""A model as one GGUF file: weights, sizes, vocabulary and chat template, for llama.cpp.

The architecture `chatglm` of llama.cpp is that of ChatGLM2, ChatGLM3 and GLM-4. A vocabulary of
sentencepiece is written with its scores (`llama`), GLM-4's with merges (`gpt2`, `chatglm-bpe`).
Needs the package gguf (the extra `gguf`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

from glmtune.errors import ResourceError
from glmtune.export.fast_tokenizer import CHAT_TEMPLATES
from glmtune.families.byte_vocabulary import character_merges, character_names
from glmtune.families.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLM4Tokenizer
from glmtune.families.vocabulary import read_vocabulary
from glmtune.modeling.causal_lm import ChatGLMCausalLM
from glmtune.modeling.chatglm2 import ROTARY_BASE

# The quantized types that the package can write: bits of a weight, in blocks of 32 with a scale
# (_0), and a smallest value (_1).
QUANTIZED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
# Parts of names of tensors, official -> GGUF's.
RENAMED = {
    "transformer.output_layer.": "output.",
    "transformer.embedding.word_embeddings.": "token_embd.",
    "transformer.encoder.final_layernorm.": "output_norm.",
    "transformer.encoder.layers.": "blk.",
    ".input_layernorm.": ".attn_norm.",
    ".self_attention.query_key_value.": ".attn_qkv.",
    ".self_attention.dense.": ".attn_output.",
    ".post_attention_layernorm.": ".ffn_norm.",
    ".mlp.dense_h_to_4h.": ".ffn_up.",
    ".mlp.dense_4h_to_h.": ".ffn_down.",
}
Tokenizer = ChatGLM2Tokenizer | ChatGLM3Tokenizer | GLM4Tokenizer


def require_gguf() -> None:
    """Raise ResourceError if the package gguf is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise ResourceError(
            "--format gguf: needs the package gguf, which is not installed; install it "
            "(pip install -e '.[gguf]')"
        )


def write_gguf(
    model: ChatGLMCausalLM, tokenizer: Tokenizer, vocabulary: Path, file: Path, kind: str
) -> None:
    """Write `model`, without adapter or prefix, into `file`.

    `kind`, of the matrices, is float32, float16, bfloat16 or of QUANTIZED; vectors are in float32.
    `vocabulary` is the file that `tokenizer` was read from. Holds one converted tensor at a time.
    """
    import gguf

    file_type, matrices = _types(kind)
    writer = gguf.GGUFWriter(file, "chatglm")
    writer.add_file_type(file_type)
    if kind in QUANTIZED:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, model.config)
    rows = model.get_output_embeddings().weight.shape[0]
    if isinstance(tokenizer, GLM4Tokenizer):
        _add_byte_pairs(writer, tokenizer, rows)
    else:
        _add_sentencepiece(writer, tokenizer, read_vocabulary(vocabulary), rows)
    _add_ends(writer, tokenizer)
    writer.add_chat_template(chat_template(tokenizer))
    _write_tensors(writer, dict(_named(model)), matrices)
    writer.close()


def chat_template(tokenizer: Tokenizer) -> str:
    """The Jinja template, with `sop` as the vocabulary of ChatGLM2 and ChatGLM3 calls it.

    llama.cpp, where it has no Jinja, takes a template with `[gMASK]sop` for ChatGLM3's: it must
    find that in ChatGLM3's alone.
    """
    template = CHAT_TEMPLATES[type(tokenizer)]
    if isinstance(tokenizer, ChatGLM3Tokenizer):
        return template.replace("[gMASK]<sop>", "[gMASK]sop")
    if isinstance(tokenizer, ChatGLM2Tokenizer):
        return template.replace("[gMASK]<sop>", '{{- "[gMASK]" ~ "sop" }}')
    return template


def _types(kind: str) -> tuple[Any, Any]:
    """GGUF's type of the file and of its matrices."""
    import gguf

    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(kind, kind.upper())
    prefix = "ALL" if short == "F32" else "MOSTLY"
    return gguf.LlamaFileType[f"{prefix}_{short}"], gguf.GGMLQuantizationType[short]


def _add_sizes(writer: Any, config: Any) -> None:
    import gguf

    writer.add_context_length(config.seq_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.multi_query_group_num)
    writer.add_layer_norm_rms_eps(config.layernorm_epsilon)
    writer.add_rope_dimension_count(config.kv_channels // 2)
    if config.interpolates_positions:
        writer.add_rope_freq_base(float(ROTARY_BASE))
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(config.rope_ratio))
    else:
        writer.add_rope_freq_base(float(ROTARY_BASE * config.rope_ratio))


def _add_sentencepiece(
    writer: Any, tokenizer: Tokenizer, processor: SentencePieceProcessor, rows: int
) -> None:
    """The pieces with their scores: llama.cpp joins the neighbours of the best score first."""
    from gguf import TokenType

    kinds = {
        TokenType.UNKNOWN: processor.is_unknown,
        TokenType.CONTROL: processor.is_control,
        TokenType.BYTE: processor.is_byte,
        TokenType.UNUSED: processor.is_unused,
    }
    pieces = range(processor.get_piece_size())
    writer.add_tokenizer_model("llama")
    _add_tokens(
        writer,
        [processor.id_to_piece(i) for i in pieces],
        [next((k for k, has in kinds.items() if has(i)), TokenType.NORMAL) for i in pieces],
        tokenizer,
        rows,
    )
    scores = [processor.get_score(i) for i in pieces]
    writer.add_token_scores(scores + [0.0] * (rows - len(scores)))
    writer.add_bos_token_id(processor.bos_id())
    writer.add_unk_token_id(processor.unk_id())


def _add_byte_pairs(writer: Any, tokenizer: GLM4Tokenizer, rows: int) -> None:
    from gguf import TokenType

    names = character_names(tokenizer.ranks)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("chatglm-bpe")
    _add_tokens(writer, names, [TokenType.NORMAL] * len(names), tokenizer, rows)
    writer.add_token_merges([" ".join(pair) for pair in character_merges(tokenizer.ranks)])
    writer.add_unk_token_id(tokenizer.eos_token_id)


def _add_tokens(
    writer: Any, texts: list[str], kinds: list[Any], tokenizer: Tokenizer, rows: int
) -> None:
    """The pieces, the commands behind them, and a name for each row of the model that has none."""
    from gguf import TokenType

    commands = list(tokenizer.special_ids)
    unused = [f"[PAD{i}]" for i in range(len(texts) + len(commands), rows)]
    writer.add_token_list([*texts, *commands, *unused])
    commands_and_unused = [TokenType.CONTROL] * len(commands) + [TokenType.UNUSED] * len(unused)
    writer.add_token_types([*kinds, *commands_and_unused])


def _add_ends(writer: Any, tokenizer: Tokenizer) -> None:
    """Where an answer ends: also where a user speaks, or a tool."""
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    # The prompt begins with [gMASK] sop, which the chat template writes.
    writer.add_add_bos_token(False)
    ends = tokenizer.special_ids
    if "<|user|>" in ends:
        writer.add_eot_token_id(ends["<|user|>"])
        writer.add_eom_token_id(ends["<|observation|>"])


def _named(model: ChatGLMCausalLM) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights under GGUF's names."""
    for name, tensor in model.state_dict().items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        yield name, tensor


def _write_tensors(writer: Any, tensors: dict[str, torch.Tensor], matrices: Any) -> None:
    """Describe all tensors, then write one after the other."""
    from gguf import GGML_QUANT_SIZES, quantize

    kinds = {name: _kind(tensor, matrices) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        numbers, size = GGML_QUANT_SIZES[kinds[name]]
        length = tensor.numel() // numbers * size
        writer.add_tensor_info(name, tensor.shape, np.dtype("float32"), length, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        writer.write_tensor_data(quantize(tensor.float().numpy(), kinds[name]))


def _kind(tensor: torch.Tensor, matrices: Any) -> Any:
    """The type of one tensor: float16 for a matrix whose rows are no whole blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if tensor.ndim == 1:
        return GGMLQuantizationType.F32
    numbers, _ = GGML_QUANT_SIZES[matrices]
    return GGMLQuantizationType.F16 if tensor.shape[-1] % numbers else matrices
