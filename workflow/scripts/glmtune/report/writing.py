"""Writes the files of a report."""

from __future__ import annotations

import statistics
from pathlib import Path

from glmtune.files import write_json, write_text
from glmtune.metrics.scorings import METRICS
from glmtune.report.contents import Report
from glmtune.report.data_card import data_card
from glmtune.report.figures import draw_losses, loss_table
from glmtune.report.page import render_html
from glmtune.report.sections import SECTIONS
from glmtune.report.tables import correct_share, score, trained


def write_report(report: Report, out_dir: Path) -> None:
    """Write report.md, report.html, data_card.md, metrics.json, plots/loss.csv, plots/loss.svg."""
    markdown, picture = render_markdown(report), draw_losses(report)
    write_text(out_dir / "plots" / "loss.csv", loss_table(report))
    write_text(out_dir / "plots" / "loss.svg", picture)
    write_json(out_dir / "metrics.json", headline(report))
    write_text(out_dir / "data_card.md", data_card(report))
    write_text(out_dir / "report.html", render_html(markdown, picture))
    write_text(out_dir / "report.md", markdown)


def render_markdown(report: Report) -> str:
    """Render the whole report as Markdown."""
    return "\n\n".join(section(report) for section in SECTIONS) + "\n"


def headline(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {method: {"bleu-4": …}}}`: the key numbers for `dvc metrics diff`.

    Methods with several seeds have their means.
    """
    figures = {
        **{name: score(name) for name in (*METRICS, "attribute-recall", "distinct")},
        "general-questions": correct_share(report),
        **{f"{part}-loss": trained(f"{part}_loss") for part in ("train", "dev")},
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for entry in report.entries:
        model, method = entry.key
        found.setdefault(model, {})[method] = {
            name: round(statistics.fmean(numbers), 4)
            for name, value in figures.items()
            if (numbers := entry.numbers(value))
        }
    return found
