"""One conversation with models in this process: what was said, who answers, how.

Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from glmtune.errors import DataError
from glmtune.families.conversation import ROLES, Message
from glmtune.generation.engine import Engine, Request
from glmtune.serving.answer_text import AnswerText
from glmtune.serving.answering import Choosing, room_for_answer, tokenizer_of
from glmtune.serving.catalog import Catalog, Served
from glmtune.serving.library import Library
from glmtune.serving.prompts import chat_prompt


@dataclass
class Session:
    """Messages so far, and the model that answers next."""

    catalog: Catalog
    library: Library
    served: Served
    choosing: Choosing = field(default_factory=Choosing)
    max_new_tokens: int = 512
    system: str | None = None
    history: list[Message] = field(default_factory=list)
    asked: Message | None = None
    """The last question; its answer, if it has one, is the end of the history."""
    was_cut: bool = False
    """Whether the last answer ended at max_new_tokens."""

    def ask(self, text: str, role: str = "user") -> Iterator[str]:
        """The parts of the answer as they come; it enters the history once it is whole."""
        question = {"role": role, "content": text}
        self.asked = question
        answer = ""
        for part in self.stream(self.served, [*self.history, question]):
            answer += part
            yield part
        self.history += [question, {"role": "assistant", "content": answer}]

    def take_back(self) -> Message | None:
        """The last question, its answer removed from the history; None if there was none."""
        if self.asked is not None and self.asked in self.history[-2:-1]:
            del self.history[-2:]
        return self.asked

    def say(self, role: str, text: str) -> None:
        """Put a message into the history that nobody answers.

        Raises DataError for a role that does not exist, or has no place there in this family.
        """
        if role not in ROLES:
            raise DataError(f"unknown role {role!r}; expected one of {', '.join(ROLES)}")
        history: list[Message] = [*self.history, {"role": role, "content": text}]
        question: Message = {"role": "user", "content": "?"}
        chat_prompt(tokenizer_of(self.served), self.served.family, [*history, question])
        self.history = history

    def siblings(self) -> list[Served]:
        """The untuned model and all that was tuned on it."""
        base = self.served.name.partition("/")[0]
        return [s for s in self.catalog.values() if s.name.partition("/")[0] == base]

    def stream(self, served: Served, messages: list[Message]) -> Iterator[str]:
        """The parts of one model's answer; the row is gone when the iterator is closed."""
        tokenizer = tokenizer_of(served)
        system = [{"role": "system", "content": self.system}] if self.system else []
        ids = chat_prompt(tokenizer, served.family, [*system, *messages])
        room = room_for_answer(served, ids, len(ids))
        self.library.has_room(served, busy=())
        engine = Engine(self.library.open(served).model, slots=1)
        limit = min(self.max_new_tokens, room)
        sampler = self.choosing.sampler(0)
        engine.add(Request(ids, limit, tokenizer.stop_token_ids, sampler))
        text = AnswerText(tokenizer)
        while engine.is_busy:
            (event,) = engine.step()
            self.was_cut = event.end == "length"
            if event.end != "stop":
                yield text.add([event.token])
        yield text.finish()
