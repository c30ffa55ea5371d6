"""The table of single seeds, for methods tuned with several."""

from __future__ import annotations

from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.markdown import table
from glmtune.report.tables import (
    NOTHING,
    Column,
    correct_share,
    percent,
    score,
    shown_score,
    trained,
)


def seed_table(report: Report) -> str:
    """One row per seed; "" if every method has only one."""
    if not report.has_seeds:
        return ""
    columns = [
        *(
            Column(title, score(name), shown_score(report, name))
            for name, title in COMPARED.items()
        ),
        Column("General", correct_share(report), percent),
        Column("Train loss", trained("train_loss"), "{:.3f}".format),
        Column("Dev loss", trained("dev_loss"), "{:.3f}".format),
    ]
    rows = [
        [
            run.model,
            run.entry,
            str(run.seed),
            *(_format_cell(column, run) for column in columns),
        ]
        for entry in report.entries
        for run in entry.runs
        if len(entry.runs) > 1
    ]
    header = ["Model", "Method", "Seed", *(column.title for column in columns)]
    return table(header, rows, text_columns=2)


def _format_cell(column: Column, run: Run) -> str:
    value = column.value(run)
    return NOTHING if value is None else column.show(value)
