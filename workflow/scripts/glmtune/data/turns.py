"""Normalizes the order of a conversation so that every model family can be trained on it.

Numbered rounds (ChatGLM-6B, ChatGLM2-6B) hold one question and one answer each. Chats are reordered
here because errors can still name the line of the user's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glmtune.data.rows import RowMistake

Message = dict[str, Any]

GREETING = "assistant messages before the first question are dropped"
JOINED = "consecutive questions or answers are joined with a line break"


def in_turns(messages: Sequence[Message], place: str) -> tuple[list[Message], set[str]]:
    """Return a conversation in order and notes on changes; RowMistake if it has no order.

    Example: user, user, assistant -> user, assistant; and {JOINED}
    """
    ordered: list[Message] = []
    notes: set[str] = set()
    is_asked = False
    for message in messages:
        role, last = message["role"], ordered[-1] if ordered else None
        is_asked = is_asked or role == "user"
        if role == "assistant" and not is_asked:
            notes.add(GREETING)
        elif role == "observation" and not is_asked:
            raise RowMistake(
                f"{place}an observation before the first question; expected a question (role user) "
                "first; remove the observation or the conversation"
            )
        elif last and last["role"] == role and _is_plain(last) and _is_plain(message):
            notes.add(JOINED)
            ordered[-1] = {"role": role, "content": f"{last['content']}\n{message['content']}"}
        elif role == "system" and last and not _is_over(last):
            raise RowMistake(
                f"{place}a system message between a question and its answer; expected it before "
                "the question; move it there"
            )
        else:
            ordered.append(message)
    return ordered, notes


def _is_plain(message: Message) -> bool:
    """Whether a message is plain text, to which another one can be appended."""
    return message["role"] in ("user", "assistant") and not message.get("metadata")


def _is_over(message: Message) -> bool:
    """Whether a question may follow the message."""
    return message["role"] == "system" or (message["role"] == "assistant" and _is_plain(message))
