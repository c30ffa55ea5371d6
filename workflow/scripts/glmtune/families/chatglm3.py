"""ChatGLM3-6B-Base: messages with roles, laid out as in one of two training scripts.

    finetune-demo         ChatGLM3's finetune_demo; answers end where the next message begins
    chatglm3-base-tuning  every answer ends with `</s>`

The architecture is ChatGLM2-6B's. All answers of a conversation are targets. GLM-4 reuses the first
layout: its own finetune_demo differs in the token that ends the last answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from glmtune.families import chatglm2
from glmtune.families.base_tokenizer import MessageTokenizer
from glmtune.families.conversation import Message, Turn, as_messages
from glmtune.families.family import Example, Template, by_name, check_limits
from glmtune.families.tokenizers import ChatGLM3Tokenizer
from glmtune.labels import IGNORED_LABEL

# config.json of THUDM/chatglm3-6b-base, without its remote code.
REAL_CONFIG: dict[str, Any] = chatglm2.REAL_CONFIG | {"_name_or_path": "THUDM/chatglm3-6b-base"}

ANSWERER = "assistant"
# Parts of a conversation: ids, and whether they belong to an answer.
Layout = Callable[[MessageTokenizer, Sequence[Message]], Iterator[tuple[list[int], bool]]]


def finetune_demo(
    tokenizer: MessageTokenizer, messages: Sequence[Message]
) -> Iterator[tuple[list[int], bool]]:
    """Concatenate the messages, as in chat()."""
    for message in messages:
        yield tokenizer.message_ids(message), message["role"] == ANSWERER


def base_tuning(
    tokenizer: MessageTokenizer, messages: Sequence[Message]
) -> Iterator[tuple[list[int], bool]]:
    """End each answer with an end token; after a system message, begin questions with a break."""
    line_break = tokenizer.encode("\n", add_special_tokens=False)[-1:]
    has_system = bool(messages) and messages[0]["role"] == "system"
    for message in messages:
        if has_system and message["role"] == "user":
            yield line_break, False
        yield from finetune_demo(tokenizer, [message])
        if message["role"] == ANSWERER:
            yield [tokenizer.eos_token_id], False


def encode_prompt(
    layout: Layout,
    tokenizer: MessageTokenizer,
    query: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
    role: str = "user",
) -> list[int]:
    """The prompt truncated to `max_source_tokens`, then `<|assistant|>`.

    finetune_demo skips rows that would be truncated; here every row gets a prediction.
    """
    check_limits(max_source_tokens)
    ids = list(tokenizer.prefix_ids)
    for part, _ in layout(tokenizer, [*as_messages(history), _said_by(role, query)]):
        ids += part
    return [*ids[:max_source_tokens], tokenizer.special_ids[f"<|{ANSWERER}|>"]]


def encode_example(
    layout: Layout,
    tokenizer: MessageTokenizer,
    query: str,
    answer: str,
    history: Sequence[Turn | Message] = (),
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    role: str = "user",
    metadata: str = "",
) -> Example:
    """A training row of at most `max_source_tokens + max_target_tokens + 1` (finetune_demo).

    The answers in the history are targets too, and so is the token after each answer. The limits
    are added: a short prompt leaves more room for the answer, and a truncated answer has no end
    token.
    """
    check_limits(max_source_tokens, max_target_tokens)
    max_tokens = max_source_tokens + max_target_tokens + 1
    asked, answered = _said_by(role, query), _said_by(ANSWERER, answer, metadata)
    messages = [*as_messages(history), asked, answered]
    ids, labels = _whole_row(tokenizer, layout(tokenizer, messages))
    prompt_tokens = len(ids) - 1 - ids[::-1].index(tokenizer.special_ids[f"<|{ANSWERER}|>"])
    row = Example(
        ids[:max_tokens],
        labels[:max_tokens],
        prompt_tokens=prompt_tokens,
        answer_tokens=sum(label != IGNORED_LABEL for label in labels),
        prompt_is_cut=prompt_tokens > max_source_tokens,
        answer_is_cut=len(ids) > max_tokens,
    )
    if any(label != IGNORED_LABEL for label in row.labels):
        return row
    # finetune_demo would train on a row without a target, whose loss is NaN.
    limit = max_source_tokens
    prompt = encode_prompt(layout, tokenizer, query, history, max_source_tokens=limit, role=role)
    last_answer = [*tokenizer.message_ids(answered)[1:], tokenizer.answer_end_id]
    targets = last_answer[: max_tokens - len(prompt)]
    return replace(
        row,
        input_ids=prompt + targets,
        labels=[IGNORED_LABEL] * len(prompt) + targets,
        answer_is_cut=len(targets) < len(last_answer),
    )


def encode_reference(
    tokenizer: MessageTokenizer, answer: str, *, max_target_tokens: int
) -> list[int]:
    """The label ids of finetune_demo's evaluation: metadata line, answer, end; truncated."""
    check_limits(max_target_tokens=max_target_tokens)
    _, *ids = tokenizer.message_ids(_said_by(ANSWERER, answer))
    return [*ids, tokenizer.answer_end_id][:max_target_tokens]


def _said_by(role: str, content: str, metadata: str = "") -> Message:
    return {"role": role, "content": content, "metadata": metadata}


def _whole_row(
    tokenizer: MessageTokenizer, parts: Iterable[tuple[list[int], bool]]
) -> tuple[list[int], list[int]]:
    """Ids and labels without limits; a token is a target if the previous one is in an answer.

    So `<|assistant|>` is not a target, but the token after an answer is: the model learns to stop.
    """
    ids = list(tokenizer.prefix_ids)
    spoken = [False] * len(ids)
    for part, is_answer in parts:
        ids += part
        spoken += [is_answer] * len(part)
    if ids[-1] != tokenizer.answer_end_id:
        ids.append(tokenizer.answer_end_id)
    labels = [i if hit else IGNORED_LABEL for i, hit in zip(ids, [False, *spoken], strict=False)]
    return ids, labels


def make_template(name: str, layout: Layout, written_call: Callable[[str], str] = str) -> Template:
    """A template of messages; `written_call` is Template's."""
    return Template(
        name=name,
        trains_on="every answer",
        encode_prompt=partial(encode_prompt, layout),
        encode_example=partial(encode_example, layout),
        encode_reference=encode_reference,
        takes_tools=True,
        written_call=written_call,
    )


TEMPLATES = by_name(
    make_template("finetune-demo", finetune_demo),
    make_template("chatglm3-base-tuning", base_tuning),
)


def train_tokenizer(texts: Iterable[str], folder: Path | str, *, vocab_size: int) -> None:
    """Write a BPE vocabulary of `vocab_size` pieces plus bytes and special pieces."""
    chatglm2.write_bpe(texts, folder, name="glmtune/chatglm3-6b-base-miniature", size=vocab_size)


def miniature_config(
    tokenizer: ChatGLM3Tokenizer, *, hidden_size: int, num_layers: int, num_heads: int
) -> dict[str, Any]:
    """The config of a tiny model for a trained vocabulary."""
    shape = chatglm2.shrink(tokenizer, hidden_size, num_layers, num_heads)
    return REAL_CONFIG | shape | {"_name_or_path": "glmtune/chatglm3-6b-base-miniature"}
