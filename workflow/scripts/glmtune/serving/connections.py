"""Time limits of connections: no client keeps one open by sending or reading too slowly."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE = 75
"""Seconds between requests, longer than a proxy before the server (nginx: 60) keeps a connection;
the head of a request has to come within them, too."""
GRACE = 30
"""Seconds for a body to come and for an answer to be read, beside those for the answer itself."""


def limited(seconds: float) -> type[H11Protocol]:
    """The protocol of a server whose answers take so long at most."""
    return type("Connection", (LimitedConnection,), {"seconds": seconds + GRACE})


class LimitedConnection(H11Protocol):
    """HTTP/1.1, aborted when a request does not come, or does not end, in time."""

    seconds = 300.0 + GRACE
    """From the head of a request to the end of its answer."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._watched: object = self  # the request that the timer is for; None: the next one
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Set the timer anew where another request runs than before, or none does any more."""
        cycle = self.cycle
        running = cycle if cycle is not None and not cycle.response_complete else None
        if running is not self._watched and not self.transport.is_closing():
            self._stop()
            self._watched = running
            # Later than uvicorn's own timer, which closes an idle connection in a politer way.
            seconds = KEEP_ALIVE + 1 if running is None else self.seconds
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
