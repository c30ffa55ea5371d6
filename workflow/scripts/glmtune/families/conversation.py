"""Conversations: the history before a question, as messages or as rounds.

    message  {"role": "system" | "user" | "assistant" | "observation", "content": text},
             optionally "metadata" (text) and, in a system message, "tools"
    turn     (question, answer)

Knows nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glmtune.errors import DataError

Turn = Sequence[str]
Message = Mapping[str, Any]
Row = Mapping[str, Any]  # of a data set, as `glmtune.data.rows` describes it
ROLES = ("system", "user", "assistant", "observation")
# The official chat() replaces this placeholder of the training data in every answer.
TRAINING_TIME = ("[[训练时间]]", "2023年")
NO_TOOLS = (
    "tools, a call or an observation; expected only questions and answers, since ChatGLM-6B and "
    "ChatGLM2-6B do not support tools; use chatglm3-6b-base or glm-4-9b, or leave the row out"
)


def as_messages(history: Sequence[Turn | Message]) -> list[Message]:
    """Convert a history to messages: a turn becomes a user and an assistant message."""
    messages: list[Message] = []
    for item in history:
        if isinstance(item, Mapping):
            messages.append(item)
        else:
            question, answer = item
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
    return messages


def uses_tools(row: Row) -> bool:
    """Whether a row contains calls, observations or tools."""
    messages = as_messages(row.get("history", ()))
    return bool(row.keys() & {"role", "metadata"}) or any(map(_uses_tools, messages))


def shown_answer(row: Row, written_call: Callable[[str], str]) -> str:
    """A row's answer as displayed: a call begins with a line that names the tool.

    `written_call` is that of the template (`glmtune.families.family`).
    """
    answer: str = row["summary"]
    return f"{row['metadata']}\n{written_call(answer)}" if "metadata" in row else answer


def shown_content(text: str) -> str:
    r"""The answer of a model whose prompts are messages: without the empty metadata line.

    Example: "\n你好" -> "你好"; "clock\n{}" stays, because it is the call of a tool.
    """
    metadata, _, content = text.partition("\n")
    return (text if metadata.strip() else content).strip().replace(*TRAINING_TIME)


def as_rounds(query: str, history: Sequence[Turn | Message]) -> tuple[str, list[Turn]]:
    r"""The query and the earlier (question, answer) turns, for prompts without roles.

    A system text is put before the next question, with a line break. DataError for messages that
    such a prompt cannot represent. Example:
    ("红色？", [{"role": "system", "content": "简短。"}]) -> ("简短。\n红色？", [])
    """
    turns: list[Turn] = []
    before, question = "", None
    for number, message in enumerate(as_messages(history), start=1):
        role, content = message["role"], message["content"]
        if _uses_tools(message):
            raise DataError(f"history: message {number}: {NO_TOOLS}")
        if role == "system" and question is None:
            before += content + "\n"
        elif role == "user" and question is None:
            before, question = "", before + content
        elif role == "assistant" and question is not None:
            turns.append((question, content))
            question = None
        else:
            raise _misplaced(number, message, question is not None)
    if question is not None:
        raise DataError(
            "history: ends with a question; expected an answer to it; "
            "join the two questions, or insert the missing answer"
        )
    return before + query, turns


def _uses_tools(message: Message) -> bool:
    is_observation = message["role"] == "observation"
    return is_observation or bool(message.get("tools") or message.get("metadata"))


def _misplaced(number: int, message: Message, is_asked: bool) -> DataError:
    """The error for a message that does not fit into rounds of a question and an answer."""
    role = message["role"]
    if role not in ROLES:
        return DataError(
            f"history: message {number}: unknown role {role!r}; choose from {', '.join(ROLES)}"
        )
    expected = "an answer (assistant)" if is_asked else "a question (user)"
    return DataError(
        f"history: message {number}: role {role!r}; expected {expected}; "
        "questions and answers must alternate: join consecutive ones"
    )
