r"""ChatGLM2-6B: `[gMASK] sop prompt answer </s>`, encoded as THUDM's ptuning/main.py does.

The text of a prompt, `[Round 1]\n\n问：…\n\n答：`, is in `tokenizers.py`. ChatGLM3-6B has the same
architecture and kind of vocabulary and reuses this module; GLM-4-9B has the architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from glmtune.families.conversation import Message, Turn
from glmtune.families.family import (
    Example,
    Template,
    by_name,
    check_limits,
    head_size,
    round_up,
    write_trained_vocabulary,
)
from glmtune.families.tokenizers import ChatGLM2Tokenizer, Tokenizer
from glmtune.families.vocabulary import WORD_BREAK, train_pieces
from glmtune.labels import IGNORED_LABEL

# config.json of THUDM/chatglm2-6b, without its remote code.
REAL_CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def encode_prompt(
    tokenizer: ChatGLM2Tokenizer,
    query: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
) -> list[int]:
    """The prompt truncated to `max_source_tokens`, including its first two tokens."""
    check_limits(max_source_tokens)
    return tokenizer.chat_prompt_ids(query, history)[:max_source_tokens]


def encode_example(
    tokenizer: ChatGLM2Tokenizer,
    query: str,
    answer: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Example:
    """A training row of at most `max_source_tokens + max_target_tokens + 1` (main.py, training).

    The end token does not count towards `max_target_tokens`: truncated answers keep it.
    """
    check_limits(max_source_tokens, max_target_tokens)
    prompt_ids = tokenizer.chat_prompt_ids(query, history)
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    prompt = prompt_ids[:max_source_tokens]
    targets = [*answer_ids[:max_target_tokens], tokenizer.eos_token_id]
    # Padding shares its id with <unk>, which main.py therefore also excludes from the loss.
    labels = [IGNORED_LABEL if i == tokenizer.pad_token_id else i for i in targets]
    return Example(
        prompt + targets,
        [IGNORED_LABEL] * len(prompt) + labels,
        prompt_tokens=len(prompt_ids),
        answer_tokens=len(answer_ids),
        prompt_is_cut=len(prompt_ids) > max_source_tokens,
        answer_is_cut=len(answer_ids) > max_target_tokens,
    )


def encode_reference(
    tokenizer: ChatGLM2Tokenizer, answer: str, *, max_target_tokens: int
) -> list[int]:
    """The label ids of main.py's evaluation: `[gMASK] sop` and the truncated answer."""
    check_limits(max_target_tokens=max_target_tokens)
    return tokenizer.encode(answer)[:max_target_tokens]


TEMPLATES = by_name(
    Template("thudm-ptuning", "last answer", encode_prompt, encode_example, encode_reference)
)


def train_tokenizer(texts: Iterable[str], folder: Path | str, *, vocab_size: int) -> None:
    """Write a BPE vocabulary of `vocab_size` pieces plus bytes and special pieces."""
    write_bpe(_with_prompts(texts), folder, name="glmtune/chatglm2-6b-miniature", size=vocab_size)


def _with_prompts(texts: Iterable[str]) -> Iterable[str]:
    """Yield the texts, each with the words of a prompt, so that prompts take few pieces."""
    for text in texts:
        yield text
        yield "[Round 1]"
        yield WORD_BREAK + "问："
        yield WORD_BREAK + "答："


def write_bpe(texts: Iterable[str], folder: Path | str, *, name: str, size: int) -> None:
    """Write a lossless BPE vocabulary with `name` in its tokenizer_config.json."""
    content = train_pieces(
        (line for text in texts for line in text.split("\n")),
        vocab_size=size,
        model_type="bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
    )
    settings = {
        "name_or_path": name,
        "tokenizer_class": "ChatGLMTokenizer",
        "do_lower_case": False,
        "remove_space": False,
    }
    write_trained_vocabulary(folder, ChatGLM2Tokenizer.file_name, content, settings)


def miniature_config(
    tokenizer: ChatGLM2Tokenizer, *, hidden_size: int, num_layers: int, num_heads: int
) -> dict[str, Any]:
    """The config of a tiny model for a trained vocabulary."""
    shape = shrink(tokenizer, hidden_size, num_layers, num_heads)
    return REAL_CONFIG | shape | {"_name_or_path": "glmtune/chatglm2-6b-miniature"}


def shrink(
    tokenizer: Tokenizer,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
) -> dict[str, Any]:
    """The config values that differ between a published model and a miniature."""
    return {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "ffn_hidden_size": round_up(8 * hidden_size // 3),
        "hidden_size": hidden_size,
        "kv_channels": head_size(hidden_size, num_heads),
        "multi_query_group_num": 2 if num_heads % 2 == 0 else 1,
        "num_attention_heads": num_heads,
        "num_layers": num_layers,
        "padded_vocab_size": round_up(tokenizer.vocab_size),
        "seq_length": 512,
        "torch_dtype": "float32",
    }
