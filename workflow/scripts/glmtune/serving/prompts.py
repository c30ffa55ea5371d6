"""Messages of a client as the token ids of its model's own chat prompt.

Special tokens that a user types stay text. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from glmtune.data.messages import messages_of_history
from glmtune.data.rows import RowMistake
from glmtune.errors import DataError, shown_name
from glmtune.families.conversation import Message
from glmtune.families.registry import get_family
from glmtune.families.tokenizers import Tokenizer

NO_TOOLS = (
    "has no place for tools, calls or observations in its prompt; expected questions and answers "
    "only; use a ChatGLM3 or GLM-4 model for tools"
)
# Typed by users of ChatGLM-6B to have it filled in, so the one special token that a text may hold.
BLANK = "[MASK]"
# No vocabulary has longer pieces: ChatGLM-6B's longest is one of 80 blanks.
LONGEST_PIECE = 128  # characters


def read_messages(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
) -> list[Message]:
    """Messages in OpenAI's form as those of `glmtune.families.conversation`.

    Raises DataError for what is no conversation that ends with something to answer.
    """
    try:
        found: list[Message] = list(
            messages_of_history([_plain(message) for message in messages], "messages")
        )
    except RowMistake as mistake:
        raise DataError(str(mistake)) from None
    if not found or found[-1]["role"] not in ("user", "observation"):
        last = found[-1]["role"] if found else "nothing"
        raise DataError(
            f"messages: the last one has role {last}; expected a question (role user) or the "
            "result of a tool (role tool); add it"
        )
    return _with_tools(found, [_description(tool) for tool in tools])


def refuse_long(texts: Iterator[str], max_tokens: int) -> None:
    """Raise DataError for texts that cannot have so few tokens, before any is encoded."""
    left = max_tokens * LONGEST_PIECE
    for text in texts:
        left -= len(text)
        if left < 0:
            raise DataError(
                f"the prompt has more than {max_tokens} tokens; expected no more; "
                "shorten it, or leave out the oldest messages"
            )


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """What a prompt of these messages holds, in parts. DataError for tools nested too deeply.

    Tools come as they are laid out, piece by piece: indented, a short text can become a huge one.
    """
    for message in messages:
        yield message["content"]
        try:
            yield from json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(
                message.get("tools", [])
            )
        except RecursionError:
            raise DataError("tools: nested too deeply; expected JSON schemas; flatten it") from None


def chat_prompt(tokenizer: Tokenizer, family: str, messages: Sequence[Message]) -> list[int]:
    """The ids that the official chat() generates from, for messages that end with a question.

    Raises DataError for tools where the family has no place for them.
    """
    *history, last = _introduced(messages, get_family(family).tools_introduction)
    takes_tools = get_family(family).template().takes_tools
    if not takes_tools and any(_is_of_tools(message) for message in messages):
        raise DataError(f"{get_family(family).title} {NO_TOOLS}")
    role = {"role": last["role"]} if last["role"] != "user" else {}
    asked: Any = tokenizer
    if recognised_names(tokenizer):
        return _plain_ids(tokenizer, asked.chat_prompt(last["content"], history))
    return asked.chat_prompt_ids(last["content"], history, **role)


def plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text to continue, without a chat prompt around it."""
    return _plain_ids(tokenizer, text)


def recognised_names(tokenizer: Tokenizer) -> list[str]:
    """The special tokens that the tokenizer finds in a text, where they must stay text."""
    return [name for name in getattr(tokenizer, "TEXT_SPECIALS", ()) if name != BLANK]


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """`text` with the prompt's own special tokens and none that it spells.

    A tokenizer that would recognise one sees its first character apart from the rest.
    """
    parts = [text]
    for name in recognised_names(tokenizer):
        parts = [piece for part in parts for piece in _cut_inside(part, name)]
    if len(parts) == 1:
        return tokenizer.encode(text)
    ids = tokenizer.encode(parts[0], add_special_tokens=False)
    for part in parts[1:]:
        ids += tokenizer.encode(part, add_special_tokens=False, add_dummy_prefix=False)
    return [*ids, *tokenizer.encode("")]


def _cut_inside(text: str, name: str) -> list[str]:
    """Example: ("a<eop>b", "<eop>") -> ["a<", "eop>b"]."""
    before, *after = text.split(name)
    pieces = [before]
    for part in after:
        pieces[-1] += name[0]
        pieces.append(name[1:] + part)
    return pieces


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is one text, under the names of roles that this project knows."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role == "assistant" and content is None and not message.get("tool_calls"):
        content = ""
    return {**message, "role": role, "content": content}


def _text_part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise DataError(f"messages: found a part of type {kind!r}; expected text only; remove it")
    text = part.get("text")
    if not isinstance(text, str):
        raise DataError("messages: found a text part without 'text'; add it")
    return text


def _description(tool: dict[str, Any]) -> dict[str, Any]:
    """What ChatGLM3's prompt holds of a tool in OpenAI's form, or in the official demo's."""
    described = tool.get("function", tool)
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise DataError(
            'tools: one without a name; expected {"type": "function", "function": {"name": …}}'
        )
    try:
        json.dumps(described, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise DataError(
            f"tools: {shown_name(described['name'])!r} holds half of a surrogate pair, or is "
            "nested too deeply; expected a JSON schema in UTF-8; correct it"
        ) from None
    return described


def _with_tools(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    if not tools:
        return messages
    if messages[0]["role"] == "system":
        return [{**messages[0], "tools": tools}, *messages[1:]]
    return [{"role": "system", "content": "", "tools": tools}, *messages]


def _introduced(messages: Sequence[Message], introduction: str) -> list[Message]:
    """The messages, with the family's own words before tools that come without a system text."""
    first, *others = messages
    if first.get("tools") and not first["content"]:
        first = {**first, "content": introduction}
    return [first, *others]


def _is_of_tools(message: Message) -> bool:
    return message["role"] == "observation" or bool(message.get("tools") or message.get("metadata"))
