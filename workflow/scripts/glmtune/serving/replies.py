"""What the server answers, as JSON: OpenAI's objects, and one form for every mistake."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.errors import DataError, ParamsError, UserError, shown_name
from glmtune.families.tool_calls import tool_call
from glmtune.serving.catalog import Catalog, Served
from glmtune.serving.scheduling import QueueFull

# Kind of mistake -> status and OpenAI's name for it.
STATUS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
STATUS |= {413: "invalid_request_error", 422: "invalid_request_error"}
STATUS |= {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
LONGEST = 800  # characters of a message: it may quote what was sent
DONE = b"data: [DONE]\n\n"


def mistake(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def status_of(error: Exception) -> int:
    """The status that tells a client what went wrong."""
    if isinstance(error, QueueFull):
        return 429
    if isinstance(error, ParamsError):  # a name that is none
        return 404
    if isinstance(error, DataError):
        return 400
    return 503 if isinstance(error, UserError) else 500


def mistake_of(error: Exception) -> dict[str, Any]:
    """The error object of an exception; of a bug no more than that it was one."""
    status = status_of(error)
    text = str(error) if status != 500 else "internal server error; see the log of the server"
    return mistake(status, shown_name(text, LONGEST))


def event(value: Mapping[str, Any]) -> bytes:
    """A part of a stream of server-sent events."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def new_head(kind: str, served: Served) -> dict[str, Any]:
    """What the parts of one answer have in common."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chat_choice(number: int, text: str, end: str | None, *, may_call: bool) -> dict[str, Any]:
    """A whole answer in a chat, or the call of a tool that it is."""
    call = tool_call(text) if may_call else None
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if call is not None:
        message = {"role": "assistant", "content": None, "tool_calls": [called(call)]}
        end = "tool_calls"
    return {"index": number, "message": message, "finish_reason": end}


def called(call: Mapping[str, str]) -> dict[str, Any]:
    """A call of a tool in OpenAI's form."""
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": dict(call)}


def listed_models(catalog: Catalog, titles: Mapping[str, str]) -> dict[str, Any]:
    """GET /v1/models: OpenAI's keys, and what the page shows of each model."""
    return {"object": "list", "data": [listed(served, titles) for served in catalog.values()]}


def listed(served: Served, titles: Mapping[str, str]) -> dict[str, Any]:
    """One of them."""
    return {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "glmtune",
        "family": served.family,
        "title": titles[served.family],
        "kind": served.kind,
        "base": served.name.partition("/")[0],
    }


def texts_of(numbers: Sequence[Any]) -> str:
    """Where in a request something is, e.g. ("body", "messages", 0) -> "messages.0"."""
    return ".".join(str(number) for number in numbers if number != "body")
