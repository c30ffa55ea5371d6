"""One request from prompt to text: its rows in the scheduler, their events, what is shown of them.

Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from glmtune.checkpoints.prepared import read_prepared_config
from glmtune.checkpoints.sources import open_tokenizer
from glmtune.errors import DataError
from glmtune.families.tokenizers import Tokenizer
from glmtune.generation.engine import Event, Request
from glmtune.generation.sampling import Sampler
from glmtune.serving.answer_text import AnswerText
from glmtune.serving.catalog import Served
from glmtune.serving.ranges import COLDEST, SEEDS, SMALLEST_TOP_P
from glmtune.serving.scheduling import Job, Scheduler, TimedOut

GRACE = 5  # seconds
LENGTH_KEYS = ("max_sequence_length", "seq_length")  # of the families' configs


@dataclass(frozen=True)
class Choosing:
    """How the tokens of an answer are chosen."""

    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """None: another one each time."""

    def sampler(self, number: int) -> Sampler | None:
        """That of the n-th answer to one prompt."""
        if self.temperature < COLDEST:
            return None
        seed = time.time_ns() if self.seed is None else self.seed % SEEDS
        return Sampler(self.temperature, max(self.top_p, SMALLEST_TOP_P), (seed, number))


@dataclass(frozen=True)
class Asked:
    """A prompt and how it is answered, `count` times."""

    served: Served
    ids: Sequence[int]
    max_tokens: int
    choosing: Choosing = field(default_factory=Choosing)
    stops: Sequence[str] = ()
    count: int = 1
    is_chat: bool = True


@dataclass(frozen=True)
class Delta:
    """A further part of the text of the n-th answer; `end` with the last one."""

    number: int
    text: str
    end: str | None = None
    """`stop` or `length`."""


@cache
def tokenizer_of(served: Served) -> Tokenizer:
    """The tokenizer of a model, opened once."""
    return open_tokenizer(served.folder, served.family)


@cache
def context_of(served: Served) -> int:
    """The tokens that prompt and answer may have together."""
    config = read_prepared_config(served.folder)
    return int(next((config[key] for key in LENGTH_KEYS if config.get(key)), 2048))


def room_for_answer(served: Served, ids: Sequence[int], max_prompt: int) -> int:
    """The tokens that an answer to a prompt may have; DataError if the prompt is too long."""
    context = context_of(served)
    longest = min(max_prompt, context - 1)
    if len(ids) > longest:
        raise DataError(
            f"the prompt has {len(ids)} tokens; {served.name} takes at most {longest} here; "
            "shorten it, or drop the oldest messages"
        )
    return context - len(ids)


class Answers:
    """The answers to one request while they come."""

    def __init__(
        self, scheduler: Scheduler, asked: Asked, timeout: float, *, is_streamed: bool
    ) -> None:
        """Queues the rows: raises QueueFull."""
        self.asked = asked
        self.tokens = 0
        tokenizer = tokenizer_of(asked.served)
        make_text = partial(AnswerText, tokenizer, stops=asked.stops, is_chat=asked.is_chat)
        self.texts = [make_text() for _ in range(asked.count)]
        self._scheduler = scheduler
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        # Without a stop word to find, a whole answer is looked at once, at its end.
        self._wakes_always = is_streamed or bool(asked.stops)
        self._arrived: list[deque[Event | Exception]] = [deque() for _ in range(asked.count)]
        self._awake: asyncio.Queue[int] = asyncio.Queue()
        self._open = set(range(asked.count))
        deadline = time.monotonic() + timeout
        self._jobs = [
            Job(
                asked.served,
                Request(
                    asked.ids,
                    asked.max_tokens,
                    tokenizer.stop_token_ids,
                    asked.choosing.sampler(number),
                ),
                partial(self._tell, number),
                deadline,
            )
            for number in range(asked.count)
        ]
        scheduler.submit(self._jobs)

    async def deltas(self) -> AsyncIterator[Delta]:
        """The parts of all answers as they come; raises what kept an answer from ending."""
        try:
            while self._open:
                for number, events in (await self._come()).items():
                    for delta in self._accept(number, events):
                        yield delta
        finally:
            self.close()

    async def whole(self) -> list[str | None]:
        """How each answer ended; the texts are in `texts`."""
        ends: dict[int, str | None] = {}
        async for delta in self.deltas():
            ends[delta.number] = delta.end
        return [ends[number] for number in range(self.asked.count)]

    def close(self) -> None:
        """Free the rows of answers that have not ended."""
        for number in self._open:
            self._scheduler.cancel(self._jobs[number])
        self._open = set()

    def _tell(self, number: int, event: Event | Exception) -> None:
        """Called in the scheduler's thread."""
        self._arrived[number].append(event)
        is_last = isinstance(event, Exception) or event.end is not None
        if is_last or self._wakes_always:
            with contextlib.suppress(RuntimeError):  # the server ends just now
                self._loop.call_soon_threadsafe(self._awake.put_nowait, number)

    async def _come(self) -> dict[int, list[Event]]:
        """What has come of each answer since the last time; waits for something."""
        numbers = {await self._wait()}
        while not self._awake.empty():
            numbers.add(self._awake.get_nowait())
        return {number: list(self._taken(number)) for number in numbers}

    async def _wait(self) -> int:
        """The number of an answer with news; the scheduler keeps the time, this is for its end."""
        try:
            return await asyncio.wait_for(self._awake.get(), self._timeout + GRACE)
        except TimeoutError:
            raise TimedOut("no token arrived within --timeout; the answer was stopped") from None

    def _taken(self, number: int) -> Iterator[Event]:
        while self._arrived[number]:
            event = self._arrived[number].popleft()
            if isinstance(event, Exception):
                raise event
            yield event

    def _accept(self, number: int, events: Sequence[Event]) -> list[Delta]:
        if number not in self._open or not events:  # a token was on its way to an ended answer
            return []
        text, end = self.texts[number], events[-1].end
        ids = [event.token for event in events if event.end != "stop"]
        self.tokens += len(ids)
        shown = text.add(ids) if ids else ""
        if end is not None:
            shown += text.finish()
        if text.is_stopped and end is None:
            self._scheduler.cancel(self._jobs[number])
        end = "stop" if text.is_stopped else end
        if end is not None:
            self._open.discard(number)
        return [Delta(number, shown, end)] if shown or end else []
