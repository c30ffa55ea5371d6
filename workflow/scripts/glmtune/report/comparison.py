"""The section that says in words which runs differ from the untuned model beyond chance."""

from __future__ import annotations

from glmtune.report.contents import COMPARED, Report
from glmtune.significance import CONFIDENCE, MIN_ROWS, RESAMPLES, Interval, bootstrap_mean

PERCENT = f"{CONFIDENCE:.0%}".replace("%", " %")


def differences(report: Report) -> str:
    """In words: which runs differ from the untuned model beyond chance."""
    lines = [line for model in report.models for line in _compare(report, model)]
    comparisons = len(report.differences)
    return f"""## What really changed

{_how_sure(report)}

{chr(10).join(lines)}

The intervals say what other dev rows would change, not what training again with another seed would.
Among {comparisons} comparisons at {PERCENT}, about {comparisons * (1 - CONFIDENCE):.1f} may look
real by chance."""


def _how_sure(report: Report) -> str:
    if report.rows < MIN_ROWS:
        return (
            f"{report.rows} dev rows are too few to call any difference real; "
            f"at least {MIN_ROWS} are needed."
        )
    return (
        f"A difference from the untuned model is called real when its {PERCENT} interval excludes "
        f"zero (paired bootstrap, {RESAMPLES:,} resamples of the {report.rows:,} dev rows)."
    )


def _compare(report: Report, model: str) -> list[str]:
    baseline = report.baseline_of(model)
    if baseline is None:
        return [f"- **{model}**: no run of the untuned model to compare with."]
    means = [
        f"{title} {mean.value:.2f} ({mean.low:.2f} … {mean.high:.2f})"
        for score, title in COMPARED.items()
        for mean in [bootstrap_mean(baseline.column(score))]
    ]
    lines = [f"- **{model}**, untuned: {', '.join(means)}."]
    for run in report.runs_of(model)[1:]:
        verdicts = [
            _verdict(title, report.differences[model, run.method, score])
            for score, title in COMPARED.items()
        ]
        lines.append(f"    - {run.label}: {'; '.join(verdicts)}.")
    return lines


def _verdict(title: str, difference: Interval) -> str:
    ends = f"({difference.low:+.2f} … {difference.high:+.2f})"
    if not difference.excludes_zero:
        return f"{title} shows no real difference {ends}"
    direction = "higher" if difference.value > 0 else "lower"
    return f"{title} is **{direction}** by {abs(difference.value):.2f} {ends}"
