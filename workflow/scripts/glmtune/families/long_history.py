"""Conversations that are longer than a prompt may be: their oldest turns go, never the question.

A turn is a question with all that follows it up to the next one. System messages, in which tools
are described, stay wherever they stand; so does the turn that an observation belongs to.
Knows nothing about tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from glmtune.families.conversation import Message, Row, as_messages

# shorten: drop the oldest turns. official: cut the prompt at the limit, as THUDM's scripts do.
LONG_HISTORY = ("shorten", "official")


def shorten_history(row: Row, fits: Callable[[Row], bool]) -> Row:
    """The row with as many of its latest turns as fit; none if it does not fit without any.

    The same object comes back if it fits as it is, or has no turn that could go.
    """
    turns = _split_into_turns(as_messages(row.get("history", ())))
    # Who answers an observation was asked in the last turn of the history.
    droppable = len(turns) - ("role" in row)
    if droppable < 1 or fits(row):
        return row
    shortened = [_without_oldest(row, turns, dropped) for dropped in range(1, droppable + 1)]
    # More turns are more tokens, so it fits from some number of dropped turns on.
    return shortened[min(bisect_left(shortened, True, key=fits), droppable - 1)]


def _split_into_turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages by turn; a system message before the first question is in the first turn."""
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
