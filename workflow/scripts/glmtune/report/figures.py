"""The loss curves as CSV and as a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from glmtune.report.contents import MethodEntry, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's color-blind-safe palette.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def loss_table(report: Report) -> str:
    """All loss curves as CSV: model, method, step, loss."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "method", "step", "loss"])
    for run in report.runs:
        writer.writerows([run.model, run.method, step, loss] for step, loss in run.curve)
    return out.getvalue()


def draw_losses(report: Report) -> str:
    """The loss curves as SVG, one panel per model; equal curves give identical bytes."""
    # Imported here: it takes half a second, and reading a report does not need it.
    import matplotlib
    from matplotlib.figure import Figure

    methods = dict.fromkeys(run.entry for run in report.runs if run.curve)
    colors = {method: COLORS[index % len(COLORS)] for index, method in enumerate(methods)}
    columns = min(len(report.models), 3)
    rows = math.ceil(len(report.models) / columns)
    with matplotlib.rc_context({"svg.hashsalt": "glmtune", "font.size": 9}):
        figure = Figure(figsize=(max(4 * columns, 5), 3 * rows), layout="constrained")
        figure.subplots(rows, columns, sharey=True, squeeze=False)
        for panel in figure.axes:
            panel.set_visible(False)
        for panel, model in zip(figure.axes, report.models, strict=False):
            _draw_panel(panel, model, report.entries_of(model), colors)
        out = io.StringIO()
        # A date or the version of matplotlib would change the bytes.
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _draw_panel(
    panel: Axes, model: str, entries: Sequence[MethodEntry], colors: Mapping[str, str]
) -> None:
    panel.set(visible=True, title=model, xlabel="step", ylabel="training loss")
    panel.grid(alpha=0.3)
    for entry in entries:
        name = entry.first.entry
        for index, curve in enumerate(run.curve for run in entry.runs if run.curve):
            label = name if index == 0 else None  # one legend entry for all seeds of a method
            panel.plot(*zip(*curve, strict=True), color=colors[name], label=label, linewidth=1.2)
        for curve in (run.dev_curve for run in entry.runs if run.dev_curve):
            panel.plot(*zip(*curve, strict=True), ".--", color=colors[name], linewidth=0.8)
    if panel.lines:
        panel.legend(frameon=False)
