"""What clients send, as types with ranges: OpenAI's requests and THUDM's. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from glmtune.serving.ranges import HOTTEST

MOST_CHOICES = 16
MOST_STOPS = 16
LARGEST = 1 << 31


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    """The one prompt in a list, which some clients send."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# With a constraint pydantic reads a text, and refuses half of a surrogate pair in it.
Text = Annotated[str, Field(max_length=LARGEST)]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    BeforeValidator(_as_list),
    Field(max_length=MOST_STOPS),
]


class Sent(BaseModel):
    """Strict types; keys that this server does not know are passed over, as clients differ."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(Sent):
    """Of a streamed answer."""

    include_usage: bool = False


class Sampling(Sent):
    """How an answer is chosen: greedily, unless temperature or top_p say otherwise."""

    model: Annotated[str, Field(max_length=512)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    max_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    temperature: Annotated[float, Field(ge=0, le=HOTTEST)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST, lt=LARGEST)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None = None


class CompletionRequest(Sampling):
    """POST /v1/completions: the prompt is continued as it is, without a chat template.

    A list may hold one prompt.
    """

    prompt: Annotated[Text, BeforeValidator(_as_text)]


class PlainRequest(Sent):
    """POST /, as THUDM's api.py takes it; `model` is an addition."""

    prompt: Text
    history: list[Annotated[list[Text], Field(min_length=2, max_length=2)]] | None = None
    max_length: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=HOTTEST)] | None = None
    model: Annotated[str, Field(max_length=512)] | None = None
