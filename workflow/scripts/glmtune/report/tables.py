"""Tables with a row per model and method; a Column defines its values and their format."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from glmtune.durations import format_seconds
from glmtune.metrics.significance import Interval
from glmtune.report.contents import COMPARED, MethodEntry, Report, Run, finite
from glmtune.report.markdown import plain, table

NOTHING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


def _no_interval(entry: MethodEntry) -> None:
    return None


def _no_note(entry: MethodEntry) -> str:
    return ""


def _not_bold(entry: MethodEntry) -> bool:
    return False


@dataclass(frozen=True)
class Column:
    """A column of a table: the source and format of its values and of the notes behind them.

    Bold marks significant differences; `is_bold` decides which values are.
    """

    title: str
    value: Callable[[Run], float | None]
    show: Callable[[float], str] = "{:.2f}".format
    interval: Callable[[MethodEntry], Interval | None] = _no_interval  # shown in parentheses
    is_bold: Callable[[MethodEntry], bool] = _not_bold
    note: Callable[[MethodEntry], str] = _no_note  # shown in parentheses
    varies: bool = True  # whether to show the spread over seeds

    def cell(self, entry: MethodEntry) -> str:
        """Example: "**57.00 ± 2.00** (55.10 … 58.90)"."""
        values = entry.numbers(self.value)
        if not values:
            return NOTHING
        shown = mean_and_spread(values, self.show, varies=self.varies)
        interval = self.interval(entry)
        note = ends(interval, self.show) if interval else self.note(entry)
        return _with_note(shown, note, is_bold=self.is_bold(entry))


@dataclass(frozen=True)
class DifferenceColumn:
    """A column of differences from the untuned model, each with its interval."""

    title: str
    difference: Callable[[MethodEntry], Interval | None]
    is_bold: Callable[[MethodEntry], bool]
    show: Callable[[float], str] = "{:.2f}".format

    def cell(self, entry: MethodEntry) -> str:
        """Example: "**+30.21** (+28.40 … +32.05)"."""
        difference = self.difference(entry)
        if difference is None:
            return NOTHING
        show = functools.partial(signed, show=self.show)
        return _with_note(
            show(difference.value), ends(difference, show), is_bold=self.is_bold(entry)
        )


def _with_note(shown: str, note: str, *, is_bold: bool) -> str:
    """Join a value and its note; a line may break only between them."""
    strong = f"**{shown}**" if is_bold else shown
    return f"{strong} ({note.replace(' ', NO_BREAK)})" if note else strong


def score(name: str) -> Callable[[Run], float | None]:
    """Return a getter for a score or statistic."""
    return lambda run: finite(run.scores.get(name))


def trained(key: str) -> Callable[[Run], float | None]:
    """Return a getter for a value of the training manifest."""
    return lambda run: finite(run.training.get(key))


def correct_share(report: Report) -> Callable[[Run], float]:
    """Return a getter for the percentage of general questions answered correctly."""
    return lambda run: share(
        verdict.is_correct for verdict in report.verdicts[run.model, run.method]
    )


def share(found: Iterator[bool]) -> float:
    """The percentage of true values."""
    return 100 * statistics.fmean(found)


def digits(values: Sequence[float]) -> Callable[[float], str]:
    """Choose the format of scores: 2 decimals for 0..100, 4 decimals for 0..1."""
    return "{:.2f}".format if any(value > 1 for value in values) else "{:.4f}".format


def ends(interval: Interval, show: Callable[[float], str]) -> str:
    """Example: "55.90 … 59.12"."""
    return " … ".join(show(end).removesuffix(" %") for end in (interval.low, interval.high))


def percent_of(share: float) -> str:
    """Example: 0.99 -> "99 %"."""
    return f"{100 * share:.0f}{NO_BREAK}%"


def signed(number: float, show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Example: 7.641 -> "+7.64"."""
    return f"{'-' if number < 0 else '+'}{show(abs(number))}"


percent = "{:.1f} %".format
_loss = "{:.3f}".format
_count = "{:,.0f}".format


def shown_score(report: Report, name: str) -> Callable[[float], str]:
    """Return the format of a headline score in this report."""
    return digits([value for run in report.runs if (value := run.scores[name]) is not None])


def score_columns(report: Report) -> tuple[Column | DifferenceColumn, ...]:
    """The columns of the main table of scores."""
    return (
        *_compared_columns(report, "bleu-4"),
        Column("ROUGE-1", score("rouge-1"), shown_score(report, "rouge-1")),
        Column("ROUGE-2", score("rouge-2"), shown_score(report, "rouge-2")),
        *_compared_columns(report, "rouge-l"),
        Column("Attributes", score("attribute-recall"), percent),
        Column("General", correct_share(report), percent),
        Column("Train loss", trained("train_loss"), _loss, varies=False),
        Column("Dev loss", trained("dev_loss"), _loss, varies=False),
        Column(
            "Trained",
            trained("trainable_parameters"),
            _count,
            note=_share_of_parameters,
            varies=False,
        ),
        Column("Time", _runtime_figure("finetune_model", "seconds"), format_seconds, varies=False),
    )


def _compared_columns(report: Report, name: str) -> Iterator[Column | DifferenceColumn]:
    """A score, and its difference from the untuned model if row scores exist."""
    title, show = COMPARED[name], shown_score(report, name)

    def difference(entry: MethodEntry) -> Interval | None:
        comparison = report.comparison_with_untuned(name, entry)
        return report.differences[comparison] if comparison else None

    def is_significant(entry: MethodEntry) -> bool:
        comparison = report.comparison_with_untuned(name, entry)
        return comparison is not None and report.is_significant(comparison)

    yield Column(
        title,
        score(name),
        show,
        interval=lambda entry: report.means.get((name, entry.key)),
        is_bold=lambda entry: report.stands_out(name, entry),
    )
    if any(map(difference, report.entries)):
        yield DifferenceColumn(f"{title}{NO_BREAK}− untuned", difference, is_significant, show)


def text_columns(report: Report) -> tuple[Column, ...]:
    """Columns that describe the generated texts."""
    seconds = _runtime_figure("generate_predictions", "seconds")
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
    """Scores against fairer references, where they differ from the plain ones."""
    columns = []
    for suffix, references in (("no-unk", f"without {plain('<UNK>')}"), ("multi", "any reference")):
        for name, title in COMPARED.items():
            fairer = f"{name}-{suffix}"
            if any(_differs_from_plain(run, fairer, name) for run in report.runs):
                columns.append(Column(f"{title}, {references}", score(fairer)))
    return tuple(columns)


def _differs_from_plain(run: Run, fairer: str, plain: str) -> bool:
    """Whether a fairer score differs from the plain one under the default definition."""
    value, usual = run.scores.get(fairer), run.scores["protocols"]["glmtune"][plain]
    return value is not None and usual is not None and abs(value - usual) > 1e-6


def _runtime_figure(step: str, key: str) -> Callable[[Run], float | None]:
    return lambda run: run.runtimes.get(step, {}).get(key)


def _share_of_parameters(entry: MethodEntry) -> str:
    facts = entry.first.training
    trained_, total = (facts.get(f"{kind}_parameters") for kind in ("trainable", "total"))
    return f"{100 * trained_ / total:.2f} %" if trained_ is not None and total else ""


def run_table(report: Report, columns: Sequence[Column | DifferenceColumn]) -> str:
    """One row per model and method, grouped by model, untuned first."""
    rows = [
        [model, entry.label, *(column.cell(entry) for column in columns)]
        for model in report.models
        for entry in report.entries_of(model)
    ]
    return table(["Model", "Method", *(column.title for column in columns)], rows, text_columns=2)


def mean_and_spread(
    values: Sequence[float], show: Callable[[float], str], *, varies: bool = True
) -> str:
    """The mean, with the standard deviation of several values; contains no line break.

    Example: 54, 56 -> "55.00 ± 1.41", as percent "55.0 ± 1.4 %"
    """
    shown = show(statistics.fmean(values))
    if varies and len(values) > 1:
        shown = f"{shown.removesuffix(' %')} ± {show(statistics.stdev(values))}"
    return shown.replace(" ", NO_BREAK)
