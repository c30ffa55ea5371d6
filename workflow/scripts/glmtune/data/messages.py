"""Converts conversations as users write them to the messages of a row.

Formats differ only in role names and keys: all hold a sequence of messages. A row is scored on the
last answer to a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glmtune.data.rows import (
    ReadRow,
    Row,
    RowMistake,
    filled_text_of,
    list_of,
    name_of,
    text_of,
)
from glmtune.data.tool_calls import call_and_result, calls_in_text, calls_of_message
from glmtune.data.turns import in_turns

CALL = "function_call"
# Lower-case role names -> the roles of `glmtune.families.conversation`, or CALL.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "observation",
    "tool": "observation",
    "function": "observation",
    "tool_response": "observation",
    "function_call": CALL,
    "tool_call": CALL,
}
# The keys of the role and the text: ChatML and ChatGLM, then ShareGPT.
SPEAKER_KEYS = (("role", "content"), ("from", "value"))
# Roles that the last answer may follow, with their names in messages. An assistant's tool call may
# follow its own "I will look it up".
ASKING = {"user": "question", "observation": "observation", "assistant": "answer"}


def row_of_conversation(
    items: Sequence[Any], keys: tuple[str, str], name: str, tools: Any = None
) -> ReadRow:
    """The row of a conversation's last answer; later messages are dropped.

    `name` prefixes RowMistake messages, e.g. "'messages': "; `tools` are the callable tools.
    """
    messages = [
        message
        for number, item in enumerate(items, start=1)
        for message in _messages_of(item, keys, f"{name}message {number}")
    ]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return row_of_messages(_with_tools(messages, tools_of(tools)), name)


def row_of_messages(messages: Sequence[dict[str, Any]], name: str) -> ReadRow:
    """The row of messages that end with an answer; RowMistake if it answers nothing."""
    ordered, notes = in_turns(messages, name)
    if not ordered or ordered[-1]["role"] != "assistant":
        raise RowMistake(
            f"{name}no answer (role assistant) to a question (role user); expected questions and "
            "answers; add what is missing or remove the conversation"
        )
    *history, asked, answer = ordered
    row: Row = {
        "content": filled_text_of(asked["content"], f"{name}the last {ASKING[asked['role']]}"),
        "summary": filled_text_of(answer["content"], f"{name}the last answer"),
    }
    if history:
        row["history"] = history
    if asked["role"] != "user":
        row["role"] = asked["role"]
    if "metadata" in answer:
        row["metadata"] = answer["metadata"]
    return ReadRow(row, notes)


def row_of_pair(
    prompt: Any, response: Any, before: Sequence[dict[str, Any]], names: tuple[str, str]
) -> ReadRow:
    """The row of a prompt and a response after `before`; `names` are their column names."""
    asked = {"role": "user", "content": filled_text_of(prompt, names[0])}
    answered = {"role": "assistant", "content": filled_text_of(response, names[1])}
    return row_of_messages([*before, asked, answered], "'history': " if before else "")


def messages_of_history(value: Any, name: str) -> list[dict[str, Any]]:
    """Read a history column: [question, answer] pairs or messages; RowMistake otherwise.

    Example: [["你好", "您好"]] -> a user and an assistant message
    """
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(list_of(value, name), start=1):
        place = f"{name} item {number}"
        if isinstance(item, dict):
            messages += _messages_of(item, SPEAKER_KEYS[0], place)
        elif isinstance(item, list) and len(item) == 2:
            for role, text in zip(("user", "assistant"), item, strict=True):
                messages.append({"role": role, "content": text_of(text, place)})
        else:
            found = f"{len(item)} texts" if isinstance(item, list) else name_of(item)
            raise RowMistake(
                f"{place} is {found}; expected [question, answer] or a message; correct the history"
            )
    return messages


def tools_of(value: Any) -> list[Any]:
    """The tool descriptions of a conversation; [] if there are none."""
    return list_of(value, "'tools'")


def _with_tools(messages: list[dict[str, Any]], tools: list[Any]) -> list[dict[str, Any]]:
    """Put the tools into the first message, where ChatGLM3's tokenizer expects them."""
    if not tools:
        return messages
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[0] if has_system else {"role": "system", "content": ""}
    return [{**system, "tools": tools}, *messages[has_system:]]


def _messages_of(item: Any, keys: tuple[str, str], place: str) -> list[dict[str, Any]]:
    """The messages of one item: several if it calls tools or contains a result."""
    role_key, text_key = keys
    if not isinstance(item, dict):
        raise RowMistake(
            f"{place} is {name_of(item)}; expected {{{role_key}, {text_key}}}; use that form"
        )
    said = item.get(role_key)
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    text = item.get(text_key)
    if role is None:
        found = repr(said) if isinstance(said, str) else name_of(said)
        raise RowMistake(
            f"{place}: '{role_key}' is {found}; expected one of {', '.join(ROLES)}; rename it"
        )
    if role == CALL:
        return calls_in_text(text, f"{place}: '{text_key}'")
    if role == "observation" and item.get("parameters") is not None:
        return call_and_result(item, place)
    calls = calls_of_message(item, place) if role == "assistant" else []
    tools = tools_of(item.get("tools")) if role == "system" else []
    if not text and calls:
        return calls
    message: dict[str, Any] = {
        "role": role,
        # OpenAI writes null if there are only tools.
        "content": text_of("" if text is None and tools else text, f"{place}: '{text_key}'"),
    }
    if item.get("metadata"):
        message["metadata"] = text_of(item["metadata"], f"{place}: 'metadata'")
    if tools:
        message["tools"] = tools
    return [message, *calls]
