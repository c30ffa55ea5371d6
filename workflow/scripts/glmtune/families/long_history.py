"""Shortens conversations that exceed the prompt limit: drops the oldest turns, not the question.

A turn is a question with everything up to the next question. System messages, which describe
tools, are always kept; so is the turn that an observation belongs to. Knows nothing about tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from glmtune.families.conversation import Message, Row, as_messages

# shorten: drop the oldest turns. official: truncate the prompt, like THUDM's scripts.
LONG_HISTORY = ("shorten", "official")


def shorten_history(row: Row, fits: Callable[[Row], bool]) -> Row:
    """Keep as many of the latest turns as fit; drop all if the row does not fit anyway.

    Returns the same object if it fits or has no turn to drop.
    """
    turns = _split_into_turns(as_messages(row.get("history", ())))
    # An observation belongs to the last turn of the history, which must be kept.
    droppable = len(turns) - ("role" in row)
    if droppable < 1 or fits(row):
        return row
    shortened = [_without_oldest(row, turns, dropped) for dropped in range(1, droppable + 1)]
    # Dropping turns removes tokens: once the row fits, it fits with fewer turns too.
    return shortened[min(bisect_left(shortened, True, key=fits), droppable - 1)]


def _split_into_turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Group messages by turn; the first turn includes any system message before it."""
    turns: list[list[Message]] = []
    for message in messages:
        has_begun = bool(turns) and any(said["role"] != "system" for said in turns[-1])
        if not turns or (message["role"] == "user" and has_begun):
            turns.append([])
        turns[-1].append(message)
    is_system_only = len(turns) == 1 and all(said["role"] == "system" for said in turns[0])
    return [] if is_system_only else turns


def _without_oldest(row: Row, turns: Sequence[Sequence[Message]], dropped: int) -> Row:
    kept = [
        message
        for number, turn in enumerate(turns)
        for message in turn
        if number >= dropped or message["role"] == "system"
    ]
    return {**row, "history": kept}
