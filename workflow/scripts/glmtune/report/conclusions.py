"""The verdict on each model in words, by rule: every part of it follows from a test.

1. The method with the highest mean of the headline score is named, with its gain over untuned.
2. Methods whose difference from it is not significant share first place; the share of parameters
   they train is named. Methods significantly below it are listed.
3. Of the methods that answer significantly fewer general questions than the untuned model, the one
   that lost most is named.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from glmtune.metrics.significance import MIN_ROWS
from glmtune.report.contents import COMPARED, Comparison, MethodEntry, Report, best_of
from glmtune.report.figures import headline_score
from glmtune.report.tables import (
    correct_share,
    percent,
    score,
    shown_score,
    signed,
    trained_share,
)
from glmtune.report.words import Words, bold, enumerate_names, join


def conclusion(report: Report, model: str) -> Words:
    """Example: "**full** scores highest: 58.7 BLEU-4, +54.0 over untuned; lora (1.9% of …) …"."""
    entries = report.entries_of(model)
    name = headline_score(report) or next(iter(COMPARED))
    scored = [entry for entry in entries if entry.numbers(score(name))]
    if not any(entry.first.is_trained for entry in entries) or not scored:
        return Words("only the untuned model was run.", "只运行了未微调的模型。")
    parts = [_best(report, name, scored), _forgetting(report, entries)]
    return join([join(filter(None, parts), "; ", "；"), Words(".", "。")], "")


def _best(report: Report, name: str, entries: Sequence[MethodEntry]) -> Words:
    best = best_of(entries, name)
    others = [entry for entry in entries if entry is not best]
    highest = _highest(report, name, best)
    if not others:
        return highest
    tests = {other.key: _difference(report, name, best, other) for other in others}
    if not any(tests.values()):
        untested = Words(
            "the protocol has no scores of rows to test", "该协议没有逐行得分，无法检验"
        )
        return join([highest, untested], "; ", "；")
    rows = max(report.differences[each].rows for each in tests.values() if each)
    if rows < MIN_ROWS:
        few = Words(f"{rows} rows are too few to test differences", f"{rows} 行太少，无法检验差异")
        return join([highest, few], "; ", "；")
    equal = [o for o in others if (c := tests[o.key]) and not report.is_significant(c)]
    lower = [o for o in others if (c := tests[o.key]) and report.is_significant(c)]
    parts = [highest, _equal(equal), _lower(lower)]
    return join(filter(None, parts), "; ", "；")


def _highest(report: Report, name: str, best: MethodEntry) -> Words:
    show, title = shown_score(report, name), COMPARED[name]
    shown = show(_mean(best, name))
    if not best.first.is_trained:
        return Words(
            f"no method scores higher than the untuned model, {shown} {title}",
            f"没有哪种方法的得分高于未微调的模型（{title} {shown}）",
        )
    who = bold(best.first.entry)
    comparison = report.comparison_with_untuned(name, best)
    if comparison is None:
        return Words(f"{who} scores highest, {shown} {title}", f"{who} 得分最高，{title} {shown}")
    gain = signed(report.differences[comparison].value, show)
    return Words(
        f"{who} scores highest, {shown} {title} ({gain} over untuned)",
        f"{who} 得分最高，{title} {shown}（较未微调 {gain}）",
    )


def _equal(entries: Sequence[MethodEntry]) -> Words | None:
    if not entries:
        return None
    names = enumerate_names([_with_share(entry) for entry in entries])
    verb = "is" if len(entries) == 1 else "are"
    return Words(f"{names.en} {verb} not significantly different", f"与 {names.zh} 无显著差异")


def _with_share(entry: MethodEntry) -> Words:
    """Example: "lora (1.9% of the parameters)"; full and untuned models need no share."""
    name, share = entry.first.entry, trained_share(entry.first)
    if not entry.first.is_trained:
        return Words("the untuned model", "未微调的模型")
    if share is None or share >= 99.5:
        return Words(name, name)
    shown = f"{share:.1f}%" if share >= 0.1 else f"{share:.2f}%"
    return Words(f"{name} (training {shown} of the parameters)", f"{name}（训练 {shown} 的参数）")


def _lower(entries: Sequence[MethodEntry]) -> Words | None:
    """Only tuned methods: the gain over untuned has been named."""
    tuned = [entry.first.entry for entry in entries if entry.first.is_trained]
    if not tuned:
        return None
    names, verb = enumerate_names(tuned), "is" if len(tuned) == 1 else "are"
    return Words(f"{names.en} {verb} significantly lower", f"{names.zh} 显著更低")


def _forgetting(report: Report, entries: Sequence[MethodEntry]) -> Words | None:
    test = report.forgetting
    tested = [entry for entry in entries if entry.key in test.differences]
    if not tested or not test.has_enough_questions:
        return None
    worst = max(tested, key=lambda entry: test.loss(entry.key))
    lost = test.loss(worst.key)
    if not lost:
        return Words("no significant forgetting", "没有显著遗忘")
    right = statistics.fmean(worst.numbers(correct_share(report)))
    name = bold(worst.first.entry)
    before, after = percent(right + lost), percent(right)
    return Words(
        f"{name} forgets most, {before} → {after} of the general questions correct",
        f"{name} 遗忘最严重，常识题正确率 {before} → {after}",
    )


def _mean(entry: MethodEntry, name: str) -> float:
    return statistics.fmean(entry.numbers(score(name)))


def _difference(
    report: Report, name: str, ours: MethodEntry, theirs: MethodEntry
) -> Comparison | None:
    """The comparison of two entries, whichever of them comes first."""
    for pair in ((ours.key, theirs.key), (theirs.key, ours.key)):
        if (comparison := Comparison(name, *pair)) in report.differences:
            return comparison
    return None
