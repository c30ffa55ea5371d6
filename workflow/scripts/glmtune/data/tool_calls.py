"""Converts tool calls from users' formats to ChatGLM3's.

    ChatGLM3       {role: tool, name, parameters: {…}, observation}: the call and its result
    OpenAI         {role: assistant, tool_calls: [{function: {name, arguments: JSON text}}]},
                   formerly {role: assistant, function_call: {name, arguments}}
    LLaMA-Factory  {from: function_call, value: JSON text of {name, arguments}, or a list of such}

Each call becomes one assistant message: the tool's name as its metadata, Python code as content.
Parallel calls become consecutive messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glmtune.data.rows import RowMistake, filled_text_of, name_of, shorten, text_of

Message = dict[str, Any]

EXPECTED_CALL = 'expected {"name": text, "arguments": {…}}'


def calls_in_text(value: Any, place: str) -> list[Message]:
    """The calls in the JSON text of a LLaMA-Factory message."""
    if isinstance(value, str):
        value = _from_json(value, place)
    calls = value if isinstance(value, list) else [value]
    return [_call_message(call, place) for call in calls]


def calls_of_message(item: Mapping[str, Any], place: str) -> list[Message]:
    """The calls that accompany the text of an assistant message; [] if there are none."""
    found = item.get("tool_calls") or item.get("function_call") or []
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise RowMistake(
            f"{place}: 'tool_calls' is {name_of(found)}; expected a list; put it in brackets"
        )
    # OpenAI has one type of call: function.
    calls = [call.get("function", call) if isinstance(call, dict) else call for call in found]
    return [_call_message(call, place) for call in calls]


def call_and_result(item: Mapping[str, Any], place: str) -> list[Message]:
    """The two messages of a call that contains its own result (ChatGLM3)."""
    if "observation" not in item:
        raise RowMistake(
            f"{place}: 'observation' is missing; expected the tool's result next to its "
            "'parameters'; add it"
        )
    result = item["observation"]
    if not isinstance(result, str):
        result = json.dumps(result, ensure_ascii=False)
    return [
        _python_call(item.get("name"), item["parameters"], "parameters", place),
        {"role": "observation", "content": text_of(result, f"{place}: 'observation'")},
    ]


def _call_message(call: Any, place: str) -> Message:
    if not isinstance(call, dict):
        raise RowMistake(f"{place}: a tool call is {name_of(call)}; {EXPECTED_CALL}; use that form")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = _from_json(arguments, f"{place}: 'arguments'") if arguments.strip() else {}
    return _python_call(call.get("name"), arguments or {}, "arguments", place)


def _python_call(name: Any, arguments: Any, key: str, place: str) -> Message:
    """Format a call as in finetune_demo; its arguments are a JSON object."""
    if not isinstance(arguments, dict):
        raise RowMistake(
            f"{place}: '{key}' is {name_of(arguments)}; expected an object; "
            "write {name: value, …}"
        )
    listed = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
    return {
        "role": "assistant",
        "metadata": filled_text_of(name, f"{place}: the name of the tool"),
        "content": text_of(f"```python\ntool_call({listed})\n```", place),
    }


def _from_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowMistake(
            f"{place} is text that is not JSON ('{shorten(text)}'); {EXPECTED_CALL}; "
            "write it with json.dumps"
        ) from None
