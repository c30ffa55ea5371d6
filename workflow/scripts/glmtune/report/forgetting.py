"""The section on forgetting: how tuning changed the answers to general questions."""

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
    correct_share,
    percent,
    percent_of,
    run_table,
    share,
)

SHOWN_QUESTIONS = 4
LONGEST_SHOWN = 60  # characters of an answer


def forgetting(report: Report) -> str:
    """Show how many general questions each run still answers correctly, with examples."""
    found = _Forgetting(report)
    count = len(report.runs[0].probe)
    return f"""## What the models forgot

Each model answers the same {count} short general questions (sums, capitals, colors, …), which are
unrelated to the data. {_worst_in_words(found, count)}

{run_table(report, tuple(_probe_columns(found)))}

*Correct*: the answer contains the expected one and does not imitate the training data. In
parentheses: the {percent_of(CONFIDENCE)} confidence interval of the share, and of its difference
from the untuned model on the same questions. Bold: significant (Holm's correction).
*{_style_title(report)}*: at least half of the answer's character 4-grams occur in the first
{TRAINING_ANSWERS:,} training answers, and less than half of the untuned answer's. *Similarity to
untuned*: overlap with the untuned answer, 0 to 100 (character-level ROUGE-L).

{_sample_answers(report)}"""


@dataclass(frozen=True)
class _Forgetting:
    """A report with the differences in correct answers between entries and their untuned model."""

    report: Report

    @functools.cached_property
    def differences(self) -> dict[tuple[str, str], Interval]:
        pairs = [
            (entry.key, baseline.key)
            for entry in self.report.entries
            if (baseline := self.report.baseline_of(entry.first.model)) and baseline is not entry
        ]
        found = paired_differences(self._correct_answers, pairs)
        return {ours: each for (ours, _), each in found.items()}

    @functools.cached_property
    def adjusted(self) -> dict[tuple[str, str], float]:
        """The p-values of the differences after Holm's correction."""
        return adjusted_p_values(self.differences)

    @functools.cached_property
    def shares(self) -> dict[tuple[str, str], Interval]:
        """The share of correct answers by entry."""
        return bootstrap_means(self._correct_answers)

    @functools.cached_property
    def _correct_answers(self) -> dict[tuple[str, str], list[float | None]]:
        return {entry.key: self.report.correct_answers(entry) for entry in self.report.entries}

    def is_significant(self, entry: MethodEntry) -> bool:
        """Whether an entry's share of correct answers differs significantly from untuned."""
        return self.adjusted.get(entry.key, 1.0) < 1 - CONFIDENCE

    def share(self, holds: Callable[[Verdict], bool]) -> Callable[[Run], float | None]:
        """The percentage of a trained run's answers for which `holds` is true."""

        def value(run: Run) -> float | None:
            verdicts = self.report.verdicts[run.model, run.method]
            return share(map(holds, verdicts)) if run.is_trained else None

        return value

    def overlap(self, run: Run) -> float | None:
        """The mean overlap of a trained run's answers with the untuned ones."""
        found = [verdict.overlap for verdict in self.report.verdicts[run.model, run.method]]
        known = [overlap for overlap in found if overlap is not None]
        return statistics.fmean(known) if run.is_trained and known else None


def _probe_columns(found: _Forgetting) -> Iterator[Column | DifferenceColumn]:
    yield Column(
        "Correct",
        correct_share(found.report),
        percent,
        interval=lambda entry: found.shares[entry.key],
    )
    if found.differences:
        yield DifferenceColumn(
            f"Correct{NO_BREAK}− untuned",
            lambda entry: found.differences.get(entry.key),
            found.is_significant,
            "{:.1f}".format,
        )
    style = _style_title(found.report)
    yield Column(style, found.share(lambda verdict: verdict.imitates_training), percent)
    yield Column("Similarity to untuned", found.overlap, "{:.1f}".format)


def _style_title(report: Report) -> str:
    """Name answers that imitate the training data: ads, unless users bring their own data."""
    is_own = report.dataset["source"]["kind"] == "files"
    return "Answers in training style" if is_own else "Answers turned into ads"


def _worst_in_words(found: _Forgetting, count: int) -> str:
    """Describe the worst entry and what helps."""
    if count < MIN_ROWS:
        return f"Fewer than {MIN_ROWS} questions are too few to detect forgetting."
    if not found.differences:
        return "Measuring forgetting requires both a tuned and an untuned run."
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
        return "No run answers significantly fewer of them correctly than the untuned model."
    right = statistics.fmean(worst.numbers(correct_share(found.report)))
    imitating = statistics.fmean(
        worst.numbers(found.share(lambda verdict: verdict.imitates_training))
    )
    return (
        f"**{worst.first.model} forgot most with {worst.label}{_learning_rate(worst.first)}: "
        f"{percent(right)} correct instead of {percent(right - lost[worst.key])}; "
        f"{percent(imitating)} of its answers imitate the training data.** A lower learning rate, "
        "LoRA, or mixing general questions and answers into the training data helps."
    )


def _learning_rate(run: Run) -> str:
    """Example: " (lr 0.02)"."""
    rate = run.training.get("settings", {}).get("lr")
    return f" (lr {rate:g})" if isinstance(rate, int | float) else ""


def _sample_answers(report: Report) -> str:
    """Show a few evenly spaced questions with the answers of all methods side by side."""
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
    seeds = ", answered with the first seed" if report.has_seeds else ""
    intro = f"A sample of the questions, evenly spaced{seeds}:"
    return f"{intro}\n\n{table(header, rows, text_columns=len(header))}"


def _evenly_spaced(count: int) -> list[int]:
    """Evenly spaced indexes, so that nobody picks them, e.g. 46 -> [5, 17, 28, 40]."""
    shown = min(SHOWN_QUESTIONS, count)
    return [(2 * place + 1) * count // (2 * shown) for place in range(shown)]


def _first_characters(response: str) -> str:
    cut = "".join(islice(response, LONGEST_SHOWN))
    return (plain(cut) + ("…" if len(response) > LONGEST_SHOWN else "")) or "*(empty)*"
