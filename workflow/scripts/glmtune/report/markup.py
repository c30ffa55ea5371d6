"""Text as HTML, in both languages where they differ; the page shows one of them at a time."""

from __future__ import annotations

import functools
import html
import re
from typing import TYPE_CHECKING

from glmtune.errors import printable
from glmtune.report.words import Text, chinese, english

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

CHINESE = re.compile("[\u3400-\u9fff]")
# Full-width marks hold their own space.
WIDE_GAP = re.compile(
    "(?<=[\u3000-\u9fff（），：；*])\n(?=[\u3000-\u9fff（*A-Za-z0-9])|"
    "(?<=[，。；：、（）]) +(?=[^*-])|(?<=[^*-]) +(?=[，。；：、（）])"
)


def inline(text: Text) -> str:
    """Markdown of a line."""
    return _both(english(text), chinese(text), "span")


def paragraphs(text: Text) -> str:
    """Markdown of paragraphs or a list."""
    return _both(english(text), chinese(text), "div")


def choices(text: Text) -> str:
    """Attributes from which the page's script sets the text of an element that holds no others."""
    return _attributes(text, "")


def names(text: Text) -> str:
    """Attributes from which the page's script sets the accessible name of an element."""
    return _attributes(text, "name-")


def language_of(text: Text) -> str:
    """An attribute for a text of the data that is Chinese; "" if the page's language fits."""
    return ' lang="zh"' if isinstance(text, str) and CHINESE.search(text) else ""


def _both(en: str, zh: str, element: str) -> str:
    render = _markdown().renderInline if element == "span" else _markdown().render
    if en == zh:
        return render(en)
    return _spans(render(en), render(WIDE_GAP.sub("", zh)), element)


def _attributes(text: Text, kind: str) -> str:
    return " ".join(
        f'data-{kind}{lang}="{html.escape(printable(shown))}"'
        for lang, shown in (("en", english(text)), ("zh", chinese(text)))
    )


def _spans(en: str, zh: str, element: str) -> str:
    return "".join(
        f'<{element} class="t" lang="{lang}">{shown}</{element}>'
        for lang, shown in (("en", en), ("zh", zh))
    )


@functools.cache
def _markdown() -> MarkdownIt:
    # Imported here: what only reads a report does not need it.
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False})
