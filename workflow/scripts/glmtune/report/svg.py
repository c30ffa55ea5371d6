"""Draws panels as SVG: axes, marks, lines, labels in both languages. Knows nothing about reports.

Colors are CSS variables, so the same drawing follows the light or dark theme of what shows it. A
panel is drawn narrow enough to be read on a phone; wider places show several side by side.
"""

from __future__ import annotations

import html
import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.errors import printable
from glmtune.report.words import Text, Words, chinese, english

# Name of a CSS variable -> its color in light and in dark places. s0, s1, … are those of series,
# distinguishable with any color vision and at 3:1 or more against the ground.
COLORS = {
    "ground": ("#ffffff", "#14171a"),
    "raised": ("#f4f5f7", "#1f2428"),
    "text": ("#1b1f24", "#e6e9ec"),
    "quiet": ("#57606a", "#a3abb3"),
    "line": ("#d0d7de", "#3a4148"),
    "base": ("#6e7781", "#98a2ad"),
    "s0": ("#0072b2", "#56a8e8"),
    "s1": ("#d55e00", "#ff8f4a"),
    "s2": ("#008a63", "#3fcf9d"),
    "s3": ("#a6448a", "#e39ccb"),
    "s4": ("#9a6f00", "#e0b13c"),
    "s5": ("#5b4bc4", "#b3a6ff"),
}
SERIES = 6
STYLE = Path(__file__).with_name("charts.css").read_text(encoding="utf-8")
WIDTH = 380  # of a panel, in CSS pixels
FONT = 12
GAP = 16  # between the panels of a file


@dataclass(frozen=True)
class Panel:
    """A drawing of WIDTH x height."""

    height: float
    body: str


@dataclass(frozen=True)
class Frame:
    """The part of a panel in which values are drawn."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Scale:
    """Maps values to positions."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value."""
        low, high, place = map(self._spread, (self.low, self.high, value))
        return self.start + (self.end - self.start) * (place - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values for about `count` ticks."""
        return log_ticks(self.low, self.high) if self.is_log else ticks(self.low, self.high, count)

    def _spread(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def scale(values: Iterable[float], start: float, end: float, *, is_log: bool = False) -> Scale:
    """A scale over all values with some room at both ends."""
    found = list(values)
    low, high = min(found), max(found)
    if is_log:
        room = (high / low) ** 0.08 if high > low else 2.0
        return Scale(low / room, high * room, start, end, is_log=True)
    room = 0.06 * (high - low) or abs(high) / 2 or 1.0
    return Scale(low - room, high + room, start, end)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten. Example: 0.2, 9.7 -> [2, 4, 6, 8]."""
    rough = 0.7 * (high - low) / count  # rather a few more ticks than only two
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times those within two decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sizes = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    found = (size * 10.0**decade for decade, size in itertools.product(decades, sizes))
    return [value for value in found if low <= value <= high]


def short(number: float) -> str:
    """A tick's label. Example: 48000 -> "48k", 0.2500 -> "0.25"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:.4g}"


# --- elements -------------------------------------------------------------------------------------


def element(name: str, *children: str, **attributes: Any) -> str:
    """An element; `data_model` is written `data-model`, `class_` is `class`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value not in (None, "")
    )
    return f"<{name}{shown}>{''.join(children)}</{name}>" if children else f"<{name}{shown}/>"


def text(x: float, y: float, words: Text, **attributes: Any) -> str:
    """A label, in each language if they differ."""
    if english(words) == chinese(words):
        return element("text", escaped(english(words)), x=x, y=y, **attributes)
    return "".join(
        element("text", escaped(shown), x=x, y=y, **attributes | {"class_": f"t {kind}"}, lang=lang)
        for lang, shown in (("en", english(words)), ("zh", chinese(words)))
        for kind in [attributes.get("class_", "")]
    )


def escaped(label: str) -> str:
    """Text as the content of an element, without characters that control its direction."""
    return html.escape(printable(label).replace("\n", " "), quote=False)


def width_of(label: str) -> float:
    """About how wide a label is. Chinese characters are square."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in label)
    return FONT * (wide + 0.56 * (len(label) - wide))


def fitted(words: Text, width: float) -> Text:
    """A label cut to a width."""
    if isinstance(words, Words):
        return words.map(lambda label: _cut(label, width))
    return _cut(words, width)


def _cut(label: str, width: float) -> str:
    if width_of(label) <= width:
        return label
    while label and width_of(label) > width - FONT:
        label = label[:-1]
    return f"{label}…"


def _attribute(value: Any) -> str:
    return (
        f"{value:.2f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else printable(str(value))
    )


# --- parts of panels ------------------------------------------------------------------------------


def title(words: Text) -> str:
    """The title of a panel."""
    return text(0, 15, fitted(words, WIDTH), class_="title")


def x_axis(frame: Frame, along: Scale, label: Text, count: int = 5) -> str:
    """Grid lines, tick labels and the axis label below the frame."""
    bottom = frame.top + frame.height
    parts = [
        element("line", x1=along(v), x2=along(v), y1=frame.top, y2=bottom)
        + text(along(v), bottom + 15, short(v), text_anchor="middle")
        for v in along.ticks(count)
    ]
    middle = frame.left + frame.width / 2
    return element("g", *parts, class_="x axis") + text(
        middle, bottom + 32, label, class_="label", text_anchor="middle"
    )


def y_axis(frame: Frame, along: Scale, label: Text, count: int = 5) -> str:
    """Grid lines, tick labels and the axis label above the frame."""
    right = frame.left + frame.width
    parts = [
        element("line", x1=frame.left, x2=right, y1=along(v), y2=along(v))
        + text(frame.left - 6, along(v) + 4, short(v), text_anchor="end")
        for v in along.ticks(count)
    ]
    return element("g", *parts, class_="y axis") + text(0, frame.top - 9, label, class_="label")


def zero_line(frame: Frame, *, x: Scale | None = None, y: Scale | None = None) -> str:
    """A line at 0 of each scale that goes below it."""
    parts = []
    if x and x.low < 0 < x.high and not x.is_log:
        ends = {"y1": frame.top, "y2": frame.top + frame.height}
        parts.append(element("line", x1=x(0), x2=x(0), **ends, class_="zero"))
    if y and y.low < 0 < y.high and not y.is_log:
        ends = {"x1": frame.left, "x2": frame.left + frame.width}
        parts.append(element("line", y1=y(0), y2=y(0), **ends, class_="zero"))
    return "".join(parts)


def mark(x: float, y: float, shape: int, **attributes: Any) -> str:
    """A point; shapes tell models apart where colors tell methods."""
    drawn = (
        f"M{x - 4.5:.1f} {y:.1f}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
        f"M{x - 4.2:.1f} {y - 4.2:.1f}h8.4v8.4h-8.4z",
        f"M{x:.1f} {y - 5.4:.1f}l5.2 9.4h-10.4z",
        f"M{x:.1f} {y - 5.6:.1f}l5.6 5.6l-5.6 5.6l-5.6-5.6z",
    )
    return element("path", d=drawn[shape % len(drawn)], **attributes)


def legend(top: float, items: Sequence[str], texts: Sequence[Text]) -> tuple[str, float]:
    """Marks drawn around 0, 0, each with its label, in as many lines as needed; and the height."""
    x, y, parts = 6.0, top, []
    for item, words in zip(items, texts, strict=True):
        width = 28 + max(width_of(english(words)), width_of(chinese(words)))
        if x > 6 and x + width > WIDTH:
            x, y = 6.0, y + 18
        parts.append(
            element(
                "g",
                item,
                text(12, 4, fitted(words, WIDTH - 40)),
                transform=f"translate({x:.1f} {y:.1f})",
            )
        )
        x += width
    return "".join(parts), y + 8 - top


# --- documents ------------------------------------------------------------------------------------


def inline(panel: Panel) -> str:
    """A panel inside a page, which has the styles."""
    return element("svg", panel.body, viewBox=f"0 0 {WIDTH} {panel.height:g}", aria_hidden="true")


def document(panels: Sequence[Panel], columns: int, description: str) -> str:
    """A file of its own: panels side by side, in English, with its styles."""
    columns = min(columns, len(panels)) or 1
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    parts, top = [], 0.0
    for row in rows:
        for index, panel in enumerate(row):
            left = index * (WIDTH + GAP)
            parts.append(
                element("svg", panel.body, x=left, y=top, width=WIDTH, height=panel.height)
            )
        top += max(panel.height for panel in row) + GAP
    width, height = columns * (WIDTH + GAP) - GAP, max(top - GAP, 0)
    return element(
        "svg",
        element("title", escaped(description)),
        element("style", _palette("svg") + STYLE + ".t[lang=zh]{display:none}"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height:g}",
        width=width,
        height=height,
        role="img",
    )


def _palette(selector: str) -> str:
    light, dark = (
        "".join(f"--{name}:{colors[theme]};" for name, colors in COLORS.items()) for theme in (0, 1)
    )
    return f"{selector}{{{light}}}@media(prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
