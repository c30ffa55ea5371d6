"""How long a download waits, how slow a line may be and how often it is tried again.

Knows nothing about HTTP or files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to try again."""

    connect_s: float = 5.0
    """For a connection. Short, so that a machine without a network hears about it soon."""
    read_s: float = 30.0
    """For the next bytes of an open connection."""
    answer_s: float = 60.0
    """For the headers of an answer, redirects included."""
    least_bytes_s: float = 1000.0
    """The least speed, in bytes a second: a slower line, or try, is a failed one."""
    window_s: float = 60.0
    """What the speed of an open connection is averaged over."""
    tries: int = 4
    """In a row without new bytes at the least speed; a slow line that brings more goes on."""
    pause_s: float = 1.0
    """Before the second try; twice as long before each further one."""
    longest_pause_s: float = 30.0
    """However often it failed and whatever the server asked for."""

    def is_enough(self, received: int, seconds: float) -> bool:
        """Whether so many bytes are worth the time: one at least, and at the least speed."""
        return received > 0 and received >= self.least_bytes_s * seconds


class Pace:
    """The speed of an open connection, over one window after another."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began, self._received = time.monotonic(), 0

    def is_too_slow(self, received: int) -> bool:
        """Count `received` bytes; whether the window that ends with them brought too few."""
        self._received += received
        now = time.monotonic()
        if now - self._began < self._patience.window_s:
            return False
        is_slow = not self._patience.is_enough(self._received, now - self._began)
        self._began, self._received = now, 0
        return is_slow
