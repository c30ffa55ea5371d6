"""The text of an answer while its tokens come: what is shown once is never taken back.

The end of a text is held back as long as a further token can change how it is shown: half a
character, a mark that becomes full-width before Chinese, white space that is cut off at the end,
the beginning of a stop word. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from glmtune.families.conversation import TRAINING_TIME
from glmtune.families.tokenizers import Tokenizer

# Marks that are shown full-width if Chinese follows, and half a character.
_UNSETTLED = ",!:;?\N{REPLACEMENT CHARACTER}"
# The beginning of what is replaced as a whole: the placeholder of `process_response`, and the names
# of ChatGLM-6B's pieces for white space.
_PLACEHOLDER = TRAINING_TIME[0]
_PARTS = [re.escape(_PLACEHOLDER[:length]) for length in range(len(_PLACEHOLDER) - 1, 0, -1)]
_BEGUN = re.compile(rf"(?:{'|'.join(_PARTS)}|<(?:n|\|(?:[a-z]{{1,5}}(?:_\d{{0,2}})?\|?)?)?)\Z")
_LONGEST = 16  # characters of such a beginning


class AnswerText:
    """Collects the ids of one answer; `add` and `finish` return what can be shown in addition."""

    def __init__(
        self, tokenizer: Tokenizer, *, stops: Sequence[str] = (), is_chat: bool = True
    ) -> None:
        """`is_chat`: shown as the official chat() shows it, else as the vocabulary decodes it."""
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._is_chat = is_chat
        self.ids: list[int] = []
        self.shown = ""
        self.is_stopped = False

    def add(self, ids: Sequence[int]) -> str:
        """Append tokens; `is_stopped` is true from then on if a stop word is in the text."""
        self.ids += ids
        decoded = self._tokenizer.decode(self.ids)
        return self._show(self._process(settled(decoded)), is_last=False)

    def finish(self) -> str:
        """The rest, once no token follows."""
        return self._show(self._process(self._tokenizer.decode(self.ids)), is_last=True)

    def _process(self, decoded: str) -> str:
        return self._tokenizer.process_response(decoded) if self._is_chat else decoded

    def _show(self, text: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            text, self.is_stopped = text[: min(places)], True
        elif not is_last:
            text = text[: len(text) - self._begun_stop(text)]
        delta = text[len(self.shown) :]
        self.shown += delta
        return delta

    def _begun_stop(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop word."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)


def settled(text: str) -> str:
    """The part of a decoded text that no further token changes.

    Example: "好的, " -> "好的"
    """
    while True:
        shorter = text.rstrip().rstrip(_UNSETTLED)
        if begun := _BEGUN.search(shorter[-_LONGEST:]):
            shorter = shorter[: len(shorter) - len(begun[0])]
        if shorter == text:
            return text
        text = shorter
