"""Blocks as one self-contained HTML page: no network access, readable without its script.

The page's own script is the only one that may run: a Content-Security-Policy names its hash, and
refuses every address. Texts of models and data are escaped, or are data that the script writes as
text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from glmtune.report.blocks import (
    Block,
    Cell,
    Code,
    Figure,
    Folded,
    Head,
    Heading,
    PageOnly,
    Prose,
    Row,
    Table,
)
from glmtune.report.markup import choices, inline, language_of, names, paragraphs
from glmtune.report.svg import COLORS
from glmtune.report.svg import STYLE as CHARTS
from glmtune.report.svg import inline as drawn
from glmtune.report.words import Text, Words, english

HERE = Path(__file__).parent
NUMBERED = re.compile(r"\b[A-Za-z]+-\w\b")  # BLEU-4, ROUGE-L
STYLE = (HERE / "page.css").read_text(encoding="utf-8")
SCRIPT = "".join(
    (HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("page", "curves", "answers")
)


def render_page(sections: Sequence[Sequence[Block]]) -> str:
    """The whole page. The first section begins with the report's title."""
    blocks = [block for section in sections for block in section]
    headings = [block for block in blocks if isinstance(block, Heading)]
    return PAGE.format(
        policy=_policy(),
        title=html.escape(english(headings[0].title)),
        style=_colors() + CHARTS + STYLE,
        contents=_contents(headings),
        shown=_choices_of_runs(blocks),
        body="".join(f"<section>{_blocks(section)}</section>\n" for section in sections if section),
        script=SCRIPT,
    )


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _colors() -> str:
    variables = "".join(f"--{name}:light-dark({','.join(both)});" for name, both in COLORS.items())
    return f":root{{{variables}}}"


def _contents(headings: Sequence[Heading]) -> str:
    return "".join(
        f'<li><a href="#{html.escape(heading.anchor)}">{inline(heading.title)}</a></li>'
        for heading in headings
        if heading.level == 2
    )


def _choices_of_runs(blocks: Sequence[Block]) -> str:
    """A box for each model and method, if there are several, by which a reader hides it."""
    rows = [row for block in blocks if isinstance(block, Table) for row in block.rows]
    models = dict.fromkeys(row.model for row in rows)
    methods = dict.fromkeys(row.method for row in rows)
    shown = _boxes("model", Words("Models", "模型"), models)
    return shown + _boxes("method", Words("Methods", "方法"), methods)


def _boxes(kind: str, title: Words, names: Iterable[str]) -> str:
    named = [html.escape(name) for name in names if name]
    boxes = (
        f'<label><input type="checkbox" checked data-hides="{kind}" value="{name}">{name}</label>'
        for name in named
    )
    legend = f"<legend>{inline(title)}</legend>"
    return f"<fieldset>{legend}{''.join(boxes)}</fieldset>" if len(named) > 1 else ""


# --- blocks ---------------------------------------------------------------------------------------


def _blocks(blocks: Sequence[Block]) -> str:
    return "".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Heading():
            return _heading(block)
        case Prose():
            return paragraphs(block.text)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Folded():
            summary, inner = inline(block.summary), _blocks(block.blocks)
            return f"<details><summary>{summary}</summary>{inner}</details>"
        case Code():
            return _code(block)
        case PageOnly():
            return block.html


def _heading(heading: Heading) -> str:
    level, anchor = heading.level, html.escape(heading.anchor)
    title = inline(heading.title)
    if level == 1:
        return f'<h1 id="{anchor}">{title}</h1>'
    # Whoever uses a keyboard or a screen reader has the contents.
    link = f'<a class="anchor" href="#{anchor}" aria-hidden="true" tabindex="-1">#</a>'
    return f'<h{level} id="{anchor}"{language_of(heading.title)}>{title}{link}</h{level}>'


def _code(code: Code) -> str:
    copy = choices(Words("Copy", "复制"))
    shown = html.escape(code.text, quote=False)
    return f'<div class="code"><pre><code>{shown}</code></pre><button hidden {copy}></button></div>'


def _figure(figure: Figure) -> str:
    if not figure.panels:
        return ""
    zoom = ZOOM.format(
        hint=inline(
            Words(
                "Drag over a part to enlarge it; double-click shows everything.",
                "拖选一部分可放大，双击还原。",
            )
        ),
        log=inline(Words("Log scale", "对数坐标")),
        later=choices(Words("Later half", "只看后半段")),
        reset=choices(Words("Show everything", "显示全部")),
    )
    panels = "".join(f'<div class="panel">{drawn(panel)}</div>' for panel in figure.panels)
    return (
        f'<figure id="figure-{figure.name}">{zoom if figure.can_zoom else ""}'
        f'<div class="panels">{panels}</div>'
        f"<figcaption>{inline(figure.alt)}</figcaption></figure>"
    )


# --- tables ---------------------------------------------------------------------------------------


def _table(table: Table) -> str:
    heats = list(zip(*_heats(table), strict=True)) if table.rows else []
    head = "".join(
        f'<th scope="col"{_number(index, table)}>{_title(cell)}</th>'
        for index, cell in enumerate(table.header)
    )
    rows = "".join(_row(row, heat, table) for row, heat in zip(table.rows, heats, strict=True))
    kind = ' class="runs"' if table.named > 1 else ""
    return (
        f'<div class="wide" tabindex="0" role="region" {names(table.caption)}>'
        f"<table{kind}><caption>{inline(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _title(head: Text | Head) -> str:
    """The head of a column, in which a name such as BLEU-4 is not broken."""
    title = head.title if isinstance(head, Head) else head
    return NUMBERED.sub(r'<span class="whole">\g<0></span>', inline(title))


def _number(index: int, table: Table) -> str:
    return "" if index < table.text_columns else ' class="number"'


def _row(row: Row, heats: Sequence[float | None], table: Table) -> str:
    cells = []
    for index, (cell, heat) in enumerate(zip(row.cells, heats, strict=True)):
        text, value = (cell.text, cell.value) if isinstance(cell, Cell) else (cell, None)
        element = 'th scope="row"' if index < table.named and text else "td"
        marks = _number(index, table) + language_of(text)
        marks += "" if value is None else f' data-value="{value:.6g}"'
        marks += "" if heat is None else f' style="--heat:{heat:.2f}"'
        cells.append(f"<{element}{marks}>{inline(text)}</{element[:2]}>")
    tags = "".join(
        f' data-{kind}="{html.escape(name)}"'
        for kind, name in (("model", row.model), ("method", row.method))
        if name
    )
    return f"<tr{tags}>{''.join(cells)}</tr>"


def _heats(table: Table) -> Iterator[list[float | None]]:
    """For each column, where each value lies between the worst (0) and the best (1) of it."""
    for head, *cells in zip(table.header, *(row.cells for row in table.rows), strict=True):
        better = head.better if isinstance(head, Head) else 0
        values = [cell.value if isinstance(cell, Cell) else None for cell in cells]
        known = [value for value in values if value is not None]
        if not better or not known or min(known) == max(known):
            yield [None] * len(values)
            continue
        worst, best = (min(known), max(known))[::better]
        yield [None if v is None else abs((v - worst) / (best - worst)) for v in values]


ZOOM = """<div class="zoom" hidden><label><input type="checkbox">{log}</label>
<button {later}></button><button {reset}></button><span class="hint">{hint}</span></div>"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<aside>
<div class="buttons" hidden>
<button id="language" lang="zh">中文</button>
<button id="theme" data-en="Dark" data-zh="深色"></button>
</div>
<details id="side" open>
<summary><span class="t" lang="en">Contents</span><span class="t" lang="zh">目录</span></summary>
<nav><ol>{contents}</ol></nav>
<div id="shown" hidden>{shown}</div>
</details>
</aside>
<main>
{body}</main>
<div id="tip" hidden></div>
<script>{script}</script>
</body>
</html>
"""
