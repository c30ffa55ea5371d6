"""Writes the files of a report."""

from __future__ import annotations

import statistics
from pathlib import Path

from glmtune.files import write_json, write_text
from glmtune.metrics.scorings import METRICS
from glmtune.report.blocks import Block, Figure
from glmtune.report.contents import Report
from glmtune.report.data_card import data_card
from glmtune.report.figures import loss_table
from glmtune.report.markdown import to_markdown
from glmtune.report.page import render_page
from glmtune.report.sections import SECTIONS
from glmtune.report.svg import document
from glmtune.report.tables import correct_share, score, trained

ATTRIBUTES = ("attribute-recall", "attribute-precision")
PANELS = 3  # side by side in the file of a figure


def write_report(report: Report, out_dir: Path) -> None:
    """Write report.md, report.html, data_card.md, metrics.json, plots/loss.csv, figures/*.svg."""
    sections = render_sections(report)
    write_text(out_dir / "plots" / "loss.csv", loss_table(report))
    for block in (block for section in sections for block in section):
        if isinstance(block, Figure):
            drawn = document(block.panels, PANELS, block.alt.en)
            write_text(out_dir / "figures" / f"{block.name}.svg", drawn)
    write_json(out_dir / "metrics.json", headline(report))
    write_text(out_dir / "data_card.md", data_card(report))
    write_text(out_dir / "report.html", render_page(sections))
    write_text(out_dir / "report.md", _markdown(sections))


def render_sections(report: Report) -> list[list[Block]]:
    """All sections in order."""
    return [section(report) for section in SECTIONS]


def render_markdown(report: Report) -> str:
    """Render the whole report as Markdown."""
    return _markdown(render_sections(report))


def _markdown(sections: list[list[Block]]) -> str:
    return to_markdown([block for section in sections for block in section]) + "\n"


def headline(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {method: {"bleu-4": …}}}`: the key numbers for `dvc metrics diff`.

    Methods with several seeds have their means.
    """
    figures = {
        **{name: score(name) for name in (*METRICS, *ATTRIBUTES, "distinct")},
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
