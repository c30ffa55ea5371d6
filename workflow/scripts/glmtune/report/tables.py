"""Tables with a row per model and method; a Column defines its values and their format."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from glmtune.durations import format_seconds
from glmtune.metrics.significance import Interval
from glmtune.report.blocks import Cell, Head, Row, Table
from glmtune.report.contents import COMPARED, MethodEntry, Report, Run, finite
from glmtune.report.markdown import plain
from glmtune.report.words import Text, Words

NOTHING = "–"
EMPTY = Words("*(empty)*", "*（空）*")  # an answer without text
MODEL, METHOD = Words("Model", "模型"), Words("Method", "方法")
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

    title: Text
    value: Callable[[Run], float | None]
    show: Callable[[float], str] = "{:.2f}".format
    interval: Callable[[MethodEntry], Interval | None] = _no_interval  # shown in parentheses
    is_bold: Callable[[MethodEntry], bool] = _not_bold
    note: Callable[[MethodEntry], str] = _no_note  # shown in parentheses
    varies: bool = True  # whether to show the spread over seeds
    better: int = 0  # 1: higher values are better, -1: lower ones

    def cell(self, entry: MethodEntry) -> Cell:
        """Example: "**57.00 ± 2.00** (55.10 … 58.90)"."""
        values = entry.numbers(self.value)
        if not values:
            return Cell(NOTHING)
        shown = mean_and_spread(values, self.show, varies=self.varies)
        interval = self.interval(entry)
        note = ends(interval, self.show) if interval else self.note(entry)
        shown = with_note(shown, note, is_bold=self.is_bold(entry))
        return Cell(shown, statistics.fmean(values))


@dataclass(frozen=True)
class DifferenceColumn:
    """A column of differences from the untuned model, each with its interval."""

    title: Text
    difference: Callable[[MethodEntry], Interval | None]
    is_bold: Callable[[MethodEntry], bool]
    show: Callable[[float], str] = "{:.2f}".format
    better: int = 1

    def cell(self, entry: MethodEntry) -> Cell:
        """Example: "**+30.21** (+28.40 … +32.05)"."""
        difference = self.difference(entry)
        if difference is None:
            return Cell(NOTHING)
        show = functools.partial(signed, show=self.show)
        shown = with_note(
            show(difference.value), ends(difference, show), is_bold=self.is_bold(entry)
        )
        return Cell(shown, difference.value)


def with_note(shown: str, note: str, *, is_bold: bool) -> str:
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
    return " … ".join(show(end).removesuffix("%") for end in (interval.low, interval.high))


def percent_of(share: float) -> str:
    """Example: 0.99 -> "99%"."""
    return f"{100 * share:.0f}%"


def signed(number: float, show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Example: 7.641 -> "+7.64"."""
    return f"{'-' if number < 0 else '+'}{show(abs(number))}"


percent = "{:.1f}%".format
loss = "{:.3f}".format
_count = "{:,.0f}".format


def shown_score(report: Report, name: str) -> Callable[[float], str]:
    """Return the format of a headline score in this report."""
    return digits([report.largest_scores[name]])


def score_columns(report: Report) -> tuple[Column | DifferenceColumn, ...]:
    """The columns of the main table of scores."""
    return (
        *_compared_columns(report, "bleu-4"),
        Column("ROUGE-1", score("rouge-1"), shown_score(report, "rouge-1"), better=1),
        Column("ROUGE-2", score("rouge-2"), shown_score(report, "rouge-2"), better=1),
        *_compared_columns(report, "rouge-l"),
        Column(Words("General", "常识题"), correct_share(report), percent, better=1),
        *loss_columns(),
        Column(
            Words("Trained", "训练参数"),
            trained("trainable_parameters"),
            _count,
            note=_share_of_parameters,
            varies=False,
        ),
        Column(
            Words("Time", "用时"),
            runtime_figure("finetune_model", "seconds"),
            format_seconds,
            varies=False,
        ),
    )


def loss_columns() -> Iterator[Column]:
    """The losses at the end of training."""
    for title, key in (
        (Words("Train loss", "训练损失"), "train_loss"),
        (Words("Dev loss", "验证损失"), "dev_loss"),
    ):
        yield Column(title, trained(key), loss, varies=False, better=-1)


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
        better=1,
    )
    if any(map(difference, report.entries)):
        yield DifferenceColumn(minus_untuned(title), difference, is_significant, show)


def minus_untuned(title: Text) -> Words:
    """Example: "BLEU-4 − untuned"."""
    shown = title if isinstance(title, Words) else Words(title, title)
    return Words(f"{shown.en}{NO_BREAK}− untuned", f"{shown.zh}{NO_BREAK}−{NO_BREAK}未微调")


def text_columns(report: Report) -> tuple[Column, ...]:
    """Columns that describe the generated texts."""
    columns = [
        Column(Words("Characters", "字符数"), score("length"), "{:.1f}".format, varies=False),
        *(
            Column(title, score(name), percent, varies=False, better=better)
            for title, name, better in (
                (Words("Attribute recall", "属性召回率"), "attribute-recall", 1),
                (Words("Attribute precision", "属性准确率"), "attribute-precision", 1),
                (Words("Distinct", "不重复率"), "distinct", 1),
                (Words("Distinct-4", "Distinct-4"), "distinct-4", 1),
                (Words("Repetition-4", "Repetition-4"), "repetition", -1),
                (Words("Empty", "空回答"), "empty", -1),
                (Words("Cut off", "被截断"), "cut-off", -1),
            )
        ),
        Column(
            Words("Generation time", "生成用时"),
            runtime_figure("generate_predictions", "seconds"),
            format_seconds,
            varies=False,
        ),
    ]
    return tuple(columns)


def fairer_columns(report: Report) -> tuple[Column, ...]:
    """Scores against fairer references, where they differ from the plain ones."""
    columns = []
    unknown = plain("<UNK>")
    for suffix, references in (
        ("no-unk", Words(f", without {unknown}", f"，去掉 {unknown}")),
        ("multi", Words(", any reference", "，任一参考答案")),
    ):
        for name, title in COMPARED.items():
            fairer = f"{name}-{suffix}"
            if any(_differs_from_plain(run, fairer, name) for run in report.runs):
                words = Words(title + references.en, title + references.zh)
                columns.append(Column(words, score(fairer), better=1))
    return tuple(columns)


def _differs_from_plain(run: Run, fairer: str, plain: str) -> bool:
    """Whether a fairer score differs from the plain one under the default definition."""
    value, usual = run.scores.get(fairer), run.scores["protocols"]["glmtune"][plain]
    return value is not None and usual is not None and abs(value - usual) > 1e-6


def runtime_figure(step: str, key: str) -> Callable[[Run], float | None]:
    """Return a getter for what a step of a run took."""
    return lambda run: run.runtimes.get(step, {}).get(key)


def trained_share(run: Run) -> float | None:
    """The percentage of all parameters that were trained."""
    trained_, total = (run.training.get(f"{kind}_parameters") for kind in ("trainable", "total"))
    return 100 * trained_ / total if trained_ is not None and total else None


def _share_of_parameters(entry: MethodEntry) -> str:
    found = trained_share(entry.first)
    return "" if found is None else f"{found:.2f}%"


def run_table(report: Report, columns: Sequence[Column | DifferenceColumn], caption: Text) -> Table:
    """One row per model and method, grouped by model, untuned first."""
    rows = [
        Row([model, entry.label, *(column.cell(entry) for column in columns)], *entry.key)
        for model in report.models
        for entry in report.entries_of(model)
    ]
    heads = (Head(column.title, column.better) for column in columns)
    return Table(caption, [MODEL, METHOD, *heads], rows, text_columns=2, named=2)


def mean_and_spread(
    values: Sequence[float], show: Callable[[float], str], *, varies: bool = True
) -> str:
    """The mean, with the standard deviation of several values; contains no line break.

    Example: 54, 56 -> "55.00 ± 1.41", as percent "55.0 ± 1.4%"
    """
    shown = show(statistics.fmean(values))
    if varies and len(values) > 1:
        shown = f"{shown.removesuffix('%')} ± {show(statistics.stdev(values))}"
    return shown.replace(" ", NO_BREAK)
