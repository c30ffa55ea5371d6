"""The section on significant differences between methods of a model and between models.

Phrases the verdicts; the differences themselves come from the Report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from glmtune.metrics.significance import CONFIDENCE, MIN_ROWS, detectable_difference
from glmtune.report.blocks import Block, Cell, Heading, Prose, Row, Table
from glmtune.report.contents import (
    COMPARED,
    MOST_PAIRED,
    Comparison,
    MethodEntry,
    Report,
    pairs_of,
)
from glmtune.report.tables import NO_BREAK, percent_of, shown_score, signed
from glmtune.report.words import Text, Words, enumerate_names, join

CHANCE = 1 - CONFIDENCE
NameOf = Callable[[MethodEntry], str]
# A name, not a link: the page is mailed and copied without docs/.
METRICS_PAGE = Words("`docs/metrics.md`", "`docs/zh/metrics.md`")


def differences(report: Report) -> list[Block]:
    """Show in tables and words which differences are significant."""
    return [
        Heading(2, Words("Significant differences", "显著差异"), "differences"),
        *_compare(report),
    ]


def _compare(report: Report) -> list[Block]:
    if len(report.entries) < 2:
        return [
            Prose(
                Words(
                    "There is only one run, so there is nothing to compare.",
                    "只有一次运行，没有可比较的对象。",
                )
            )
        ]
    if not report.differences:
        return [
            Prose(
                Words(
                    f"The protocol {report.protocol} scores the file as a whole. Without scores of "
                    "single rows, significance cannot be tested.",
                    f"协议 {report.protocol} 只对整个文件打分，没有逐行得分，无法检验显著性。",
                )
            )
        ]
    blocks: list[Block] = [Prose(_explain_test(report))]
    for model in report.models:
        blocks += _of_model(report, model)
    return [*blocks, *_between_models(report)]


def _explain_test(report: Report) -> Words:
    count = len(report.differences)
    # A protocol may skip rows: finetune_demo scores only the first 50.
    rows = max(difference.rows for difference in report.differences.values())
    if rows < MIN_ROWS:
        return Words(
            f"{rows} dev rows are too few to call any difference significant; "
            f"at least {MIN_ROWS} are required.",
            f"{rows} 行验证数据太少，无法判断任何差异是否显著；至少需要 {MIN_ROWS} 行。",
        )
    scores, chance = " / ".join(COMPARED.values()), percent_of(CHANCE)
    seeds = (
        Words(
            """For a method with several seeds, the score of a row is its mean over the seeds; ± in
the table of scores shows how much they vary.""",
            "有多个种子的方法，每行得分取各种子的平均；得分表里的 ± 是种子之间的波动。",
        )
        if report.has_seeds
        else Words(
            "The test covers the choice of dev rows, not the variation between training seeds.",
            "检验只考虑验证数据的抽样波动，不考虑更换训练种子带来的变化。",
        )
    )
    test = Words(
        f"""Each cell shows the difference of the means over the same {rows:,} dev rows:
{scores}. **Bold: significant.** The probability that any of the {count:,}
differences is wrongly called significant is below {chance} (paired test, Holm's
correction; see {METRICS_PAGE.en}).""",
        f"""每格是在同样的 {rows:,} 行验证数据上的均值之差：{scores}。**加粗表示差异显著**。
全部 {count:,} 个差异中，至少有一个被误判为显著的概率低于 {chance}
（逐行配对检验，Holm 校正；见 {METRICS_PAGE.zh}）。""",
    )
    parts = [join([test, _smallest_detectable(report)], " ", ""), seeds, _left_out(report)]
    return join([part for part in parts if part.en], "\n")


def _left_out(report: Report) -> Words:
    """Which differences were not tested, and what that means for the others."""
    if not report.untested:
        return Words("", "")
    return Words(
        f"""Of more than {MOST_PAIRED} methods of a model, or models with a method, each is compared
with the untuned model and with the best by each score, not with every other one. The correction
counts the {report.untested:,} differences left out, too.""",
        f"""并列的方法或模型超过 {MOST_PAIRED} 个时，只与未微调的模型和各项得分最高者比较，
不再两两比较；校正时，略去的 {report.untested:,} 个差异也计算在内。""",
    )


def _smallest_detectable(report: Report) -> Words:
    shown = [
        f"{shown_score(report, score)(least)} {title}"
        for score, title in COMPARED.items()
        if (least := _detectable(report, score)) is not None
    ]
    if not shown:
        return Words("", "")
    return Words(
        f"""Between any two methods of a model, a true
difference of {" or ".join(shown)} would be detected in 8 of 10 evaluations; a smaller one, less
often.""",
        f"同一模型的两种方法真实相差 {' 或 '.join(shown)} 时，10 次评测中有 8 次能检出；"
        "差异更小则更难检出。",
    )


def _detectable(report: Report, score: str) -> float | None:
    """The difference detectable between any two methods of a model, after the correction."""
    confidence = 1 - CHANCE / (len(report.differences) + report.untested)
    found = [
        detectable_difference(difference, confidence=confidence)
        for comparison, difference in report.differences.items()
        if comparison.score == score and comparison.ours[0] == comparison.theirs[0]
    ]
    return max(found, default=None)


# --- methods of a model ---------------------------------------------------------------------------


def _of_model(report: Report, model: str) -> list[Block]:
    entries = report.entries_of(model)
    blocks: list[Block] = [Heading(3, model, f"differences-{model}")]
    if report.baseline_of(model) is None:
        blocks.append(
            Prose(
                Words(
                    "There is no run of the untuned model to compare with.",
                    "没有运行未微调的模型，无法与之对比。",
                )
            )
        )
    if len(entries) > 1:
        blocks.append(_difference_matrix(report, entries))
        lines = _verdicts_by_score(report, entries, lambda entry: entry.first.entry)
        if lines:
            blocks.append(Prose(join((line.map("- {}".format) for line in lines), "\n")))
    return blocks


def _difference_matrix(report: Report, entries: Sequence[MethodEntry]) -> Table:
    """Differences of entries and their references, row minus column; each pair appears once."""
    references = report.references_of(entries)
    columns = entries[:-1] if len(references) == len(entries) else references
    # The first reference has no earlier one to be compared with.
    shown = entries[1:] if references[0] is entries[0] else entries
    rows = [
        Row(
            [entry.label, *(_difference_cell(report, entry.key, o.key) for o in columns)],
            *entry.key,
        )
        for entry in shown
    ]
    model = entries[0].first.model
    caption = Words(f"{model}: differences between its methods", f"{model}：各方法之间的差异")
    header = [Words("Row minus column", "行 − 列"), *(entry.label for entry in columns)]
    return Table(caption, header, rows, text_columns=1)


def _difference_cell(report: Report, ours: tuple[str, str], theirs: tuple[str, str]) -> Cell:
    """Example: "**+30.21** / +1.20"."""
    parts, values = [], []
    for score in COMPARED:
        comparison = Comparison(score, ours, theirs)
        if comparison in report.differences:
            value = report.differences[comparison].value
            shown = signed(value, shown_score(report, score))
            parts.append(f"**{shown}**" if report.is_significant(comparison) else shown)
            values.append(value)
    return Cell(f"{NO_BREAK}/{NO_BREAK}".join(parts), values[0] if values else None)


def _verdicts_by_score(report: Report, entries: Sequence[MethodEntry], name: NameOf) -> list[Words]:
    """One sentence per score; scores with the same verdict share a sentence."""
    sentences: dict[Words, list[Text]] = {}
    for score, title in COMPARED.items():
        if sentence := _verdict_sentence(report, score, entries, name):
            sentences.setdefault(sentence, []).append(title)
    return [
        join([enumerate_names(titles), sentence], ": ", "：")
        for sentence, titles in sentences.items()
    ]


def _verdict_sentence(
    report: Report, score: str, entries: Sequence[MethodEntry], name: NameOf
) -> Words | None:
    """Example: "full and lora are higher than none; no significant difference: lora and full."."""
    higher: dict[str, list[str]] = {}
    equal: dict[str, list[str]] = {}
    for ours, theirs in pairs_of(entries, report.references_of(entries)):
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
    parts = [_higher(better, worse) for worse, better in by_worse.items()]
    if equal:
        parts.append(_equal(equal))
    return join([join(parts, "; ", "；"), Words(".", "。")], "") if parts else None


def _higher(better: Sequence[str], worse: Sequence[str]) -> Words:
    ours, theirs = enumerate_names(better), enumerate_names(worse)
    verb = "is" if len(better) == 1 else "are"
    return Words(f"{ours.en} {verb} **higher** than {theirs.en}", f"{ours.zh} **高于** {theirs.zh}")


def _equal(pairs: Mapping[str, Sequence[str]]) -> Words:
    shown = [(one, enumerate_names(others)) for one, others in pairs.items()]
    return Words(
        f"no significant difference: {', '.join(f'{one} vs. {o.en}' for one, o in shown)}",
        f"{'，'.join(f'{one} 与 {o.zh}' for one, o in shown)} 无显著差异",
    )


# --- models with the same method ------------------------------------------------------------------


def _between_models(report: Report) -> list[Block]:
    """Pairwise differences of models with the same method; nothing for a single model."""
    shared = report.entries_by_method
    if not shared:
        return []
    pairs = dict.fromkeys(
        (ours.first.model, theirs.first.model)
        for entries in shared.values()
        for ours, theirs in pairs_of(entries, report.references_of(entries))
    )
    rows = [
        Row(
            [
                f"{ours}{NO_BREAK}− {theirs}",
                *(_difference_cell(report, (ours, m), (theirs, m)) for m in shared),
            ]
        )
        for ours, theirs in pairs
    ]
    sentences: dict[Words, list[Text]] = {}
    for method, entries in shared.items():
        for sentence in _verdicts_by_score(report, entries, lambda entry: entry.first.model):
            sentences.setdefault(sentence, []).append(method)
    lines = [
        join([Words("- ", "- "), join(methods, ", ", "、"), Words(". ", "。"), text], "")
        for text, methods in sentences.items()
    ]
    header = [Words("Models", "模型"), *(entries[0].label for entries in shared.values())]
    title = Words("Models with the same method", "使用同一方法的不同模型")
    return [
        Heading(3, title, "differences-models"),
        Table(title, header, rows, text_columns=1),
        Prose(join(lines, "\n")),
    ]
