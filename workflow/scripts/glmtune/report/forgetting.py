"""The section that says what tuning made the models forget: answers to general questions."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from glmtune.metrics.probe import TRAINING_ANSWERS, Verdict
from glmtune.metrics.significance import (
    CONFIDENCE,
    MIN_ROWS,
    Interval,
    adjusted_p_values,
    bootstrap_means,
    paired_differences,
)
from glmtune.report.contents import MethodEntry, Report, Run
from glmtune.report.markdown import plain, table
from glmtune.report.tables import (
    NO_BREAK,
    Column,
    DifferenceColumn,
    percent,
    percent_of,
    right_share,
    run_table,
    share,
)

SHOWN_QUESTIONS = 4
LONGEST_SHOWN = 60  # characters of an answer


def forgetting(report: Report) -> str:
    """How many general questions each run still answers, and some of the answers."""
    found = _Forgetting(report)
    count = len(report.runs[0].probe)
    return f"""## What the models forgot

Each model answers the same {count} short general questions (sums, capitals, colours, …), which have
nothing to do with the data. {_worst_in_words(found, count)}

{run_table(report, tuple(_probe_columns(found)))}

*Right*: the expected answer stands in the answer and it leaks no style. In brackets the
{percent_of(CONFIDENCE)} interval of the share, and of its difference from the untuned model's on
the same questions; bold: a significant difference (Holm's correction). *Style leak*: at least half
of the answer's runs of four characters stand in the first {TRAINING_ANSWERS:,} training answers,
and fewer of the untuned answer's. *Like untuned*: overlap with the untuned answer, 0 to 100
(ROUGE-L over characters).

{_sample_answers(report)}"""


@dataclass(frozen=True)
class _Forgetting:
    """A report with how many right answers each entry has more than its untuned model."""

    report: Report

    @functools.cached_property
    def differences(self) -> dict[tuple[str, str], Interval]:
        pairs = [
            (entry.key, baseline.key)
            for entry in self.report.entries
            if (baseline := self.report.baseline_of(entry.first.model)) and baseline is not entry
        ]
        found = paired_differences(self._right_answers, pairs)
        return {ours: each for (ours, _), each in found.items()}

    @functools.cached_property
    def adjusted(self) -> dict[tuple[str, str], float]:
        """The p-values of the differences after Holm's correction."""
        return adjusted_p_values(self.differences)

    @functools.cached_property
    def shares(self) -> dict[tuple[str, str], Interval]:
        """The share of right answers by entry."""
        return bootstrap_means(self._right_answers)

    @functools.cached_property
    def _right_answers(self) -> dict[tuple[str, str], list[float | None]]:
        return {entry.key: self.report.right_answers(entry) for entry in self.report.entries}

    def is_significant(self, entry: MethodEntry) -> bool:
        """Whether an entry answers significantly more or fewer than its untuned model."""
        return self.adjusted.get(entry.key, 1.0) < 1 - CONFIDENCE

    def share(self, is_so: Callable[[Verdict], bool]) -> Callable[[Run], float | None]:
        """Percent of a trained run's answers of which something is so."""

        def value(run: Run) -> float | None:
            verdicts = self.report.verdicts[run.model, run.method]
            return share(map(is_so, verdicts)) if run.is_trained else None

        return value

    def overlap(self, run: Run) -> float | None:
        """How near a trained run's answers are to the untuned ones."""
        found = [verdict.overlap for verdict in self.report.verdicts[run.model, run.method]]
        known = [overlap for overlap in found if overlap is not None]
        return statistics.fmean(known) if run.is_trained and known else None


def _probe_columns(found: _Forgetting) -> Iterator[Column | DifferenceColumn]:
    yield Column(
        "Right",
        right_share(found.report),
        percent,
        interval=lambda entry: found.shares[entry.key],
    )
    if found.differences:
        yield DifferenceColumn(
            f"Right{NO_BREAK}− untuned",
            lambda entry: found.differences.get(entry.key),
            found.is_significant,
            "{:.1f}".format,
        )
    yield Column("Style leak", found.share(lambda verdict: verdict.leaks_style), percent)
    yield Column("Like untuned", found.overlap, "{:.1f}".format)


def _worst_in_words(found: _Forgetting, count: int) -> str:
    """The worst of all entries, and what helps."""
    if count < MIN_ROWS:
        return f"Fewer than {MIN_ROWS} questions prove nothing."
    if not found.differences:
        return "Nothing can be said of forgetting without both a tuned and an untuned run."
    lost = {
        entry.key: found.differences[entry.key].value
        for entry in found.report.entries
        if found.is_significant(entry)
    }
    worst = min(
        (entry for entry in found.report.entries if lost.get(entry.key, 0) < 0),
        key=lambda entry: lost[entry.key],
        default=None,
    )
    if worst is None:
        return "No run answers significantly fewer of them than the untuned model."
    right = statistics.fmean(worst.numbers(right_share(found.report)))
    leaking = statistics.fmean(worst.numbers(found.share(lambda verdict: verdict.leaks_style)))
    return (
        f"**{worst.first.model} forgot most by {worst.label}{_learning_rate(worst.first)}: "
        f"{percent(right)} right instead of {percent(right - lost[worst.key])}, and "
        f"{percent(leaking)} of its answers turned into the style of the training data.** A lower "
        "learning rate, LoRA, and general questions and answers mixed into the training data help."
    )


def _learning_rate(run: Run) -> str:
    """Example: " (lr 0.02)"."""
    rate = run.training.get("settings", {}).get("lr")
    return f" (lr {rate:g})" if isinstance(rate, int | float) else ""


def _sample_answers(report: Report) -> str:
    """Some questions, evenly spaced, with every method's answer side by side."""
    methods = {entry.key[1]: entry.label for entry in report.entries}
    header = ["Model", "Question", "Expected", *methods.values()]
    rows = []
    for model in report.models:
        runs = {entry.key[1]: entry.first for entry in report.entries_of(model)}
        for index in _evenly_spaced(len(report.runs[0].probe)):
            asked = next(iter(runs.values())).probe[index]
            responses = [
                _first_characters(runs[method].probe[index]["predict"]) if method in runs else ""
                for method in methods
            ]
            rows.append([model, plain(asked["prompt"]), plain(asked["labels"]), *responses])
    seeds = ", by the first seed" if report.has_seeds else ""
    spaced = f"Some of the questions, evenly spaced{seeds}:"
    return f"{spaced}\n\n{table(header, rows, text_columns=len(header))}"


def _evenly_spaced(count: int) -> list[int]:
    """Places evenly spaced among so many, e.g. 46 -> [5, 17, 28, 40]: nobody chose them."""
    shown = min(SHOWN_QUESTIONS, count)
    return [(2 * place + 1) * count // (2 * shown) for place in range(shown)]


def _first_characters(response: str) -> str:
    cut = "".join(islice(response, LONGEST_SHOWN))
    return (plain(cut) + ("…" if len(response) > LONGEST_SHOWN else "")) or "*(empty)*"
