"""Text in English and Chinese, the two languages of the report.

Both are Markdown. Text that is the same in both, such as names and numbers, is a plain `str`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LANGUAGES = ("en", "zh")
MOST_NAMED, FIRST_NAMED = 20, 5  # names in a sentence, and how many of more


@dataclass(frozen=True)
class Words:
    """The same statement in both languages."""

    en: str
    zh: str

    def map(self, change: Callable[[str], str]) -> Words:
        """Change both languages in the same way."""
        return Words(change(self.en), change(self.zh))


Text = str | Words


def english(text: Text) -> str:
    """The English form."""
    return text.en if isinstance(text, Words) else text


def chinese(text: Text) -> str:
    """The Chinese form."""
    return text.zh if isinstance(text, Words) else text


def bold(text: Text) -> Text:
    """Example: full -> "**full**"."""
    return text.map("**{}**".format) if isinstance(text, Words) else f"**{text}**"


def join(parts: Iterable[Text], en: str, zh: str | None = None) -> Words:
    """Join texts with a separator, which may differ by language."""
    texts = list(parts)
    return Words(en.join(map(english, texts)), (en if zh is None else zh).join(map(chinese, texts)))


def enumerate_names(names: Sequence[Text]) -> Words:
    """Example: a, b, c -> "a, b and c", "a、b 和 c"; of very many names the first ones."""
    if len(names) > MOST_NAMED:
        first, more = join(names[:FIRST_NAMED], ", ", "、"), len(names) - FIRST_NAMED
        return Words(f"{first.en} and {more} others", f"{first.zh} 等 {len(names)} 个")
    *others, last = names
    if not others:
        return Words(english(last), chinese(last))
    return join([join(others, ", ", "、"), last], " and ", " 和 ")
