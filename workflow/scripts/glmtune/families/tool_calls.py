r"""Calls of tools as models write them: the tool's name in the first line, its arguments below.

    ChatGLM3   track\n```python\ntool_call(symbol='10111')\n```     also the form of data sets here
    GLM-4      track\n{"symbol": "10111"}

The official code of ChatGLM3 evaluates a call as Python; here only literals are read.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

PYTHON_CALL = re.compile(r"\s*```(?:python)?\n(.*?)\n?```\s*", re.DOTALL)


def tool_call(text: str) -> dict[str, str] | None:
    """The call that an answer is, {"name", "arguments": JSON}; None for any other text."""
    name, _, content = text.strip().partition("\n")
    arguments = _python_arguments(content)
    if arguments is None:
        arguments = _json_arguments(content)
    if not name.strip() or arguments is None:
        return None
    return {"name": name.strip(), "arguments": arguments}


def call_as_json(content: str) -> str:
    r"""What stands below a tool's name, as GLM-4 writes it; what is no call of ChatGLM3 stays.

    Example: "```python\ntool_call(symbol='10111')\n```" -> '{"symbol": "10111"}'
    """
    arguments = _python_arguments(content)
    return content if arguments is None else arguments


def _python_arguments(content: str) -> str | None:
    """The arguments of a call in Python as JSON; None for anything but literals."""
    code = PYTHON_CALL.fullmatch(content)
    if code is None:
        return None
    try:
        call: Any = ast.parse(code[1].strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _json_arguments(content: str) -> str | None:
    """A JSON object as it was written; None for anything else."""
    try:
        values = json.loads(content)
        json.dumps(values, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return content.strip() if isinstance(values, dict) else None
