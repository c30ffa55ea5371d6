"""The figures of the report, and the loss curves as CSV.

A figure without anything to show has no panels; its file is still written.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glmtune.metrics.significance import CONFIDENCE, Interval
from glmtune.normal_form import normal_form
from glmtune.report.blocks import Figure
from glmtune.report.charts import (
    Curve,
    Dot,
    Point,
    Series,
    curve_panel,
    dot_panel,
    point_panel,
)
from glmtune.report.contents import COMPARED, MethodEntry, Report, Run
from glmtune.report.svg import Panel
from glmtune.report.tables import (
    percent_of,
    runtime_figure,
    score,
    shown_score,
    signed,
    trained,
)
from glmtune.report.words import Text, Words

COST = (
    (
        Words("Training time (s)", "训练用时（秒）"),
        runtime_figure("finetune_model", "seconds"),
        False,
    ),
    (
        Words("Peak memory (MiB)", "峰值内存（MiB）"),
        runtime_figure("finetune_model", "peak_memory_mib"),
        False,
    ),
    (Words("Trained parameters", "训练参数"), trained("trainable_parameters"), True),
)


@dataclass(frozen=True)
class ReportSeries:
    """A method has the same color in all figures, a model the same shape."""

    colors: dict[str, int]
    shapes: dict[str, int]

    def of(self, entry: MethodEntry) -> Series:
        """What its dots, points and curves look like."""
        model, method = entry.key
        return Series(entry.label, model, method, self.colors.get(method), self.shapes[model])

    def key(self, entries: Sequence[MethodEntry]) -> list[Series]:
        """Its methods, then its models if there are several."""
        methods = [Series(e.first.entry, color=self.colors.get(e.first.entry)) for e in entries]
        models = [Series(model, shape=shape) for model, shape in self.shapes.items()]
        distinct = list({each.label: each for each in methods}.values())
        return distinct + (models if len(models) > 1 else [])


def series_of(report: Report) -> ReportSeries:
    """The colors and shapes of a report; untuned models are gray."""
    methods = dict.fromkeys(entry.first.entry for entry in _trained(report))
    return ReportSeries(
        {method: index for index, method in enumerate(methods)},
        {model: index for index, model in enumerate(report.models)},
    )


def _trained(report: Report) -> list[MethodEntry]:
    return [entry for entry in report.entries if entry.first.is_trained]


def headline_score(report: Report) -> str | None:
    """The first compared score that has values for rows; None if the protocol has none."""
    return next((name for name in COMPARED if any(key[0] == name for key in report.means)), None)


def score_figure(report: Report) -> Figure:
    """The scores with their intervals, a panel per model."""
    name = headline_score(report) or next(iter(COMPARED))
    series, show = series_of(report), shown_score(report, name)
    means = {entry.key: report.means.get((name, entry.key)) for entry in report.entries}
    panels = _dot_panels(report, series, means, show, Words(COMPARED[name], COMPARED[name]))
    confidence = percent_of(CONFIDENCE)
    alt = Words(
        f"{COMPARED[name]} of each method with its {confidence} confidence interval, by model",
        f"各方法的 {COMPARED[name]} 及 {confidence} 置信区间，每个模型一幅",
    )
    return Figure("scores", panels, alt)


def _dot_panels(
    report: Report,
    series: ReportSeries,
    means: dict[tuple[str, str], Interval | None],
    show: Callable[[float], str],
    label: Text,
) -> list[Panel]:
    dots: dict[str, list[Dot]] = {model: [] for model in report.models}
    for entry in report.entries:
        if found := means.get(entry.key):
            # One model a panel, so shapes would say nothing.
            of_entry = replace(series.of(entry), shape=0)
            dot = Dot(of_entry, found.value, found.low, found.high, show(found.value))
            dots[entry.first.model].append(dot)
    return _panels_of_dots(dots, label)


def _panels_of_dots(dots: dict[str, list[Dot]], label: Text) -> list[Panel]:
    """A panel per model, all of the same domain."""
    domain = [end for found in dots.values() for dot in found for end in (dot.low, dot.high)]
    return [dot_panel(model, found, domain, label) for model, found in dots.items() if found]


def forgetting_figure(report: Report) -> Figure:
    """What each tuning gained on the data against what it lost on general questions."""
    name = headline_score(report) or next(iter(COMPARED))
    series, show = series_of(report), shown_score(report, name)
    points, entries = [], []
    for entry in _trained(report):
        comparison = report.comparison_with_untuned(name, entry)
        lost = report.forgetting.differences.get(entry.key)
        if comparison is None or lost is None:
            continue
        gain = report.differences[comparison]
        shown = (
            f"{signed(gain.value, show)} {COMPARED[name]}, {signed(lost.value, '{:.1f}'.format)}"
        )
        spans = (gain.low, gain.high), (lost.low, lost.high)
        points.append(Point(series.of(entry), gain.value, lost.value, shown, *spans))
        entries.append(entry)
    title = COMPARED[name]
    labels = (
        Words(f"{title} − untuned", f"{title} − 未微调"),
        Words(
            "General questions correct − untuned (percentage points)",
            "常识题正确率 − 未微调（百分点）",
        ),
    )
    heading = Words("Gain against forgetting", "提升与遗忘")
    panels = [point_panel(heading, points, labels, key=series.key(entries))] if points else []
    alt = Words(
        f"Gain in {title} against the change in general questions answered correctly, of each "
        "tuned model; up and to the right is better",
        f"每个微调模型的 {title} 提升与常识题正确率的变化；越靠右上越好",
    )
    return Figure("forgetting", panels, alt)


def length_figure(report: Report) -> Figure:
    """The lengths of answers and of references."""
    series = series_of(report)
    dots = {}
    for model in report.models:
        entries = report.entries_of(model)
        reference = Series(Words("reference", "参考答案"), model)
        dots[model] = [
            _length_dot(reference, entries[0].runs[:1], "labels"),
            *(
                _length_dot(replace(series.of(entry), shape=0), entry.runs, "predict")
                for entry in entries
            ),
        ]
    alt = Words(
        "Lengths of answers and references: the median, and the range of 90% of the rows",
        "回答与参考答案的长度：中位数，以及中间 90% 的范围",
    )
    return Figure("lengths", _panels_of_dots(dots, Words("characters", "字符数")), alt)


def _length_dot(series: Series, runs: Sequence[Run], key: str) -> Dot:
    """The median and the middle 90% of the lengths, in the form of the texts that is scored."""
    texts = (row.get(key) or "" for run in runs for row in run.predictions)
    lengths = [len(normal_form(text)) for text in texts]
    low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    return Dot(series, median, low, high, f"{median:.0f}")


def cost_figure(report: Report) -> Figure:
    """What each training cost against what it scores."""
    name = headline_score(report) or "bleu-4"
    series, show = series_of(report), shown_score(report, name)
    panels = []
    for title, cost, is_log in COST:
        points, entries = [], []
        for entry in _trained(report):
            costs, scores = entry.numbers(cost), entry.numbers(score(name))
            if costs and scores and min(costs) > 0:
                x, y = statistics.fmean(costs), statistics.fmean(scores)
                points.append(Point(series.of(entry), x, y, f"{show(y)}, {x:,.0f}"))
                entries.append(entry)
        if points:
            key = series.key(entries)
            labels = (title, COMPARED[name])
            panels.append(point_panel(title, points, labels, is_log=is_log, key=key, height=150))
    alt = Words(
        f"{COMPARED[name]} against training time, peak memory and trained parameters",
        f"{COMPARED[name]} 与训练用时、峰值内存、训练参数量",
    )
    return Figure("cost", panels, alt)


# --- losses ---------------------------------------------------------------------------------------


def loss_table(report: Report) -> str:
    """All loss curves as CSV: model, method, step, loss."""
    return csv_text(
        ("model", "method", "step", "loss"),
        ((run.model, run.method, step, loss) for run in report.runs for step, loss in run.curve),
    )


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue()


def measured_loss(report: Report) -> Words:
    """The loss that trainings measure on the way."""
    if report.has_valid:
        return Words("valid loss", "valid 损失")
    return Words("dev loss", "验证损失")


def loss_figure(report: Report) -> Figure:
    """The loss curves, one panel per model."""
    series = series_of(report)
    curves = {model: list(_curves(report, series, model)) for model in report.models}
    domain = [y for found in curves.values() for curve in found for _, y in curve.points]
    dashed = measured_loss(report)
    labels = (
        Words("step", "步"),
        Words(
            f"training loss (dashed, dot: {dashed.en})",
            f"训练损失（虚线、圆点：{dashed.zh}）",
        ),
    )
    panels = [curve_panel(model, found, domain, labels) for model, found in curves.items() if found]
    alt = Words(
        f"Training loss over steps, by model; dashed: {dashed.en}; a dot: {dashed.en} at the end",
        f"训练损失随步数的变化，每个模型一幅；虚线为{dashed.zh}，圆点为结束时的{dashed.zh}",
    )
    return Figure("loss", panels, alt, can_zoom=True)


def _curves(report: Report, series: ReportSeries, model: str) -> Iterator[Curve]:
    for entry in report.entries_of(model):
        of_entry = series.of(entry)
        for run in entry.runs:
            for points, is_dashed in ((run.curve, False), (_dev_losses(run), True)):
                drawn = [(step, loss) for step, loss in points if math.isfinite(loss)]
                if drawn:
                    yield Curve(of_entry, drawn, is_dashed)


def _dev_losses(run: Run) -> list[tuple[int, float]]:
    """Those measured during training; else the one at its end."""
    steps, loss = run.training.get("steps"), trained("dev_loss")(run)
    at_end = [] if not isinstance(steps, int) or loss is None else [(steps, loss)]
    return run.dev_curve or at_end
