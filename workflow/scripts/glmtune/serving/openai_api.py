"""OpenAI's API: /v1/models, /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from glmtune.families.registry import FAMILIES
from glmtune.families.tool_calls import tool_call
from glmtune.serving import replies
from glmtune.serving.answering import Answers, Choosing, Delta, tokenizer_of
from glmtune.serving.api_types import ChatRequest, CompletionRequest, Sampling
from glmtune.serving.catalog import Served
from glmtune.serving.prompts import (
    chat_prompt,
    plain_prompt,
    read_messages,
    refuse_long,
    texts_of,
)
from glmtune.serving.service import Service, unless_gone

LOG = logging.getLogger("uvicorn.error")
TITLES = {name: family.title for name, family in FAMILIES.items()}


def routes(service: Service) -> APIRouter:
    """The routes of OpenAI's API."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The untuned models and everything that was tuned on them."""
        return replies.listed_models(service.catalog, TITLES)

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return replies.listed(service.find(name), TITLES)

    @router.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """An answer in a conversation, with the model's own chat prompt."""
        served = service.find(body.model)
        tools = body.tools or [] if body.tool_choice != "none" else []
        most = service.limits.max_prompt
        ids = await service.in_thread(lambda: _chat_ids(body, tools, served, most))
        limit = body.max_completion_tokens or body.max_tokens
        asked = service.ask(served, ids, limit, _choosing(body), body.stop or (), body.n or 1)
        answers = service.answer(asked, is_streamed=bool(body.stream))
        if body.stream:
            return await _streamed(request, answers, body, ChatParts(bool(tools)))
        ends = await unless_gone(request, answers, answers.whole())
        choices = [
            replies.chat_choice(number, answers.texts[number].shown, end, may_call=bool(tools))
            for number, end in enumerate(ends)
        ]
        return _whole("chat.completion", answers, choices)

    @router.post("/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """A text that continues the prompt, which is encoded as it is."""
        served = service.find(body.model)
        ids = await service.in_thread(lambda: plain_prompt(tokenizer_of(served), body.prompt))
        asked = service.ask(
            served,
            ids,
            body.max_tokens,
            _choosing(body),
            body.stop or (),
            body.n or 1,
            is_chat=False,
        )
        answers = service.answer(asked, is_streamed=bool(body.stream))
        if body.stream:
            return await _streamed(request, answers, body, TextParts())
        ends = await unless_gone(request, answers, answers.whole())
        choices = [
            _text_choice(number, answers.texts[number].shown, end)
            for number, end in enumerate(ends)
        ]
        return _whole("text_completion", answers, choices)

    return router


def _chat_ids(
    body: ChatRequest, tools: list[dict[str, Any]], served: Served, max_tokens: int
) -> list[int]:
    messages = read_messages(body.messages, tools)
    refuse_long(texts_of(messages), max_tokens)
    return chat_prompt(tokenizer_of(served), served.family, messages)


def _choosing(body: Sampling) -> Choosing:
    """Greedy unless something is said; top_p alone asks for sampling at temperature 1."""
    temperature = body.temperature
    if temperature is None:
        temperature = 0.0 if body.top_p in (None, 1) else 1.0
    return Choosing(temperature, body.top_p or 1.0, body.seed)


def _whole(kind: str, answers: Answers, choices: list[dict[str, Any]]) -> Response:
    used = replies.usage(len(answers.asked.ids), answers.tokens)
    head = replies.new_head(kind, answers.asked.served)
    return JSONResponse({**head, "choices": choices, "usage": used})


def _text_choice(number: int, text: str, end: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "finish_reason": end, "logprobs": None}


class TextParts:
    """The streamed parts of completions."""

    kind = "text_completion"

    def first(self, number: int) -> list[dict[str, Any]]:
        """The choices that come before any text."""
        return []

    def of(self, delta: Delta, text: str) -> list[dict[str, Any]]:
        """The choices that show a delta; `text` is the whole answer so far."""
        return [_text_choice(delta.number, delta.text, delta.end)]


class ChatParts:
    """The streamed parts of a chat; what may be the call of a tool comes as a whole."""

    kind = "chat.completion.chunk"

    def __init__(self, may_call: bool) -> None:
        self._may_call = may_call

    def first(self, number: int) -> list[dict[str, Any]]:
        """The choices that come before any text: whose answer it is."""
        return [self._choice(number, {"role": "assistant", "content": ""}, None)]

    def of(self, delta: Delta, text: str) -> list[dict[str, Any]]:
        """The choices that show a delta; `text` is the whole answer so far."""
        shown = delta.text
        if self._may_call:
            if delta.end is None:
                return []
            if call := tool_call(text):
                part = {"index": 0, **replies.called(call)}
                return [
                    self._choice(delta.number, {"tool_calls": [part]}, None),
                    self._choice(delta.number, {}, "tool_calls"),
                ]
            shown = text
        said = [self._choice(delta.number, {"content": shown}, None)] if shown else []
        return said + ([self._choice(delta.number, {}, delta.end)] if delta.end else [])

    @staticmethod
    def _choice(number: int, delta: dict[str, Any], end: str | None) -> dict[str, Any]:
        return {"index": number, "delta": delta, "finish_reason": end}


async def _streamed(
    request: Request, answers: Answers, body: Sampling, parts: ChatParts | TextParts
) -> Response:
    """A stream, once there is something to send: until then a mistake still has its status."""
    deltas = answers.deltas()
    first = await unless_gone(request, answers, anext(deltas))
    options = body.stream_options
    with_usage = bool(options and options.include_usage)
    events = _events(answers, _joined(first, deltas), parts, with_usage=with_usage)
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _joined(first: Delta, others: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in others:
        yield delta


async def _events(
    answers: Answers,
    deltas: AsyncIterator[Delta],
    parts: ChatParts | TextParts,
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    head = replies.new_head(parts.kind, answers.asked.served)
    if with_usage:
        head["usage"] = None
    try:
        for number in range(answers.asked.count):
            for choice in parts.first(number):
                yield replies.event({**head, "choices": [choice]})
        async for delta in deltas:
            for choice in parts.of(delta, answers.texts[delta.number].shown):
                yield replies.event({**head, "choices": [choice]})
        if with_usage:
            used = replies.usage(len(answers.asked.ids), answers.tokens)
            yield replies.event({**head, "choices": [], "usage": used})
    except Exception as error:  # the status has been sent
        if replies.status_of(error) == 500:
            LOG.exception("a streamed answer")
        yield replies.event(replies.mistake_of(error))
    finally:
        answers.close()
    yield replies.DONE
