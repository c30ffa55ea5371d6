r"""Markdown of any text and any values: escaped so that it shows exactly their characters.

What would steer a terminal or turn the order of a line is shown as an escape, such as \x1b. Knows
nothing about reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from glmtune.errors import printable, shown_name


def plain(text: str) -> str:
    """Any text as one line of Markdown that shows exactly its characters."""
    shown = printable(" ⏎ ".join(text.strip().splitlines()))
    return "".join(f"\\{char}" if char in "\\`*_[]<>|~&$#!" else char for char in shown)


def name(text: str) -> str:
    """A name that somebody else gave, as `plain` shows it, cut if it is long."""
    return plain(shown_name(text))


def code(text: str) -> str:
    """Any text as one code span; not for table cells, where a | would end the cell."""
    shown = printable(" ".join(text.split()))
    fence = _fence(shown, 1)
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def yaml_block(value: Any) -> str:
    """JSON values as a block of YAML: keys in their order, Chinese readable, no line folded."""
    dumped = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=math.inf)
    dumped = printable(dumped.strip())
    fence = _fence(dumped, 4)
    return f"{fence}yaml\n{dumped}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """A Markdown table; the first `text_columns` are aligned left, the others right."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _fence(text: str, length: int) -> str:
    """At least `length` backticks, and more than stand in a row in `text`."""
    while "`" * length in text:
        length += 1
    return "`" * length
