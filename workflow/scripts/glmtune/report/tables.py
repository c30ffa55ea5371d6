"""The tables with a row per model and method: a Column says whence a value is, how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from glmtune.report.contents import COMPARED, Entry, Report, Run, finite
from glmtune.report.markdown import plain, table
from glmtune.significance import Interval

NOTHING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


def _no_note(entry: Entry) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """A column of a table: where its value comes from, how it is shown, which one is best."""

    title: str
    value: Callable[[Run], float | None]
    show: Callable[[float], str] = "{:.2f}".format
    best: Callable[[Sequence[float]], float] | None = None  # bold within a model
    note: Callable[[Entry], str] = _no_note  # stands in brackets behind the value
    varies: bool = True  # whether its spread over seeds is shown


def score(name: str) -> Callable[[Run], float | None]:
    """Where a score or statistic stands."""
    return lambda run: finite(run.scores.get(name))


def trained(key: str) -> Callable[[Run], float | None]:
    """Where a figure of the training stands."""
    return lambda run: finite(run.training.get(key))


def right_share(report: Report) -> Callable[[Run], float]:
    """Percent of the general questions that a run answers rightly."""
    return lambda run: share(verdict.is_right for verdict in report.verdicts[run.model, run.method])


def share(found: Iterator[bool]) -> float:
    """Percent that are true."""
    return 100 * statistics.fmean(found)


def digits(values: Sequence[float]) -> Callable[[float], str]:
    """How scores are shown: those of 0..100 with 2 places, those of 0..1 with 4."""
    return "{:.2f}".format if any(value > 1 for value in values) else "{:.4f}".format


def ends(interval: Interval, show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Example: "-2.01 … +7.64"."""
    return " … ".join(signed(end, show) for end in (interval.low, interval.high))


def percent_of(share: float) -> str:
    """Example: 0.99 -> "99 %"."""
    return f"{100 * share:.0f}{NO_BREAK}%"


def signed(number: float, show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Example: 7.641 -> "+7.64"."""
    return f"{'-' if number < 0 else '+'}{show(abs(number))}"


def format_seconds(seconds: float) -> str:
    """Example: 5.25 -> "5.2 s", 75 -> "1 min 15 s", 7500 -> "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


percent = "{:.1f} %".format
_loss = "{:.3f}".format
_count = "{:,.0f}".format


def shown_score(report: Report, name: str) -> Callable[[float], str]:
    """How a headline score is shown in this report."""
    return digits([value for run in report.runs if (value := run.scores[name]) is not None])


def score_columns(report: Report) -> tuple[Column, ...]:
    """The headline."""

    def score_column(name: str, title: str) -> Column:
        show = shown_score(report, name)

        def interval(entry: Entry) -> str:
            difference = report.difference_from_untuned(entry, name)
            return ends(difference, show) if difference else ""

        note = interval if name in COMPARED else _no_note
        return Column(title, score(name), show, best=max, note=note)

    return (
        score_column("bleu-4", "BLEU-4"),
        score_column("rouge-1", "ROUGE-1"),
        score_column("rouge-2", "ROUGE-2"),
        score_column("rouge-l", "ROUGE-L"),
        Column("Attributes", score("attribute-recall"), percent, best=max),
        Column("General", right_share(report), percent, best=max),
        Column("Train loss", trained("train_loss"), _loss, varies=False),
        Column("Dev loss", trained("dev_loss"), _loss, best=min, varies=False),
        Column(
            "Trained",
            trained("trainable_parameters"),
            _count,
            note=_share_of_parameters,
            varies=False,
        ),
        Column("Time", _runtime("finetune_model", "seconds"), format_seconds, varies=False),
    )


def text_columns(report: Report) -> tuple[Column, ...]:
    """What the texts are like."""
    seconds = _runtime("generate_predictions", "seconds")
    return (
        Column("Characters", score("length"), "{:.1f}".format, varies=False),
        Column("Distinct", score("distinct"), percent, varies=False),
        Column("Distinct-4", score("distinct-4"), percent, varies=False),
        Column("Repetition-4", score("repetition"), percent, varies=False),
        Column("Empty", score("empty"), percent, varies=False),
        Column("Cut off", score("cut-off"), percent, varies=False),
        Column("Generation time", seconds, format_seconds, varies=False),
    )


def fairer_columns(report: Report) -> tuple[Column, ...]:
    """Scores against fairer references, as far as they differ from the plain ones."""
    columns = []
    for suffix, references in (("no-unk", f"without {plain('<UNK>')}"), ("multi", "any reference")):
        for name, title in COMPARED.items():
            fairer = f"{name}-{suffix}"
            if any(_differs(run, fairer, name) for run in report.runs):
                columns.append(Column(f"{title}, {references}", score(fairer), best=max))
    return tuple(columns)


def _differs(run: Run, fairer: str, plain: str) -> bool:
    """These statistics are always by the default definition of a score."""
    value, usual = run.scores.get(fairer), run.scores["protocols"]["glmtune"][plain]
    return value is not None and usual is not None and abs(value - usual) > 1e-6


def _runtime(step: str, key: str) -> Callable[[Run], float | None]:
    return lambda run: run.runtimes.get(step, {}).get(key)


def _share_of_parameters(entry: Entry) -> str:
    facts = entry.first.training
    trained_, total = (facts.get(f"{kind}_parameters") for kind in ("trainable", "total"))
    return f"{100 * trained_ / total:.2f} %" if trained_ is not None and total else ""


def run_table(report: Report, columns: Sequence[Column]) -> str:
    """A row per model and method, grouped by model, the untuned first."""
    rows = [
        [model, entry.label, *(_cell(column, entry, report) for column in columns)]
        for model in report.models
        for entry in report.entries_of(model)
    ]
    return table(["Model", "Method", *(column.title for column in columns)], rows, text_columns=2)


def mean_and_spread(
    values: Sequence[float], show: Callable[[float], str], *, varies: bool = True
) -> str:
    """A mean, and if there are several values their standard deviation; a line cannot break there.

    Example: 54, 56 -> "55.00 ± 1.41", as percent "55.0 ± 1.4 %"
    """
    shown = show(statistics.fmean(values))
    if varies and len(values) > 1:
        shown = f"{shown.removesuffix(' %')} ± {show(statistics.stdev(values))}"
    return shown.replace(" ", NO_BREAK)


def _cell(column: Column, entry: Entry, report: Report) -> str:
    values = entry.numbers(column.value)
    if not values:
        return NOTHING
    shown = mean_and_spread(values, column.show, varies=column.varies)
    # A line breaks between value and note only.
    note = column.note(entry).replace(" ", NO_BREAK)
    if column.best and _is_best(column, values, report.entries_of(entry.first.model)):
        shown = f"**{shown}**"
    return f"{shown} ({note})" if note else shown


def _is_best(column: Column, values: Sequence[float], entries: Sequence[Entry]) -> bool:
    """Whether no entry of the model looks better; never where all look the same."""
    known = [statistics.fmean(known) for e in entries if (known := e.numbers(column.value))]
    best = column.best(known) if column.best else None
    looks = {column.show(mean) for mean in known}
    value = statistics.fmean(values)
    return best is not None and len(looks) > 1 and column.show(value) == column.show(best)
