"""Formats the scores of a file for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.metrics.statistics import STATISTICS

NOTE = "* its published scores are for answers that were also decoded differently (docs/metrics.md)"


def describe_scores(summary: Mapping[str, Any]) -> str:
    """Format `FileScores.summary`: one line per protocol, then one per statistic."""
    protocols = [
        [name + "*" * (PROTOCOLS[name].decoding is not None), str(scores["rows"])]
        + [_format_score(scores[metric]) for metric in METRICS]
        for name, scores in summary["protocols"].items()
    ]
    statistics = [[name, _format_score(summary[name])] for name in STATISTICS]
    lines = [*_align_columns([["protocol", "rows", *METRICS], *protocols]), NOTE, ""]
    return "\n".join([*lines, *_align_columns(statistics)])


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
