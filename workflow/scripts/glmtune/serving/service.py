"""What all routes need: the models by name, their limits, the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from glmtune.errors import DataError
from glmtune.serving.answering import Answers, Asked, Choosing, room_for_answer
from glmtune.serving.catalog import Catalog, Served, find
from glmtune.serving.scheduling import Scheduler

Value = TypeVar("Value")


class Gone(Exception):
    """The client went away: nobody reads an answer."""


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for; `glmtune serve` has a flag for each."""

    max_body: int = 1 << 20
    """Bytes."""
    max_prompt: int = 2048
    """Tokens."""
    max_tokens: int = 512
    """Of an answer; a request for more gets this many."""
    timeout: float = 300.0
    """Seconds from the request to the end of the answer."""


@dataclass(frozen=True)
class Service:
    """Models that can be asked."""

    catalog: Catalog
    scheduler: Scheduler
    limits: RequestLimits
    rows: Sequence[dict[str, Any]] = ()
    """Of the dev set, {"content", "summary"}, for the page."""

    def find(self, name: str | None) -> Served:
        """The model of that name, None for the first; raises ParamsError."""
        return find(self.catalog, next(iter(self.catalog)) if name is None else name)

    def ask(
        self,
        served: Served,
        ids: Sequence[int],
        max_tokens: int | None,
        choosing: Choosing,
        stops: Sequence[str] = (),
        count: int = 1,
        *,
        is_chat: bool = True,
    ) -> Asked:
        """A request within the limits; DataError for a prompt or a number of answers above them."""
        most = self.scheduler.max_waiting
        if count > most:
            raise DataError(f"n: found {count}; this server queues {most} answers at most")
        room = room_for_answer(served, ids, self.limits.max_prompt)
        limit = min(max_tokens or self.limits.max_tokens, self.limits.max_tokens, room)
        return Asked(served, ids, limit, choosing, stops, count, is_chat)

    def answer(self, asked: Asked, *, is_streamed: bool = False) -> Answers:
        """Queue it; raises QueueFull."""
        return Answers(self.scheduler, asked, self.limits.timeout, is_streamed=is_streamed)

    async def in_thread(self, work: Callable[[], Value]) -> Value:
        """Encode a long prompt without keeping other requests waiting."""
        return await asyncio.to_thread(work)


async def unless_gone(request: Request, answers: Answers, wanted: Awaitable[Value]) -> Value:
    """What was `wanted` of the answers; raises Gone when the client goes away before it is there.

    The rows of the answers are free after any exception.
    """
    coming = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_is_gone(request))
    try:
        await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise Gone
        return coming.result()
    except BaseException:
        answers.close()
        raise
    finally:
        for task in (coming, gone):
            task.cancel()


async def _is_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
