"""The server as an ASGI application: routes, the key, limits, mistakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import glmtune
from glmtune.errors import UserError, shown_name
from glmtune.serving import openai_api, replies, thudm_api
from glmtune.serving.api_page import describe_api
from glmtune.serving.guards import BodyLimit, HostCheck, KeyCheck
from glmtune.serving.service import Gone, Service

PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER = "1"  # seconds
# What FastAPI and Starlette say -> what to do about it.
MESSAGES = {
    "There was an error parsing the body": "the body is not UTF-8, or nested too deeply; send a "
    "JSON object in UTF-8",
    "Not Found": "no such path; GET /docs shows those that there are",
    "Method Not Allowed": "this path takes other methods; GET /docs shows them",
}
CLOSED_REQUEST = 499  # nginx's status for a client that went away; nobody reads it
# The page is one file: it may load nothing, and send to this server only.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    service: Service, *, api_key: str | None = None, host_names: Collection[str] | None = None
) -> FastAPI:
    """The application; its scheduler runs as long as it does. `host_names`: None for any."""

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
    if host_names is not None:
        app.add_middleware(HostCheck, names=host_names)
    return app


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE.read_bytes(), media_type="text/html", headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = describe_api(app.openapi())
        return Response(page, media_type="text/html", headers=PAGE_HEADERS)

    @app.head("/health", include_in_schema=False)
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
        if not where and "json" not in (kind := request.headers.get("content-type", "")):
            told = f"Content-Type is {shown_name(kind)!r}; expected application/json; send it"
        return JSONResponse(replies.mistake(422, shown_name(told, 500), where or None), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = MESSAGES.get(str(error.detail), shown_name(str(error.detail), 500))
        return JSONResponse(
            replies.mistake(error.status_code, message), error.status_code, error.headers
        )

    @app.exception_handler(Gone)
    async def gone(request: Request, error: Gone) -> Response:
        return Response(status_code=CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return JSONResponse(replies.mistake_of(error), 500)
