"""Row formats: how to recognize each, and how to convert its values to rows.

A format knows which keys of an object ("columns") it uses. File names play no role.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from glmtune.data.messages import (
    SPEAKER_KEYS,
    messages_of_history,
    row_of_conversation,
    row_of_pair,
)
from glmtune.data.rows import COLUMN_FLAGS, ReadRow, RowMistake, keys_of, list_of, name_of, text_of

# Part of a row -> the column that holds it, e.g. {"prompt": "content", "response": "summary"}.
ColumnMap = dict[str, str]


@dataclass(frozen=True)
class Columns:
    """The column names of a user's rows; None: detected."""

    prompt: str | None = None
    response: str | None = None
    history: str | None = None

    @property
    def are_named(self) -> bool:
        """Whether the user named any column."""
        return (self.prompt, self.response, self.history) != (None, None, None)


@dataclass(frozen=True)
class RowFormat:
    """One row format."""

    title: str
    # An example row for messages.
    example: str
    # (value, columns the user named) -> every way to read the value; [] if there is none.
    find: Callable[[Any, Columns], list[ColumnMap]]
    # (value, its columns) -> its row; RowMistake if it is invalid.
    read: Callable[[Any, ColumnMap], ReadRow]


# --- a prompt and a response ---------------------------------------------------------------------

# ADGEN; PaddleNLP's version of it; other common names.
PAIRS = (
    ("content", "summary"),
    ("src", "tgt"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "answer"),
)


def _find_pair(value: Any, named: Columns) -> list[ColumnMap]:
    if not isinstance(value, dict):
        return []
    pairs = dict.fromkeys((named.prompt or prompt, named.response or r) for prompt, r in PAIRS)
    return [
        {
            "prompt": prompt,
            "response": response,
            "history": named.history or "history",
            "system": "system",
        }
        for prompt, response in pairs
        if prompt in value and response in value
    ]


def _read_pair(value: Any, columns: ColumnMap) -> ReadRow:
    prompt, response = columns["prompt"], columns["response"]
    _require_keys(value, (prompt, response))
    names = (f"'{prompt}'", f"'{response}'")
    return row_of_pair(value[prompt], value[response], _messages_before(value, columns), names)


def _find_alpaca(value: Any, named: Columns) -> list[ColumnMap]:
    parts = {"prompt": "instruction", "response": "output"}
    if not isinstance(value, dict) or not value.keys() >= set(parts.values()):
        return []
    return [{**parts, "input": "input", "history": "history", "system": "system"}]


def _read_alpaca(value: Any, columns: ColumnMap) -> ReadRow:
    """The prompt is the instruction, followed by the input, if any, on the next line."""
    _require_keys(value, (columns["prompt"], columns["response"]))
    texts = [
        text_of(value[key], f"'{key}'")
        for key in (columns["prompt"], columns["input"])
        if value.get(key) is not None
    ]
    prompt = "\n".join(text for text in texts if text)
    names = ("'instruction'", "'output'")
    return row_of_pair(prompt, value[columns["response"]], _messages_before(value, columns), names)


def _messages_before(value: dict[str, Any], columns: ColumnMap) -> list[dict[str, Any]]:
    """The messages of the columns `system` and `history`, if a row has them."""
    system = text_of(value.get(columns["system"]) or "", f"'{columns['system']}'")
    messages = [{"role": "system", "content": system}] if system else []
    history = value.get(columns["history"])
    return [*messages, *messages_of_history(history, f"'{columns['history']}'")]


def _require_keys(value: Any, keys: Sequence[str]) -> None:
    """Raise RowMistake unless the value is an object with all these keys."""
    wanted = "{" + ", ".join(f'"{key}": text' for key in keys) + "}"
    if not isinstance(value, dict):
        raise RowMistake(
            f"{name_of(value)} instead of an object; expected {wanted}; write each row as an object"
        )
    for key in keys:
        if key not in value:
            raise RowMistake(
                f"no '{key}' (keys found: {keys_of(value)}); expected {wanted}; add it, or name "
                f"your columns with {COLUMN_FLAGS}"
            )


# --- conversations -------------------------------------------------------------------------------


def _find_messages(
    column: str, keys: tuple[str, str], value: Any, named: Columns
) -> list[ColumnMap]:
    if not isinstance(value, dict):
        return []
    is_found = _says_something(value.get(column), keys)
    return [{"messages": column, "system": "system", "tools": "tools"}] if is_found else []


def _read_messages(keys: tuple[str, str], value: Any, columns: ColumnMap) -> ReadRow:
    _require_keys(value, (columns["messages"],))
    name = f"'{columns['messages']}'"
    items = list_of(value[columns["messages"]], name)
    system = value.get(columns["system"])
    if system:
        items = [dict(zip(keys, ("system", system), strict=True)), *items]
    return row_of_conversation(items, keys, f"{name}: ", value.get(columns["tools"]))


def _find_bare_messages(value: Any, named: Columns) -> list[ColumnMap]:
    return [{}] if _says_something(value, SPEAKER_KEYS[0]) else []


def _read_bare_messages(value: Any, columns: ColumnMap) -> ReadRow:
    if not isinstance(value, list):
        raise RowMistake(
            f"{name_of(value)} instead of an array of messages; expected "
            f"{FORMATS['chatglm3-base-tuning'].example}; write each conversation as an array"
        )
    return row_of_conversation(value, SPEAKER_KEYS[0], "")


def _says_something(value: Any, keys: tuple[str, str]) -> bool:
    """Whether a value is a list whose first element is a message with these keys."""
    try:
        items = list_of(value, "")
    except RowMistake:
        return False
    return bool(items) and isinstance(items[0], dict) and keys[0] in items[0]


# The values of `--format`; add further formats here.
FORMATS: dict[str, RowFormat] = {
    "adgen": RowFormat(
        "a prompt and a response (ADGEN)",
        "{content, summary}",
        _find_pair,
        _read_pair,
    ),
    "alpaca": RowFormat(
        "an instruction with its input and output",
        "{instruction, input, output}",
        _find_alpaca,
        _read_alpaca,
    ),
    "chatml": RowFormat(
        "messages with roles (ChatML, OpenAI)",
        "{messages: [{role, content}, …]}",
        partial(_find_messages, "messages", SPEAKER_KEYS[0]),
        partial(_read_messages, SPEAKER_KEYS[0]),
    ),
    "chatglm3": RowFormat(
        "conversations with roles and tools (ChatGLM3)",
        "{conversations: [{role, content}, …]}",
        partial(_find_messages, "conversations", SPEAKER_KEYS[0]),
        partial(_read_messages, SPEAKER_KEYS[0]),
    ),
    "sharegpt": RowFormat(
        "conversations of human and gpt (ShareGPT)",
        "{conversations: [{from, value}, …]}",
        partial(_find_messages, "conversations", SPEAKER_KEYS[1]),
        partial(_read_messages, SPEAKER_KEYS[1]),
    ),
    "chatglm3-base-tuning": RowFormat(
        "bare arrays of messages (chatglm3-base-tuning)",
        "[{role, content}, …]",
        _find_bare_messages,
        _read_bare_messages,
    ),
}
