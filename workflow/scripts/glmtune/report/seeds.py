"""The table of single seeds, for methods tuned with several."""

from __future__ import annotations

from glmtune.report.blocks import Cell, Head, Row, Table
from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.tables import (
    METHOD,
    MODEL,
    NOTHING,
    Column,
    correct_share,
    loss_columns,
    percent,
    score,
    shown_score,
)
from glmtune.report.words import Text, Words


def seed_table(report: Report) -> Table | None:
    """One row per seed; None if every method has only one."""
    if not report.has_seeds:
        return None
    columns = [
        *(
            Column(title, score(name), shown_score(report, name), better=1)
            for name, title in COMPARED.items()
        ),
        Column(Words("General", "常识题"), correct_share(report), percent, better=1),
        *loss_columns(),
    ]
    rows = [
        Row(
            [
                run.model,
                run.entry,
                str(run.seed),
                *(_format_cell(column, run) for column in columns),
            ],
            *entry.key,
        )
        for entry in report.entries
        for run in entry.runs
        if len(entry.runs) > 1
    ]
    heads = (Head(column.title, column.better) for column in columns)
    header: list[Text | Head] = [MODEL, METHOD, Words("Seed", "种子"), *heads]
    return Table(Words("Each seed", "各个种子"), header, rows, text_columns=2, named=2)


def _format_cell(column: Column, run: Run) -> Cell:
    value = column.value(run)
    return Cell(NOTHING if value is None else column.show(value), value)
