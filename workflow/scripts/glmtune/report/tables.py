"""The tables with a row per run: a Column says where a value comes from and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glmtune.report.contents import Report, Run
from glmtune.report.markdown import table

NOTHING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


def _no_note(run: Run, report: Report) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """A column of a table: where its value comes from, how it is shown, which one is best."""

    title: str
    value: Callable[[Run], float | None]
    show: Callable[[float], str] = "{:.2f}".format
    best: Callable[[Sequence[float]], float] | None = None  # bold within a model
    note: Callable[[Run, Report], str] = _no_note  # stands in brackets behind the value


def _score(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.scores.get(name)


def _trained(key: str) -> Callable[[Run], float | None]:
    return lambda run: finite(run.training.get(key))


def _runtime(step: str, key: str) -> Callable[[Run], float | None]:
    return lambda run: run.runtimes.get(step, {}).get(key)


def _cut_off(run: Run) -> float | None:
    finished = [row["finished"] for row in run.predictions if "finished" in row]
    return 100 * finished.count(False) / len(finished) if finished else None


def _interval(score: str) -> Callable[[Run, Report], str]:
    def note(run: Run, report: Report) -> str:
        interval = report.differences.get((run.model, run.method, score))
        return f"{interval.low:+.2f} … {interval.high:+.2f}" if interval else ""

    return note


def _share_of_parameters(run: Run, report: Report) -> str:
    trained, total = (run.training.get(f"{kind}_parameters") for kind in ("trainable", "total"))
    return f"{100 * trained / total:.2f} %" if trained is not None and total else ""


def finite(value: Any) -> float | None:
    """A number that can be shown and written, else None: a loss may be missing or NaN."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def format_seconds(seconds: float) -> str:
    """Example: 5.25 -> "5.2 s", 75 -> "1 min 15 s", 7500 -> "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_percent = "{:.1f} %".format
_loss = "{:.3f}".format
_count = "{:,}".format

SCORE_COLUMNS: tuple[Column, ...] = (
    Column("BLEU-4", _score("bleu-4"), best=max, note=_interval("bleu-4")),
    Column("ROUGE-1", _score("rouge-1"), best=max),
    Column("ROUGE-2", _score("rouge-2"), best=max),
    Column("ROUGE-L", _score("rouge-l"), best=max, note=_interval("rouge-l")),
    Column("Attributes", _score("attribute-recall"), show=_percent, best=max),
    Column("Distinct", _score("distinct"), show=_percent),
    Column("Train loss", _trained("train_loss"), show=_loss),
    Column("Dev loss", _trained("dev_loss"), show=_loss, best=min),
    Column("Trained", _trained("trainable_parameters"), show=_count, note=_share_of_parameters),
    Column("Time", _runtime("finetune_model", "seconds"), show=format_seconds),
)
TEXT_COLUMNS: tuple[Column, ...] = (
    Column("Mean length", _score("length"), show="{:.1f} characters".format),
    Column("Empty", _score("empty"), show=_percent),
    Column("Repetitive", _score("repetition"), show=_percent),
    Column("Cut off", _cut_off, show=_percent),
    Column("Generation time", _runtime("generate_predictions", "seconds"), show=format_seconds),
)


def run_table(report: Report, columns: Sequence[Column]) -> str:
    """A row per run, grouped by model, the untuned first."""
    rows = [
        [run.model, run.label, *(_cell(column, run, report) for column in columns)]
        for model in report.models
        for run in report.runs_of(model)
    ]
    return table(["Model", "Method", *(column.title for column in columns)], rows, text_columns=2)


def _cell(column: Column, run: Run, report: Report) -> str:
    value = column.value(run)
    if value is None:
        return NOTHING
    # A line breaks between value and note only.
    shown = column.show(value).replace(" ", NO_BREAK)
    note = column.note(run, report).replace(" ", NO_BREAK)
    if column.best and _is_best(column, value, report.runs_of(run.model)):
        shown = f"**{shown}**"
    return f"{shown} ({note})" if note else shown


def _is_best(column: Column, value: float, runs: Sequence[Run]) -> bool:
    """Whether no run of the model looks better; never where all look the same."""
    known = [known for known in map(column.value, runs) if known is not None]
    best = column.best(known) if column.best else None
    looks = {column.show(known) for known in known}
    return best is not None and len(looks) > 1 and column.show(value) == column.show(best)
