"""ChatGLM3-6B-Base: messages with roles, encoded as ChatGLM3's finetune_demo does.

The architecture is ChatGLM2-6B's. A history may hold (query, answer) turns and messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from glmtune.families import chatglm2
from glmtune.families.family import IGNORED, Example, check_limits
from glmtune.tokenizer import ChatGLM3Tokenizer, Message, Turn

# config.json of THUDM/chatglm3-6b-base, without its remote code.
REAL_CONFIG: dict[str, Any] = chatglm2.REAL_CONFIG | {"_name_or_path": "THUDM/chatglm3-6b-base"}


def encode_prompt(
    tokenizer: ChatGLM3Tokenizer,
    query: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
) -> list[int]:
    """The prompt cut to `max_source_tokens`, then `<|assistant|>`.

    finetune_demo skips rows that would be cut; here every row gets a prediction.
    """
    check_limits(max_source_tokens)
    *ids, assistant = tokenizer.chat_prompt_ids(query, history)
    return [*ids[:max_source_tokens], assistant]


def encode_example(
    tokenizer: ChatGLM3Tokenizer,
    query: str,
    answer: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Example:
    """A training row of at most `max_source_tokens + max_target_tokens + 1` (finetune_demo).

    The answers of the history are targets too, and so is the token after each answer. The limits
    count together: a short prompt leaves more room for the answer, and an answer that is cut has no
    end token.
    """
    check_limits(max_source_tokens, max_target_tokens)
    max_tokens = max_source_tokens + max_target_tokens + 1
    row = _row_of_messages(
        tokenizer,
        [
            *tokenizer.messages(history),
            {"role": "user", "content": query},
            {"role": "assistant", "content": answer},
        ],
    )
    row = Example(row.input_ids[:max_tokens], row.labels[:max_tokens])
    if all(label == IGNORED for label in row.labels):
        # finetune_demo would train on a row without a target, whose loss is not a number.
        row = _row_with_cut_prompt(tokenizer, query, answer, history, max_source_tokens, max_tokens)
    return row


def _row_of_messages(tokenizer: ChatGLM3Tokenizer, messages: Sequence[Message]) -> Example:
    """All messages and `</s>`; a token is a target if the one before it is of an answer's message.

    So `<|assistant|>` is no target, and the token after an answer is.
    """
    ids = list(tokenizer.prefix_ids)
    spoken = [False] * len(ids)
    for message in messages:
        message_ids = tokenizer.message_ids(message)
        ids += message_ids
        spoken += [message["role"] not in ("system", "user")] * len(message_ids)
    ids.append(tokenizer.eos_token_id)
    is_target = [False, *spoken]
    return Example(ids, [i if hit else IGNORED for i, hit in zip(ids, is_target, strict=True)])


def _row_with_cut_prompt(
    tokenizer: ChatGLM3Tokenizer,
    query: str,
    answer: str,
    history: Sequence[Turn | Message],
    max_source_tokens: int,
    max_tokens: int,
) -> Example:
    prompt_ids = encode_prompt(tokenizer, query, history, max_source_tokens=max_source_tokens)
    _, *answer_ids = tokenizer.message_ids({"role": "assistant", "content": answer})
    targets = [*answer_ids, tokenizer.eos_token_id][: max_tokens - len(prompt_ids)]
    return Example(prompt_ids + targets, [IGNORED] * len(prompt_ids) + targets)


def train_tokenizer(texts: Iterable[str], folder: Path | str, *, vocab_size: int) -> None:
    """Write a BPE vocabulary of `vocab_size` pieces, besides bytes and special pieces."""
    chatglm2.write_bpe(texts, folder, name="glmtune/chatglm3-6b-base-miniature", size=vocab_size)


def miniature_config(
    tokenizer: ChatGLM3Tokenizer, *, hidden_size: int, num_layers: int, num_heads: int
) -> dict[str, Any]:
    """The config of a tiny model around a trained vocabulary."""
    shape = chatglm2.shrink(tokenizer, hidden_size, num_layers, num_heads)
    return REAL_CONFIG | shape | {"_name_or_path": "glmtune/chatglm3-6b-base-miniature"}
