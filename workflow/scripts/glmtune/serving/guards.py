"""Checks before every route: the host name, the API key, the size of the body."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glmtune.errors import shown_name
from glmtune.serving import replies

LOCAL = ("localhost", "127.0.0.1", "::1")
# What is seen without the key.
OPEN = ("/", "/health", "/docs", "/openapi.json")
READING = ("GET", "HEAD")


def is_open(host: str) -> bool:
    """Whether a server that listens there is reached from other machines, by any name."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # the name of a machine
        return True


class HostCheck:
    """Answers to known names only, so that no web site gets at a server of this machine.

    A site can have its own name point at 127.0.0.1 (DNS rebinding); a browser then takes this
    server for that site, whose scripts may read every answer.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = {*LOCAL, *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what was sent to one of the names."""
        if scope["type"] == "http":
            name = _host_name(dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
            if name not in self._names:
                message = (
                    f"Host is {shown_name(name)!r}; expected {', '.join(sorted(self._names))}; "
                    "start the server with --allow-host to be reached by another name"
                )
                await JSONResponse(replies.mistake(400, message), 400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(header: str) -> str:
    """Example: "[::1]:8000" -> "::1", "Localhost:8000" -> "localhost"."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class KeyCheck:
    """Refuses whoever does not know the key; compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is open to all and what brings the key."""
        is_free = scope["type"] != "http" or (scope["path"] in OPEN and scope["method"] in READING)
        if not is_free:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._key):
                message = "the API key is missing or wrong; send Authorization: Bearer KEY"
                headers = {"WWW-Authenticate": "Bearer"}
                response = JSONResponse(replies.mistake(401, message), 401, headers)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses a body that is too long, by its header or as soon as it is."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body up to the limit, then pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")[:20]
        is_short = length.isdigit() and int(length) <= self._most
        body = await self._read(receive) if is_short else None
        if body is None:
            message = f"the body is longer than {self._most} bytes; shorten it"
            await JSONResponse(replies.mistake(413, message), 413)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return body
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                return None
        return body


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives a body which was read, then what comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return parts.pop() if parts else await receive()

    return replayed
