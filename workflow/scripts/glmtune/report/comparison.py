"""The section on significant differences between methods of a model and between models.

Phrases the verdicts; the differences themselves come from the Report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from glmtune.metrics.significance import CONFIDENCE, MIN_ROWS, detectable_difference
from glmtune.report.contents import COMPARED, Comparison, MethodEntry, Report
from glmtune.report.markdown import table
from glmtune.report.tables import NO_BREAK, percent_of, shown_score, signed

CHANCE = 1 - CONFIDENCE
NameOf = Callable[[MethodEntry], str]
METRICS_PAGE = "[docs/metrics.md](../docs/metrics.md)"  # as seen from results/


def differences(report: Report) -> str:
    """Show in tables and words which differences are significant."""
    if len(report.entries) < 2:
        text = "There is only one run, so there is nothing to compare."
    elif not report.differences:
        text = (
            f"The protocol {report.protocol} scores the file as a whole. Without scores of single "
            "rows, significance cannot be tested."
        )
    else:
        text = _compare_all(report)
    return f"## Significant differences\n\n{text}"


def _compare_all(report: Report) -> str:
    parts = [_explain_test(report), *(_of_model(report, model) for model in report.models)]
    return "\n\n".join([*parts, *_between_models(report)])


def _explain_test(report: Report) -> str:
    count = len(report.differences)
    # A protocol may skip rows: finetune_demo scores only the first 50.
    rows = max(difference.rows for difference in report.differences.values())
    if rows < MIN_ROWS:
        return (
            f"{rows} dev rows are too few to call any difference significant; "
            f"at least {MIN_ROWS} are required."
        )
    text = f"""Each cell shows the difference of the means over the same {rows:,} dev rows:
{" / ".join(COMPARED.values())}. **Bold: significant.** The probability that any of the {count}
differences is wrongly called significant is below {percent_of(CHANCE)} (paired test, Holm's
correction; see {METRICS_PAGE}). {_smallest_detectable(report)}"""
    if report.has_seeds:
        return f"""{text}
For a method with several seeds, the score of a row is its mean over the seeds; ± in the table of
scores shows how much they vary."""
    return f"""{text}
The test covers the choice of dev rows, not the variation between training seeds."""


def _smallest_detectable(report: Report) -> str:
    shown = [
        f"{shown_score(report, score)(least)} {title}"
        for score, title in COMPARED.items()
        if (least := _detectable(report, score)) is not None
    ]
    if not shown:
        return ""
    return f"""Between any two methods of a model, a true
difference of {" or ".join(shown)} would be detected in 8 of 10 evaluations; a smaller one, less
often."""


def _detectable(report: Report, score: str) -> float | None:
    """The difference detectable between any two methods of a model, after the correction."""
    confidence = 1 - CHANCE / len(report.differences)
    found = [
        detectable_difference(difference, confidence=confidence)
        for comparison, difference in report.differences.items()
        if comparison.score == score and comparison.ours[0] == comparison.theirs[0]
    ]
    return max(found, default=None)


# --- methods of a model ---------------------------------------------------------------------------


def _of_model(report: Report, model: str) -> str:
    entries = report.entries_of(model)
    parts = [f"### {model}"]
    if report.baseline_of(model) is None:
        parts.append("There is no run of the untuned model to compare with.")
    if len(entries) > 1:
        parts.append(_difference_matrix(report, entries))
        lines = _verdicts_by_score(report, entries, lambda entry: entry.first.entry)
        parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


def _difference_matrix(report: Report, entries: Sequence[MethodEntry]) -> str:
    """Pairwise differences, row minus column; each pair appears once."""
    rows = [
        [
            entry.label,
            *(_difference_cell(report, entry.key, other.key) for other in entries[:index]),
        ]
        for index, entry in enumerate(entries)
    ]
    header = ["Row minus column", *(entry.label for entry in entries[:-1])]
    filled = [row + [""] * (len(header) - len(row)) for row in rows[1:]]
    return table(header, filled, text_columns=1)


def _difference_cell(report: Report, ours: tuple[str, str], theirs: tuple[str, str]) -> str:
    """Example: "**+30.21** / +1.20"."""
    parts = []
    for score in COMPARED:
        comparison = Comparison(score, ours, theirs)
        if comparison in report.differences:
            value = report.differences[comparison].value
            shown = signed(value, shown_score(report, score))
            parts.append(f"**{shown}**" if report.is_significant(comparison) else shown)
    return f"{NO_BREAK}/{NO_BREAK}".join(parts)


def _verdicts_by_score(report: Report, entries: Sequence[MethodEntry], name: NameOf) -> list[str]:
    """One sentence per score; scores with the same verdict share a sentence."""
    sentences: dict[str, list[str]] = {}
    for score, title in COMPARED.items():
        if sentence := _verdict_sentence(report, score, entries, name):
            sentences.setdefault(sentence, []).append(title)
    return [f"{_join_names(titles)}: {sentence}" for sentence, titles in sentences.items()]


def _verdict_sentence(
    report: Report, score: str, entries: Sequence[MethodEntry], name: NameOf
) -> str:
    """Example: "full and lora are higher than none; no significant difference: lora and full."."""
    higher: dict[str, list[str]] = {}
    equal: dict[str, list[str]] = {}
    for theirs, ours in itertools.combinations(entries, 2):
        difference = report.differences.get(comparison := Comparison(score, ours.key, theirs.key))
        if difference is None:
            continue
        if not report.is_significant(comparison):
            equal.setdefault(name(theirs), []).append(name(ours))
        elif difference.value > 0:
            higher.setdefault(name(ours), []).append(name(theirs))
        else:
            higher.setdefault(name(theirs), []).append(name(ours))
    by_worse: dict[tuple[str, ...], list[str]] = {}
    for better, worse in higher.items():
        by_worse.setdefault(tuple(worse), []).append(better)
    parts = [
        f"{_join_names(better)} {'is' if len(better) == 1 else 'are'} **higher** than "
        f"{_join_names(worse)}"
        for worse, better in by_worse.items()
    ]
    if equal:
        pairs = [f"{one} vs. {_join_names(others)}" for one, others in equal.items()]
        parts.append(f"no significant difference: {', '.join(pairs)}")
    return f"{'; '.join(parts)}." if parts else ""


def _join_names(names: Sequence[str]) -> str:
    """Example: a, b, c -> "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# --- models with the same method ------------------------------------------------------------------


def _between_models(report: Report) -> list[str]:
    """Pairwise differences of models with the same method; nothing for a single model."""
    by_method: dict[str, list[MethodEntry]] = {}
    for entry in report.entries:
        by_method.setdefault(entry.first.entry, []).append(entry)
    shared = {method: entries for method, entries in by_method.items() if len(entries) > 1}
    if not shared:
        return []
    rows = [
        [
            f"{ours}{NO_BREAK}− {theirs}",
            *(_cell_between(report, method, ours, theirs) for method in shared),
        ]
        for theirs, ours in itertools.combinations(report.models, 2)
    ]
    sentences: dict[str, list[str]] = {}
    for method, entries in shared.items():
        for sentence in _verdicts_by_score(report, entries, lambda entry: entry.first.model):
            sentences.setdefault(sentence, []).append(method)
    header = ["Models", *(entries[0].label for entries in shared.values())]
    return [
        "### Models with the same method",
        table(header, rows, text_columns=1),
        "\n".join(f"- {', '.join(methods)}. {text}" for text, methods in sentences.items()),
    ]


def _cell_between(report: Report, method: str, ours: str, theirs: str) -> str:
    return _difference_cell(report, (ours, method), (theirs, method))
