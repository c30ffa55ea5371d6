"""THUDM's plain API (api.py of ChatGLM-6B and ChatGLM2-6B): POST / with prompt and history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request

from glmtune.families.conversation import as_messages
from glmtune.serving.answering import Choosing, tokenizer_of
from glmtune.serving.api_types import PlainRequest
from glmtune.serving.prompts import chat_prompt
from glmtune.serving.service import Service, unless_gone

# Its defaults.
MAX_LENGTH, TOP_P, TEMPERATURE = 2048, 0.7, 0.95


def routes(service: Service) -> APIRouter:
    """The route of THUDM's API."""
    router = APIRouter(tags=["THUDM"])

    @router.post("/")
    async def answer(body: PlainRequest, request: Request) -> dict[str, Any]:
        """The answer to a prompt after a history of (question, answer) pairs."""
        served = service.find(body.model)
        history = [(question, reply) for question, reply in body.history or []]
        messages = [*as_messages(history), {"role": "user", "content": body.prompt}]
        tokenizer = tokenizer_of(served)
        ids = await service.in_thread(lambda: chat_prompt(tokenizer, served.family, messages))
        temperature = TEMPERATURE if body.temperature is None else body.temperature
        limit = max(1, (body.max_length or MAX_LENGTH) - len(ids))
        choosing = Choosing(temperature, body.top_p or TOP_P)
        answers = service.answer(service.ask(served, ids, limit, choosing))
        await unless_gone(request, answers, answers.whole())
        text = answers.texts[0].shown
        return {
            "response": text,
            "history": [*history, (body.prompt, text)],
            "status": 200,
            "time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        }

    return router
