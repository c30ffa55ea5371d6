"""The kinds of charts: dots with intervals, points of two values, and curves.

All take numbers and names; `glmtune/report/figures.py` says which of a report's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmtune.report.svg import (
    SERIES,
    WIDTH,
    Frame,
    Panel,
    Scale,
    element,
    fitted,
    legend,
    mark,
    scale,
    short,
    text,
    title,
    width_of,
    x_axis,
    y_axis,
)
from glmtune.report.words import Text, chinese, english, join

ROW = 22  # height of a row of dots
LONGEST_LABEL = 130  # pixels


@dataclass(frozen=True)
class Series:
    """What a color and a shape mean, and what a reader can hide: a method of a model."""

    label: Text
    model: str = ""
    method: str = ""
    color: int | None = None  # None: gray, as for untuned models
    shape: int = 0

    @property
    def css(self) -> str:
        """The class of its color."""
        return "base" if self.color is None else f"s{self.color % SERIES}"


@dataclass(frozen=True)
class Dot:
    """A value with an interval."""

    series: Series
    value: float
    low: float
    high: float
    shown: str


@dataclass(frozen=True)
class Point:
    """Two values, with intervals where there are some."""

    series: Series
    x: float
    y: float
    shown: str  # on hover
    x_span: tuple[float, float] | None = None
    y_span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """Values over steps."""

    series: Series
    points: Sequence[tuple[float, float]]
    is_dashed: bool = False


def dot_panel(name: Text, dots: Sequence[Dot], domain: Sequence[float], label: Text) -> Panel:
    """A row for each value; panels with the same domain can be compared."""
    widths = [width_of(form(dot.series.label)) for dot in dots for form in (english, chinese)]
    left = 10 + min(max(widths), LONGEST_LABEL)
    values = 10 + max(width_of(dot.shown) for dot in dots)
    frame = Frame(left, 26, WIDTH - left - values, ROW * len(dots))
    along = scale(domain, frame.left, frame.left + frame.width)
    rows = [
        _dot(dot, along, frame.top + ROW * (index + 0.5), left) for index, dot in enumerate(dots)
    ]
    body = title(join([name, label], ", ", "，")) + x_axis(frame, along, "", 6) + "".join(rows)
    return Panel(frame.top + frame.height + 22, body)


def _dot(dot: Dot, along: Scale, y: float, left: float) -> str:
    series = dot.series
    return element(
        "g",
        text(0, y + 4, fitted(series.label, left - 8)),
        element(
            "line", x1=along(dot.low), x2=along(dot.high), y1=y, y2=y, class_=f"span {series.css}"
        ),
        mark(along(dot.value), y, series.shape, class_=series.css),
        text(WIDTH, y + 4, dot.shown, class_="value", text_anchor="end"),
        data_model=series.model,
        data_method=series.method,
        data_tip=f"{english(series.label)}: {dot.shown} ({short(dot.low)} … {short(dot.high)})",
    )


def point_panel(
    name: Text,
    points: Sequence[Point],
    labels: tuple[Text, Text],
    *,
    is_log: bool = False,
    key: Sequence[Series] = (),
    height: float = 190,
) -> Panel:
    """Each point in the color of its method and the shape of its model; `key` explains them."""
    frame = Frame(40, 48, WIDTH - 52, height)
    xs = [x for point in points for x in (point.x, *(point.x_span or ()))]
    ys = [y for point in points for y in (point.y, *(point.y_span or ()))]
    across = scale(xs, frame.left, frame.left + frame.width, is_log=is_log)
    up = scale(ys, frame.top + frame.height, frame.top)
    marks = [_point(point, across, up) for point in points]
    marked, more = legend(
        frame.top + frame.height + 54,
        [mark(0, 0, each.shape, class_=each.css) for each in key],
        [each.label for each in key],
    )
    body = title(name) + x_axis(frame, across, labels[0], 6) + y_axis(frame, up, labels[1])
    total = frame.top + frame.height + (54 + more if key else 38)
    return Panel(total, body + "".join(marks) + marked)


def _point(point: Point, across: Scale, up: Scale) -> str:
    x, y, series = across(point.x), up(point.y), point.series
    spans = ""
    if point.x_span:
        low, high = map(across, point.x_span)
        spans += element("line", x1=low, x2=high, y1=y, y2=y, class_=f"span thin {series.css}")
    if point.y_span:
        low, high = map(up, point.y_span)
        spans += element("line", x1=x, x2=x, y1=low, y2=high, class_=f"span thin {series.css}")
    return element(
        "g",
        spans,
        mark(x, y, series.shape, class_=series.css),
        data_model=series.model,
        data_method=series.method,
        data_tip=f"{series.model}, {series.method}: {point.shown}",
    )


def curve_panel(
    name: Text, curves: Sequence[Curve], domain: Sequence[float], labels: tuple[Text, Text]
) -> Panel:
    """Curves over steps. What the page's script needs to zoom is in the drawing itself."""
    frame = Frame(40, 48, WIDTH - 52, 170)
    steps = [x for curve in curves for x, _ in curve.points]
    across = Scale(min(steps), max(steps) + (min(steps) == max(steps)), 0, frame.width)
    up = scale(domain, frame.height, 0)
    lines = element(
        "svg",
        *(_curve(curve, across, up) for curve in curves),
        x=frame.left,
        y=frame.top,
        width=frame.width,
        height=frame.height,
        style="overflow:hidden",
    )
    key = list({curve.series.method: curve.series for curve in curves}.values())
    marked, more = legend(
        frame.top + frame.height + 54,
        [element("line", x1=-5, x2=7, y1=0, y2=0, class_=f"line {each.css}") for each in key],
        [each.label for each in key],
    )
    moved = Scale(across.low, across.high, frame.left, frame.left + frame.width)
    placed = Scale(up.low, up.high, frame.top + frame.height, frame.top)
    body = title(name) + element(
        "g",
        x_axis(frame, moved, labels[0], 6),
        y_axis(frame, placed, labels[1]),
        lines,
        class_="curves",
        data_frame=f"{frame.left:g} {frame.top:g} {frame.width:g} {frame.height:g}",
        data_domain=f"{across.low:g} {across.high:g} {up.low:.6g} {up.high:.6g}",
    )
    return Panel(frame.top + frame.height + 54 + more, body + marked)


def _curve(curve: Curve, across: Scale, up: Scale) -> str:
    drawn = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
    series = curve.series
    return element(
        "polyline",
        points=drawn,
        class_=f"line {'dev ' if curve.is_dashed else ''}{series.css}",
        data_model=series.model,
        data_method=series.method,
        data_xy=" ".join(f"{x:g},{y:.5g}" for x, y in curve.points),
        data_name=english(series.label) + (" (dev)" if curve.is_dashed else ""),
    )
