"""ChatGLM-6B: `prompt [gMASK] <sop> answer <eop>`, encoded as THUDM's ptuning/main.py does."""

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
from glmtune.families.tokenizers import ChatGLMTokenizer, mark_white_space
from glmtune.families.vocabulary import train_pieces
from glmtune.labels import IGNORED_LABEL

# config.json of THUDM/chatglm-6b, without its remote code.
REAL_CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm-6b",
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 130528,
}

# As in the published vocabulary.
CONTROLS = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
WHITE_SPACE = [
    ChatGLMTokenizer.LINE_BREAK,
    ChatGLMTokenizer.TAB,
    *(f"<|blank_{length}|>" for length in range(2, ChatGLMTokenizer.LONGEST_BLANK + 1)),
]


def encode_prompt(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
) -> list[int]:
    """The prompt truncated to `max_source_tokens`, keeping its end tokens (main.py, evaluation)."""
    check_limits(max_source_tokens)
    ids = _prompt_ids(tokenizer, query, history)[: max_source_tokens - 2]
    return [*ids, tokenizer.gmask_token_id, tokenizer.bos_token_id]


def encode_example(
    tokenizer: ChatGLMTokenizer,
    query: str,
    answer: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Example:
    """A training row of at most `max_source_tokens + max_target_tokens` (main.py, training).

    `<sop>` is the first target. As in the official code, a prompt may be one token longer here than
    in `encode_prompt`, and the answer is truncated to two tokens below its limit.
    """
    check_limits(max_source_tokens, max_target_tokens)
    prompt_ids = _prompt_ids(tokenizer, query, history)
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    prompt = [*prompt_ids[: max_source_tokens - 1], tokenizer.gmask_token_id]
    cut_answer = answer_ids[: max_target_tokens - 2]
    targets = [tokenizer.bos_token_id, *cut_answer, tokenizer.eos_token_id]
    labels = [IGNORED_LABEL if i == tokenizer.pad_token_id else i for i in targets]
    return Example(
        prompt + targets,
        [IGNORED_LABEL] * len(prompt) + labels,
        # Counted as in encode_prompt: a prompt that fits there fits here.
        prompt_tokens=len(prompt_ids) + 2,
        answer_tokens=len(answer_ids) + 2,
        prompt_is_cut=len(prompt_ids) + 2 > max_source_tokens,
        answer_is_cut=len(cut_answer) < len(answer_ids),
    )


def encode_reference(
    tokenizer: ChatGLMTokenizer, answer: str, *, max_target_tokens: int
) -> list[int]:
    """The label ids of main.py's evaluation: the truncated answer, then `[gMASK] <sop>`."""
    check_limits(max_target_tokens=max_target_tokens)
    ids = tokenizer.encode(answer, add_special_tokens=False)[: max_target_tokens - 2]
    return [*ids, tokenizer.gmask_token_id, tokenizer.bos_token_id]


def _prompt_ids(
    tokenizer: ChatGLMTokenizer, query: str, history: Sequence[Turn | Message]
) -> list[int]:
    # With a history column, main.py puts `[Round 0]` around a first query in training, but not in
    # evaluation, and neither does chat(). Here a first query is always bare.
    return tokenizer.encode(tokenizer.chat_prompt(query, history), add_special_tokens=False)


TEMPLATES = by_name(
    Template("thudm-ptuning", "last answer", encode_prompt, encode_example, encode_reference)
)


def train_tokenizer(texts: Iterable[str], folder: Path | str, *, vocab_size: int) -> None:
    """Write a BPE vocabulary of `vocab_size` pieces plus bytes and special pieces."""
    content = train_pieces(
        (mark_white_space(text) for text in texts),
        vocab_size=vocab_size,
        model_type="bpe",
        normalization_rule_name="nmt_nfkc",
        control_symbols=CONTROLS,
        user_defined_symbols=WHITE_SPACE,
        pad_id=3,
    )
    settings = {
        "name_or_path": "glmtune/chatglm-6b-miniature",
        "tokenizer_class": "ChatGLMTokenizer",
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "do_lower_case": False,
        "remove_space": False,
        "num_image_tokens": 0,
    }
    write_trained_vocabulary(folder, ChatGLMTokenizer.file_name, content, settings)


def miniature_config(
    tokenizer: ChatGLMTokenizer, *, hidden_size: int, num_layers: int, num_heads: int
) -> dict[str, Any]:
    """The config of a tiny model for a trained vocabulary."""
    head_size(hidden_size, num_heads)
    return REAL_CONFIG | {
        "_name_or_path": "glmtune/chatglm-6b-miniature",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "gmask_token_id": tokenizer.gmask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": hidden_size,
        "inner_hidden_size": 4 * hidden_size,
        "max_sequence_length": 512,
        "num_attention_heads": num_heads,
        "num_layers": num_layers,
        "torch_dtype": "float32",
        "vocab_size": round_up(tokenizer.vocab_size),
    }
