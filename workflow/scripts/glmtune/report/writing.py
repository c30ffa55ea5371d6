"""The files of a report."""

from __future__ import annotations

from pathlib import Path

from glmtune.files import write_json, write_text
from glmtune.metrics import METRICS
from glmtune.report.contents import Report
from glmtune.report.figures import draw_losses, loss_table
from glmtune.report.page import render_html
from glmtune.report.sections import SECTIONS
from glmtune.report.tables import finite


def write_report(report: Report, out_dir: Path) -> None:
    """Write report.md, report.html, metrics.json, plots/loss.csv and plots/loss.svg."""
    markdown, picture = render_markdown(report), draw_losses(report)
    write_text(out_dir / "plots" / "loss.csv", loss_table(report))
    write_text(out_dir / "plots" / "loss.svg", picture)
    write_json(out_dir / "metrics.json", headline(report))
    write_text(out_dir / "report.html", render_html(markdown, picture))
    write_text(out_dir / "report.md", markdown)


def render_markdown(report: Report) -> str:
    """The whole report as Markdown."""
    return "\n\n".join(section(report) for section in SECTIONS) + "\n"


def headline(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {method: {"bleu-4": …}}}`: the few numbers that `dvc metrics diff` shows."""
    names = (*METRICS, "attribute-recall", "distinct")
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for run in report.runs:
        losses = {f"{part}-loss": run.training.get(f"{part}_loss") for part in ("train", "dev")}
        values = {name: run.scores.get(name) for name in names} | losses
        numbers.setdefault(run.model, {})[run.method] = {
            name: round(number, 4)
            for name, value in values.items()
            if (number := finite(value)) is not None
        }
    return numbers
