"""What several of the official tokenizers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from glmtune.families.conversation import Message, Turn, as_messages


class Vocabulary(Protocol):
    """Pieces and command tokens; text never produces a command token."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""

    def decode(self, ids: Iterable[int], skip_commands: bool) -> str:
        """The text of `ids`."""


class CommandTokenizer:
    """A text follows command tokens, such as `[gMASK] sop`."""

    _vocabulary: Vocabulary
    prefix_ids: list[int]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """`prefix_ids`, then the ids of `text`; names of commands in the text stay plain text."""
        ids = self._vocabulary.encode(text)
        return self.prefix_ids + ids if add_special_tokens else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary (padded model rows) have no text."""
        return self._vocabulary.decode(ids, skip_special_tokens)


class MessageTokenizer(CommandTokenizer, ABC):
    """A prompt is a list of messages, and ends with the assistant's role token."""

    special_ids: dict[str, int]
    eos_token_id: int
    answer_end_id: int
    """The token after the last answer of a conversation in training."""

    @abstractmethod
    def message_ids(self, message: Message) -> list[int]:
        """One message: role token, metadata line, content."""

    def chat_prompt_ids(
        self, query: str, history: Sequence[Turn | Message] = (), role: str = "user"
    ) -> list[int]:
        """The ids that the official chat() generates from; `role` is the role of the query."""
        ids = list(self.prefix_ids)
        for message in [*as_messages(history), {"role": role, "content": query}]:
            ids += self.message_ids(message)
        return [*ids, self.special_ids["<|assistant|>"]]
