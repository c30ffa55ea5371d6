"""Markdown of any text and any values: escaped so that it shows exactly their characters.

Knows nothing about reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml


def plain(text: str) -> str:
    """Any text as one line of Markdown that shows exactly its characters."""
    shown = " ⏎ ".join(_writable(text).strip().splitlines())
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
    return "".join(f"\\{char}" if char in "\\`*_[]<>|~&$#!" else char for char in shown)


def code(text: str) -> str:
    """Any text as one code span; not for table cells, where a | would end the cell."""
    shown = " ".join(_writable(text).split())
    fence = _fence(shown, 1)
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def yaml_block(value: Any) -> str:
    """JSON values as a block of YAML: keys in their order, Chinese readable, no line folded."""
    dumped = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=math.inf).strip()
    fence = _fence(dumped, 4)
    return f"{fence}yaml\n{dumped}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """A Markdown table; the first `text_columns` are aligned left, the others right."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _writable(text: str) -> str:
    """A model may decode to half a character, a lone surrogate, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _fence(text: str, length: int) -> str:
    """At least `length` backticks, and more than stand in a row in `text`."""
    while "`" * length in text:
        length += 1
    return "`" * length
