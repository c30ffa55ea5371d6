r"""Writes blocks as Markdown, and escapes arbitrary text so that it shows exactly its characters.

Characters that control terminals or reverse text direction appear as escapes, such as \x1b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from glmtune.errors import printable, shown_name
from glmtune.report.blocks import Block, Cell, Code, Figure, Folded, Head, Heading, Prose, Table
from glmtune.report.words import english


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


def yaml_text(value: Any) -> str:
    """JSON values as YAML: keys in order, Chinese unescaped, lines unfolded."""
    dumped = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=math.inf)
    return printable(dumped.strip())


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks in English, as GitHub shows them."""
    return "\n\n".join(filter(None, map(_block, blocks)))


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {english(block.title)}"
        case Prose():
            return english(block.text)
        case Table():
            return _table(block)
        case Figure():
            return f"![{block.alt.en}](figures/{block.name}.svg)" if block.panels else ""
        case Folded():
            return to_markdown(block.blocks)
        case Code():
            fence = _fence(block.text, 4)
            return f"{fence}{block.language}\n{block.text}\n{fence}"
        case _:
            return ""


def _table(table: Table) -> str:
    header = [english(head.title if isinstance(head, Head) else head) for head in table.header]
    rule = ["---" if index < table.text_columns else "---:" for index in range(len(header))]
    rows = [
        [english(cell.text if isinstance(cell, Cell) else cell) for cell in row.cells]
        for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _fence(text: str, length: int) -> str:
    """At least `length` backticks, and more than any run of backticks in `text`."""
    while "`" * length in text:
        length += 1
    return "`" * length
