"""Conversations as users write them, as the messages of a row.

Role names and keys differ between formats, the rest does not: messages one after another, of which
the last answer to a question is what the row is scored on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.data.rows import Row, RowMistake, filled_text_of, list_of, name_of, text_of
from glmtune.data.tool_calls import call_and_result, calls_in_text, calls_of_message

CALL = "function_call"
# Names of roles in lower case -> the roles of `glmtune.conversation`, or CALL.
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
# The keys that hold who speaks and what: ChatML and ChatGLM, and ShareGPT.
SPEAKER_KEYS = (("role", "content"), ("from", "value"))
# What the last answer can answer, and what messages call it. After "I will look it up" of the
# assistant comes its call of a tool.
ASKING = {"user": "question", "observation": "observation", "assistant": "answer"}


def row_of_conversation(
    items: Sequence[Any], keys: tuple[str, str], name: str, tools: Any = None
) -> Row:
    """The row of a conversation's last answer; what stands after it is left out.

    `name` begins what a RowMistake says, e.g. "'messages': "; `tools` is what may be called.
    """
    messages = [
        message
        for number, item in enumerate(items, start=1)
        for message in _messages_of(item, keys, f"{name}message {number}")
    ]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise RowMistake(
            f"{name}no answer (role assistant) among {len(messages)} messages; expected questions "
            "and answers; add the answer or remove the conversation"
        )
    last = answers[-1]
    asked, answer = messages[last - 1] if last else {"role": "nothing"}, messages[last]
    if asked["role"] not in ASKING:
        raise RowMistake(
            f"{name}ends with an answer after {asked['role']}; expected a question (role user) and "
            "its answer; end the conversation there, or remove it"
        )
    history = _with_tools(messages[: last - 1], tools_of(tools))
    names = (f"{name}the last {ASKING[asked['role']]}", f"{name}the last answer")
    row = row_of(asked["content"], answer["content"], history, *names)
    if asked["role"] != "user":
        row["role"] = asked["role"]
    if "metadata" in answer:
        row["metadata"] = answer["metadata"]
    return row


def row_of(
    question: Any,
    answer: Any,
    history: Sequence[Mapping[str, Any]] = (),
    question_name: str = "the question",
    answer_name: str = "the answer",
) -> Row:
    """A row of checked texts; RowMistake names the one that is missing or empty."""
    row: Row = {
        "content": filled_text_of(question, question_name),
        "summary": filled_text_of(answer, answer_name),
    }
    if history:
        row["history"] = list(history)
    return row


def messages_of_history(value: Any, name: str) -> list[dict[str, Any]]:
    """A history column: a list of [question, answer] pairs, or of messages; RowMistake otherwise.

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
    """The descriptions of tools that go with a conversation, [] for none."""
    return list_of(value, "'tools'")


def _with_tools(messages: list[dict[str, Any]], tools: list[Any]) -> list[dict[str, Any]]:
    """The messages with the tools in the first one, as ChatGLM3's tokenizer expects them."""
    if not tools:
        return messages
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[0] if has_system else {"role": "system", "content": ""}
    return [{**system, "tools": tools}, *messages[has_system:]]


def _messages_of(item: Any, keys: tuple[str, str], place: str) -> list[dict[str, Any]]:
    """The messages of one item: several where it calls tools or holds a result, too."""
    role_key, text_key = keys
    if not isinstance(item, dict):
        raise RowMistake(
            f"{place} is {name_of(item)}; expected {{{role_key}, {text_key}}}; write it so"
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
        # OpenAI writes null where the tools are all there is.
        "content": text_of("" if text is None and tools else text, f"{place}: '{text_key}'"),
    }
    if item.get("metadata"):
        message["metadata"] = text_of(item["metadata"], f"{place}: 'metadata'")
    if tools:
        message["tools"] = tools
    return [message, *calls]
