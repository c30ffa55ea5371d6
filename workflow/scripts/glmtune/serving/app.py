"""The server as an ASGI application: routes, the key, limits, mistakes."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import glmtune
from glmtune.errors import UserError, shown_name
from glmtune.serving import openai_api, replies, thudm_api
from glmtune.serving.api_page import describe_api
from glmtune.serving.service import Gone, Service

PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER = "1"  # seconds
CLOSED_REQUEST = 499  # nginx's status for a client that went away; nobody reads it
# The page is one file: it may load nothing, and send to this server only.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# What is seen without the key.
OPEN = {("GET", "/"), ("GET", "/health"), ("GET", "/docs"), ("GET", "/openapi.json")}


def create_app(service: Service, *, api_key: str | None = None) -> FastAPI:
    """The application; its scheduler runs as long as it does."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        service.scheduler.stop()

    app = FastAPI(
        title="glmtune",
        version=glmtune.__version__,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(openai_api.routes(service))
    app.include_router(thudm_api.routes(service))
    _add_own_routes(app, service)
    _add_mistakes(app)
    app.add_middleware(BodyLimit, most=service.limits.max_body)
    if api_key is not None:
        app.add_middleware(KeyCheck, key=api_key)
    return app


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE.read_bytes(), media_type="text/html", headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = describe_api(app.openapi())
        return Response(page, media_type="text/html", headers=PAGE_HEADERS)

    @app.get("/health", tags=["glmtune"])
    async def health() -> dict[str, Any]:
        """Whether it answers, and how many rows are answered and wait."""
        return {"status": "ok", **service.scheduler.load}

    @app.get("/v1/dev-rows/{number}", tags=["glmtune"])
    async def dev_row(number: int) -> dict[str, Any]:
        """A row of the dev set, with its reference; numbers count from 0."""
        if not 0 <= number < len(service.rows):
            raise HTTPException(404, f"row {number}: the dev set has {len(service.rows)} rows")
        row = service.rows[number]
        return {"rows": len(service.rows), "number": number, **row}


def _add_mistakes(app: FastAPI) -> None:
    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        status = replies.status_of(error)
        headers = {"Retry-After": RETRY_AFTER} if status == 429 else None
        return JSONResponse(replies.mistake_of(error), status, headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_body(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = replies.texts_of(first["loc"])
        if first["type"] == "json_invalid":
            message = f"the body is not JSON ({first['ctx']['error']}); send a JSON object"
            return JSONResponse(replies.mistake(400, message), 400)
        told = f"{where or 'body'}: {first['msg']}; correct it"
        return JSONResponse(replies.mistake(422, shown_name(told, 500), where or None), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = shown_name(str(error.detail), 500)
        return JSONResponse(
            replies.mistake(error.status_code, message), error.status_code, error.headers
        )

    @app.exception_handler(Gone)
    async def gone(request: Request, error: Gone) -> Response:
        return Response(status_code=CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return JSONResponse(replies.mistake_of(error), 500)


class KeyCheck:
    """Refuses whoever does not know the key; compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is open to all and what brings the key."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) not in OPEN:
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
