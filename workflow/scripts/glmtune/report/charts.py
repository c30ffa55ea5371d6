"""The kinds of charts: dots with intervals, points of two values, heat maps, and curves.

All take numbers and names; `glmtune/report/figures.py` says which of a report's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    zero_line,
)
from glmtune.report.words import Text, chinese, english, join

DOT = 4  # radius of a curve of one point
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
    shift: float = 0  # pixels to the right, so that points of equal x do not cover each other


@dataclass(frozen=True)
class Curve:
    """Values over steps; a single one is drawn as a dot."""

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
    axis = x_axis(frame, along, "", 6) + zero_line(frame, x=along)
    body = title(join([name, label], ", ", "，")) + axis + "".join(rows)
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
    axes = x_axis(frame, across, labels[0], 6) + y_axis(frame, up, labels[1])
    body = title(name) + axes + zero_line(frame, x=across, y=up)
    total = frame.top + frame.height + (54 + more if key else 38)
    return Panel(total, body + "".join(marks) + marked)


def _point(point: Point, across: Scale, up: Scale) -> str:
    x, y, series = across(point.x) + point.shift, up(point.y), point.series
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


def heat_panel(
    name: Text, values: Mapping[tuple[float, float], float], labels: tuple[Text, Text]
) -> Panel:
    """A cell for each pair of x and y that has a value; the darker, the higher."""
    columns, rows = (sorted(each) for each in map(set, zip(*values, strict=True)))
    frame = Frame(50, 48, WIDTH - 52, ROW * 1.5 * len(rows))
    wide, high = frame.width / len(columns), frame.height / len(rows)
    low, span = min(values.values()), max(values.values()) - min(values.values()) or 1.0
    parts = [text(0, frame.top - 9, labels[1], class_="label")]
    for place, x in enumerate(columns):
        middle = frame.left + wide * (place + 0.5)
        parts.append(text(middle, frame.top + frame.height + 15, short(x), text_anchor="middle"))
    for place, y in enumerate(reversed(rows)):
        top = frame.top + high * place
        parts.append(text(frame.left - 6, top + high / 2 + 4, short(y), text_anchor="end"))
        for column, x in enumerate(columns):
            if (x, y) in values:
                value = values[x, y]
                left = frame.left + wide * column
                strength = 0.08 + 0.5 * (value - low) / span
                cell = {"x": left + 1, "y": top + 1, "width": wide - 2, "height": high - 2}
                parts.append(element("rect", **cell, class_="s0", fill_opacity=strength))
                shown, middle = f"{value:.2f}", left + wide / 2
                parts.append(text(middle, top + high / 2 + 4, shown, text_anchor="middle"))
    bottom = frame.top + frame.height
    middle = frame.left + frame.width / 2
    parts.append(text(middle, bottom + 32, labels[0], class_="label", text_anchor="middle"))
    return Panel(bottom + 38, title(name) + "".join(parts))


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
        x=frame.left - DOT,
        y=frame.top - DOT,
        width=frame.width + 2 * DOT,
        height=frame.height + 2 * DOT,
        viewBox=f"{-DOT} {-DOT} {frame.width + 2 * DOT:g} {frame.height + 2 * DOT:g}",
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
    places = [f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points]
    is_dot = len(places) == 1
    drawn = " ".join(places * (1 + is_dot))  # of a line without length only the round ends are seen
    kind = "dot " if is_dot else "dev " if curve.is_dashed else ""
    series = curve.series
    return element(
        "polyline",
        points=drawn,
        class_=f"line {kind}{series.css}",
        data_model=series.model,
        data_method=series.method,
        data_xy=" ".join(f"{x:g},{y:.5g}" for x, y in curve.points),
        data_name=english(series.label) + (" (dev)" if curve.is_dashed else ""),
    )
