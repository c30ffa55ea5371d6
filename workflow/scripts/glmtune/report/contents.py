"""The content of a report: runs, their models, their data, and the differences between them.

Knows nothing about files or presentation.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from glmtune.errors import DataError
from glmtune.metrics.probe import Style, Verdict, judge
from glmtune.metrics.scorings import METRICS
from glmtune.metrics.significance import (
    CONFIDENCE,
    Interval,
    adjusted_p_values,
    bootstrap_means,
    paired_differences,
)
from glmtune.report.probe_differences import ProbeDifferences
from glmtune.report.request import ReportParams
from glmtune.report.words import Words

COMPARED = {"bleu-4": "BLEU-4", "rouge-l": "ROUGE-L"}  # the scores with intervals
FULL_SIZE = 5e9  # parameters; at least this many count as a 6B model
# Of more entries not all pairs are compared: nobody reads such a table, and time and memory would
# grow with the square of the runs.
MOST_PAIRED = 20
Values = Sequence[float | None]


@dataclass(frozen=True)
class Run:
    """One model with one method and one seed: all its results."""

    model: str
    method: str  # as in file names: the entry; further seeds have a suffix, e.g. lora.seed-43
    entry: str  # an entry of `methods:` in params.yaml
    seed: int | None
    tuning: str  # the tuning method of that entry, e.g. lora
    is_trained: bool  # False: the untuned model
    scores: dict[str, Any]  # means, as score_predictions.py writes them
    row_scores: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    example_responses: dict[str, dict[str, Any]]  # example prompt -> {"predict"[, "labels"]}
    probe: list[dict[str, Any]]  # answers to general questions: {"prompt", "labels", "predict"}
    training: dict[str, Any]  # the manifest of the checkpoint; empty if not trained
    curve: list[tuple[int, float]]  # (step, loss); empty if not trained
    dev_curve: list[tuple[int, float]]  # (step, loss of dev or valid), measured during training
    runtimes: dict[str, dict[str, Any]]  # workflow step -> seconds, memory, versions

    @property
    def name(self) -> str:
        """The name used in prose and lists."""
        return f"{self.model} / {self.method}"


@dataclass(frozen=True)
class MethodEntry:
    """One model with one entry of `methods:` and all its seeds: a row of the tables."""

    runs: tuple[Run, ...]  # one per seed

    @property
    def first(self) -> Run:
        """The run of the first seed."""
        return self.runs[0]

    @property
    def key(self) -> tuple[str, str]:
        """Its model and method."""
        return self.first.model, self.first.entry

    @property
    def label(self) -> Words:
        """The label used in the tables.

        Example: none -> "none (untuned)", an entry small with `method: lora` -> "small (lora)",
        three seeds of lora -> "lora, 3 seeds".
        """
        name, count = self.first.entry, len(self.runs)
        label = Words(name, name)
        if not self.first.is_trained:
            label = Words(f"{name} (untuned)", f"{name}（未微调）")
        elif self.first.tuning != name:
            label = Words(f"{name} ({self.first.tuning})", f"{name}（{self.first.tuning}）")
        if count > 1:
            label = Words(f"{label.en}, {count} seeds", f"{label.zh}，{count} 个种子")
        return label

    def numbers(self, value: Callable[[Run], float | None]) -> list[float]:
        """The values of the runs that have one."""
        return [number for number in map(value, self.runs) if number is not None]

    def column(self, score: str) -> list[float | None]:
        """One score for each dev row, in order: the mean over seeds."""
        return row_means([[row[score] for row in run.row_scores] for run in self.runs])


class Comparison(NamedTuple):
    """Two entries compared by one score."""

    score: str
    ours: tuple[str, str]
    theirs: tuple[str, str]


@dataclass(frozen=True)
class Report:
    """All runs in display order, with their models, data and settings."""

    runs: list[Run]
    models: dict[str, dict[str, Any]]  # manifests
    dataset: dict[str, Any]  # manifest
    card: dict[str, Any]  # statistics of the rows
    tokenized: dict[str, dict[str, Any]]  # manifests of the tokenized data, by model
    style: Style  # of the training answers
    params: ReportParams

    @property
    def examples(self) -> list[str] | None:
        """The prompts to show answers to; None: some of the dev rows."""
        asked = list(self.runs[0].example_responses)
        return self.params.examples if self.params.examples is not None else asked or None

    @property
    def protocol(self) -> str:
        """The protocol that defines BLEU-4 and ROUGE for the headline scores."""
        return self.params.protocol

    @property
    def has_valid(self) -> bool:
        """Whether other rows than the scored ones choose the best step of a training."""
        return "valid" in self.dataset

    @property
    def rows(self) -> int:
        """The number of dev rows each run answered."""
        return self.runs[0].scores["rows"]

    @functools.cached_property
    def entries(self) -> list[MethodEntry]:
        """All rows of the tables, by model, untuned first."""
        found: dict[tuple[str, str], list[Run]] = {}
        for model in self.models:
            runs = [run for run in self.runs if run.model == model]
            for run in sorted(runs, key=lambda run: run.is_trained):
                found.setdefault((model, run.entry), []).append(run)
        return [MethodEntry(tuple(runs)) for runs in found.values()]

    @functools.cached_property
    def _entries_by_model(self) -> dict[str, list[MethodEntry]]:
        found: dict[str, list[MethodEntry]] = {model: [] for model in self.models}
        for entry in self.entries:
            found[entry.first.model].append(entry)
        return found

    def entries_of(self, model: str) -> list[MethodEntry]:
        """The entries of one model, untuned first."""
        return self._entries_by_model[model]

    @functools.cached_property
    def entries_by_method(self) -> dict[str, list[MethodEntry]]:
        """The entries with the same method, for each that several models have."""
        found: dict[str, list[MethodEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.first.entry, []).append(entry)
        return {method: entries for method, entries in found.items() if len(entries) > 1}

    def baseline_of(self, model: str) -> MethodEntry | None:
        """The model's first untuned entry, with which its others are compared."""
        first = self.entries_of(model)[0]
        return None if first.first.is_trained else first

    @property
    def has_seeds(self) -> bool:
        """Whether any method was tuned with several seeds."""
        return any(len(entry.runs) > 1 for entry in self.entries)

    def distinct_runtimes(self, key: str) -> list[str]:
        """The distinct texts that the runtime files have for a key, sorted."""
        values = (facts.get(key) for run in self.runs for facts in run.runtimes.values())
        return sorted({value for value in values if isinstance(value, str)})

    @property
    def commits(self) -> list[str]:
        """The commits of the code that computed the runs; `+dirty` if it was edited."""
        return self.distinct_runtimes("git_commit")

    def parameters_of(self, model: str) -> int | None:
        """The number of parameters of a model, or None if no file states it."""
        totals = [
            run.training.get("total_parameters", 0) for run in self.runs if run.model == model
        ]
        # The smallest total: some methods add weights.
        return self.models[model].get("parameters") or min(filter(None, totals), default=None)

    def is_full_size(self, model: str) -> bool:
        """Whether a model has the published size and weights that mean something."""
        is_random = self.models[model]["source"] == "random"
        return not is_random and (self.parameters_of(model) or 0) >= FULL_SIZE

    @functools.cached_property
    def _compared_groups(self) -> list[Sequence[MethodEntry]]:
        """The entries of each model, and of each method that several models have."""
        return [*self._entries_by_model.values(), *self.entries_by_method.values()]

    def references_of(self, entries: Sequence[MethodEntry]) -> list[MethodEntry]:
        """The entries of a group with which its entries are compared: up to MOST_PAIRED, all.

        Of more: the untuned model, and the best by each score.
        """
        if len(entries) <= MOST_PAIRED:
            return list(entries)
        best = {best_of(entries, score).key for score in COMPARED}
        models = {entry.first.model for entry in entries}
        untuned = {e.key for e in entries if len(models) == 1 and e is self.baseline_of(*models)}
        return [entry for entry in entries if entry.key in best | untuned]

    @functools.cached_property
    def untested(self) -> int:
        """How many differences are left out because a group has more than MOST_PAIRED entries."""
        pairs = sum(math.comb(len(entries), 2) for entries in self._compared_groups)
        tested = sum(len(pairs_of(e, self.references_of(e))) for e in self._compared_groups)
        return (pairs - tested) * len({comparison.score for comparison in self.differences})

    @functools.cached_property
    def differences(self) -> dict[Comparison, Interval]:
        """Ours minus theirs for pairs of methods of a model and of models with a method.

        Raises DataError if a run answered different rows than the first. Protocols without row
        scores have no differences.
        """
        for run in self.runs:
            _check_same_rows(run, self.runs[0])
        columns = {
            (score, entry.key): entry.column(score) for score in COMPARED for entry in self.entries
        }
        place = {entry.key: index for index, entry in enumerate(self.entries)}
        chosen = {
            (ours.key, theirs.key)
            for entries in self._compared_groups
            for ours, theirs in pairs_of(entries, self.references_of(entries))
        }
        in_order = sorted(chosen, key=lambda pair: (place[pair[1]], place[pair[0]]))
        pairs = [
            ((score, ours), (score, theirs))
            for score in COMPARED
            for ours, theirs in in_order
            if _have_common_rows(columns[score, ours], columns[score, theirs])
        ]
        return {
            Comparison(score, ours, theirs): interval
            for ((score, ours), (_, theirs)), interval in paired_differences(columns, pairs).items()
        }

    @functools.cached_property
    def adjusted(self) -> dict[Comparison, float]:
        """The p-values of the differences after Holm's correction for all pairs.

        Also for those left out: which methods are the best is known only from the scores.
        """
        return adjusted_p_values(self.differences, untested=self.untested)

    def is_significant(self, comparison: Comparison) -> bool:
        """Whether a difference is significant after correction over the whole report."""
        return self.adjusted[comparison] < 1 - CONFIDENCE

    def stands_out(self, score: str, entry: MethodEntry) -> bool:
        """Whether a mean is significantly above that of every other entry of its model."""
        entries = self.entries_of(entry.first.model)
        return len(entries) > 1 and all(
            self._is_above(score, entry.key, other.key) for other in entries if other is not entry
        )

    def _is_above(self, score: str, ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
        # Each pair is compared only once, in table order.
        for comparison, sign in (
            (Comparison(score, ours, theirs), 1),
            (Comparison(score, theirs, ours), -1),
        ):
            if comparison in self.differences:
                return (
                    self.is_significant(comparison)
                    and sign * self.differences[comparison].value > 0
                )
        return False

    @functools.cached_property
    def largest_scores(self) -> dict[str, float]:
        """The largest value of each headline score, which decides the digits of all; 0 of none."""
        return {
            name: max((found for run in self.runs if (found := run.scores[name])), default=0.0)
            for name in METRICS
        }

    @functools.cached_property
    def means(self) -> dict[tuple[str, tuple[str, str]], Interval]:
        """Means by score and entry; entries without row scores are left out."""
        columns = {
            (score, entry.key): entry.column(score) for score in COMPARED for entry in self.entries
        }
        return bootstrap_means({key: values for key, values in columns.items() if _has_any(values)})

    def comparison_with_untuned(self, score: str, entry: MethodEntry) -> Comparison | None:
        """Compare an entry with its untuned model; None for that model or without scores."""
        baseline = self.baseline_of(entry.first.model)
        comparison = Comparison(score, entry.key, baseline.key) if baseline else None
        return comparison if comparison in self.differences else None

    @functools.cached_property
    def verdicts(self) -> dict[tuple[str, str], list[Verdict]]:
        """The verdicts on each run's answers to the general questions, by model and method."""
        found = {}
        for run in self.runs:
            baseline = self.baseline_of(run.model)
            untuned = _responses_by_prompt(baseline.first.probe) if baseline else {}
            found[run.model, run.method] = [
                judge(row["predict"], row["labels"], self.style, untuned.get(row["prompt"]))
                for row in run.probe
            ]
        return found

    @functools.cached_property
    def forgetting(self) -> ProbeDifferences:
        """The shares of correct answers to the general questions, tested against untuned."""
        pairs = [
            (entry.key, baseline.key)
            for entry in self.entries
            if (baseline := self.baseline_of(entry.first.model)) and baseline is not entry
        ]
        return ProbeDifferences(
            {entry.key: self.correct_answers(entry) for entry in self.entries}, pairs
        )

    def correct_answers(self, entry: MethodEntry) -> list[float | None]:
        """For each general question, the percentage of seeds that answer it correctly."""
        each = [self.verdicts[run.model, run.method] for run in entry.runs]
        return row_means([[100.0 * verdict.is_correct for verdict in run] for run in each])

    def kept_answers(self, entry: MethodEntry) -> float | None:
        """The share of the untuned model's correct answers that a tuned run keeps, over seeds.

        None for the untuned model itself, and where it answers nothing correctly.
        """
        baseline = self.baseline_of(entry.first.model)
        if baseline is None or baseline is entry:
            return None
        pairs = zip(self.correct_answers(entry), self.correct_answers(baseline), strict=True)
        kept = [ours for ours, theirs in pairs if theirs and ours is not None]
        return statistics.fmean(kept) / 100 if kept else None


def pairs_of(
    entries: Sequence[MethodEntry], references: Sequence[MethodEntry]
) -> list[tuple[MethodEntry, MethodEntry]]:
    """Each entry of a group with each of its references, each pair once.

    Of two references the later one is ours; where all entries are references, all pairs are there.
    """
    known = {reference.key for reference in references}
    others = [entry for entry in entries if entry.key not in known]
    among = [(ours, theirs) for theirs, ours in itertools.combinations(references, 2)]
    return among + [(ours, theirs) for theirs in references for ours in others]


def best_of(entries: Sequence[MethodEntry], score: str) -> MethodEntry:
    """The entry with the highest mean of a score, the first of equal ones."""

    def mean(entry: MethodEntry) -> float:
        numbers = entry.numbers(lambda run: finite(run.scores.get(score)))
        return statistics.fmean(numbers) if numbers else -math.inf

    return max(entries, key=mean)


def row_means(columns: Sequence[Values]) -> list[float | None]:
    """The mean of each row over the columns with a value; None if no column has one."""
    known = ([value for value in row if value is not None] for row in zip(*columns, strict=True))
    return [statistics.fmean(row) if row else None for row in known]


def own_rows(train: Mapping[str, Any]) -> int:
    """How many rows of train, the first ones, were not mixed in; `train` is of the manifest."""
    mixed = sum(part["rows"] for part in train.get("parts", ()) if "share" in part)
    rows: int = train["rows"]
    return rows - mixed


def finite(value: Any) -> float | None:
    """Return a finite number unchanged, else None: a loss may be missing or NaN."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _responses_by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {row["prompt"]: row["predict"] for row in rows}


def _has_any(values: Values) -> bool:
    return any(value is not None for value in values)


def _have_common_rows(ours: Values, theirs: Values) -> bool:
    return any(None not in both for both in zip(ours, theirs, strict=True))


def _check_same_rows(run: Run, first: Run) -> None:
    rows, expected = (
        [[row.get(key) for key in ("prompt", "history", "labels")] for row in each.predictions]
        for each in (run, first)
    )
    if rows != expected:
        raise DataError(
            f"predictions of {run.name}: different dev rows than those of {first.name} "
            f"({len(rows)} and {len(expected)} rows); generate and score both again"
        )
