r"""Markdown for arbitrary text and values, escaped so that it shows exactly their characters.

Characters that control terminals or reverse text direction appear as escapes, such as \x1b. Knows
nothing about reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from glmtune.errors import printable, shown_name


def plain(text: str) -> str:
    """Render text as one line of Markdown that shows exactly its characters."""
    shown = printable(" ⏎ ".join(text.strip().splitlines()))
    return "".join(f"\\{char}" if char in "\\`*_[]<>|~&$#!" else char for char in shown)


def name(text: str) -> str:
    """Render an untrusted name like `plain`, truncated if it is long."""
    return plain(shown_name(text))


def code(text: str) -> str:
    """Render text as one code span; not for table cells, where a | would end the cell."""
    shown = printable(" ".join(text.split()))
    fence = _fence(shown, 1)
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def yaml_block(value: Any) -> str:
    """Render JSON values as a YAML block: keys in order, Chinese unescaped, lines unfolded."""
    dumped = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=math.inf)
    dumped = printable(dumped.strip())
    fence = _fence(dumped, 4)
    return f"{fence}yaml\n{dumped}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """Build a Markdown table; the first `text_columns` are left-aligned, the others right."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _fence(text: str, length: int) -> str:
    """At least `length` backticks, and more than any run of backticks in `text`."""
    while "`" * length in text:
        length += 1
    return "`" * length
