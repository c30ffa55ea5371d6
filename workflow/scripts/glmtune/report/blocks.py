"""What a section of the report is made of. Knows neither Markdown's nor HTML's syntax of a block.

A section is a list of blocks; `glmtune/report/markdown.py` and `glmtune/report/page.py` write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmtune.report.svg import Panel
from glmtune.report.words import Text, Words


@dataclass(frozen=True)
class Heading:
    """The title of a section (level 2) or of a part of one; level 1 is the report's."""

    level: int
    title: Text
    anchor: str  # the same in every report, so that links keep working


@dataclass(frozen=True)
class Prose:
    """Paragraphs or a list, in Markdown."""

    text: Text


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    title: Text
    better: int = 0  # 1: higher values are better, -1: lower ones; 0: neither


@dataclass(frozen=True)
class Cell:
    """A cell, with the number that it shows."""

    text: Text
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """A row; a reader can hide those of a model or method."""

    cells: Sequence[Text | Cell]
    model: str = ""
    method: str = ""


@dataclass(frozen=True)
class Table:
    """A table."""

    caption: Text  # of the page only; in Markdown the text around a table introduces it
    header: Sequence[Text | Head]
    rows: Sequence[Row]
    text_columns: int  # left-aligned columns at the start; the others are right-aligned
    named: int = 1  # columns at the start that name a row, such as model and method


@dataclass(frozen=True)
class Figure:
    """A drawing: `figures/<name>.svg`; nothing is shown if it has no panels."""

    name: str
    panels: Sequence[Panel]
    alt: Words
    can_zoom: bool = False


@dataclass(frozen=True)
class Folded:
    """Details that the page shows on request."""

    summary: Text
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Code:
    """Commands or settings to copy."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class PageOnly:
    """A part of the page that needs its script: markup of this project's own, and its data."""

    html: str


Block = Heading | Prose | Table | Figure | Folded | Code | PageOnly
