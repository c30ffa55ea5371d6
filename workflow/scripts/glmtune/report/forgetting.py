"""The section on forgetting: how tuning changed the answers to general questions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import islice

from glmtune.metrics.probe import TRAINING_ANSWERS, Verdict
from glmtune.metrics.significance import CONFIDENCE, MIN_ROWS
from glmtune.report.blocks import Block, Heading, Prose, Row, Table
from glmtune.report.contents import MethodEntry, Report, Run, own_rows
from glmtune.report.data_card import part_name
from glmtune.report.markdown import plain
from glmtune.report.tables import (
    EMPTY,
    MODEL,
    Column,
    DifferenceColumn,
    correct_share,
    minus_untuned,
    percent,
    percent_of,
    run_table,
    share,
)
from glmtune.report.words import Text, Words, join

SHOWN_QUESTIONS = 4
LONGEST_SHOWN = 60  # characters of an answer
CORRECT = Words("Correct", "正确率")
HELP = Words(
    "General questions and answers mixed into the training data help: `dataset.train` takes them "
    "as a part with a share, as in `presets/mixture.yaml`. LoRA or a lower learning rate may, too.",
    "在训练数据中混入通用问答有帮助：把它们作为带 share 的一部分写进 `dataset.train`，见 "
    "`presets/mixture.yaml`。改用 LoRA 或降低学习率也可能有用。",
)


def forgetting(report: Report) -> list[Block]:
    """Show how many general questions each run still answers correctly, with examples."""
    count, style = len(report.runs[0].probe), _style_title(report)
    opening = Words(
        f"Each model answers the same {count} short general questions (sums, capitals, colors, …), "
        "which are unrelated to the data.",
        f"每个模型回答同样的 {count} 道简短常识题（加法、首都、颜色等），与训练数据无关。",
    )
    legend = Words(
        f"""*Correct*: the answer contains the expected one and does not imitate the training data.
In parentheses: the {percent_of(CONFIDENCE)} confidence interval of the share, and of its difference
from the untuned model on the same questions. Bold: significant (Holm's correction).
*{style.en}*: at least half of the answer's character 4-grams occur in the first
{TRAINING_ANSWERS:,} training answers, and less than half of the untuned answer's. *Similarity to
untuned*: overlap with the untuned answer, 0 to 100 (character-level ROUGE-L).""",
        f"""*正确率*：包含正确答案且没有模仿训练数据的回答所占比例。
括号内：正确率，以及在同样的题目上与未微调模型之差的 {percent_of(CONFIDENCE)} 置信区间。
加粗：差异显著（经 Holm 校正）。
*{style.zh}*：回答中至少一半的字符 4-gram 出现在前 {TRAINING_ANSWERS:,} 条训练数据的回答里，
而未微调模型的回答不到一半。
*与未微调的相似度*：与未微调模型的回答的重合程度，0 到 100（字符级 ROUGE-L）。""",
    )
    caption = Words("General questions", "常识题")
    return [
        Heading(2, Words("What the models forgot", "模型忘了什么"), "forgetting"),
        Prose(join([opening, _worst_in_words(report, count)], " ", "")),
        run_table(report, tuple(_probe_columns(report)), caption),
        Prose(legend),
        *_mixture(report),
        *_sample_answers(report),
    ]


def _mixture(report: Report) -> list[Block]:
    """Say what was mixed into the training rows, what it took and what was kept with it."""
    train = report.dataset["train"]
    mixed = train["rows"] - own_rows(train)
    if not mixed:
        return []
    named = [
        f"{part_name(report, number, part)} ({part['rows']:,})"
        for number, part in enumerate(train["parts"])
        if part.get("share")
    ]
    taken, names = percent_of(mixed / train["rows"]), join(named, ", ", "、")
    opening = Words(
        f"**A mixture.** {mixed:,} of the {train['rows']:,} training rows ({taken}) were mixed in: "
        f"{names.en}. The steps stay the same, so the user's own rows were seen {taken} less "
        "often.",
        f"**混合数据。** {train['rows']:,} 行训练数据中有 {mixed:,} 行（{taken}）是混入的："
        f"{names.zh}。步数不变，因此用户自己的行少看了 {taken}。",
    )
    compare = Words(
        "`make compare REV=…` with a run without the mixture tests what it cost in scores and what "
        "it saved.",
        "用 `make compare REV=…` 与不混合的运行比较，可检验它让得分降了多少、挽回了多少。",
    )
    return [Prose(join([opening, *_kept(report), compare], " ", ""))]


def _kept(report: Report) -> Iterator[Words]:
    """How many of the right answers of each untuned model its tuned runs keep."""
    parts = [
        f"{entry.first.model} {entry.first.entry} {percent_of(share)}"
        for entry in report.entries
        if (share := report.kept_answers(entry)) is not None
    ]
    if parts:
        listed = join(parts, ", ", "，")
        yield Words(
            "Of the questions that the untuned model answers correctly, these stay correct: "
            f"{listed.en}.",
            f"未微调的模型答对的题，微调后仍答对的比例：{listed.zh}。",
        )


def _verdict_share(
    report: Report, holds: Callable[[Verdict], bool]
) -> Callable[[Run], float | None]:
    """The percentage of a trained run's answers for which `holds` is true."""

    def value(run: Run) -> float | None:
        verdicts = report.verdicts[run.model, run.method]
        return share(map(holds, verdicts)) if run.is_trained else None

    return value


def _overlap(report: Report) -> Callable[[Run], float | None]:
    """The mean overlap of a trained run's answers with the untuned ones."""

    def value(run: Run) -> float | None:
        found = [verdict.overlap for verdict in report.verdicts[run.model, run.method]]
        known = [overlap for overlap in found if overlap is not None]
        return statistics.fmean(known) if run.is_trained and known else None

    return value


def _probe_columns(report: Report) -> Iterator[Column | DifferenceColumn]:
    test = report.forgetting
    yield Column(
        CORRECT,
        correct_share(report),
        percent,
        interval=lambda entry: test.shares[entry.key],
        better=1,
    )
    if test.differences:
        yield DifferenceColumn(
            minus_untuned(CORRECT),
            lambda entry: test.differences.get(entry.key),
            lambda entry: test.is_significant(entry.key),
            "{:.1f}".format,
        )
    imitating = _verdict_share(report, lambda verdict: verdict.imitates_training)
    yield Column(_style_title(report), imitating, percent, better=-1)
    similarity = Words("Similarity to untuned", "与未微调的相似度")
    yield Column(similarity, _overlap(report), "{:.1f}".format, better=1)


def _style_title(report: Report) -> Words:
    """Name answers that imitate the training data: ads, unless users bring their own data."""
    if report.dataset["source"]["kind"] == "files":
        return Words("Answers in training style", "变成训练数据风格的回答")
    return Words("Answers turned into ads", "变成广告的回答")


def _worst_in_words(report: Report, count: int) -> Words:
    """Describe the worst entry and what helps."""
    test = report.forgetting
    if count < MIN_ROWS:
        return Words(
            f"Fewer than {MIN_ROWS} questions are too few to detect forgetting.",
            f"题目不足 {MIN_ROWS} 道，无法检验遗忘。",
        )
    if not test.differences:
        return Words(
            "Measuring forgetting requires both a tuned and an untuned run.",
            "要衡量遗忘，需要同时运行微调后和未微调的模型。",
        )
    worst = max(report.entries, key=lambda entry: test.loss(entry.key))
    if not test.loss(worst.key):
        return Words(
            "No run answers significantly fewer of them correctly than the untuned model.",
            "没有哪次运行的正确率显著低于未微调的模型。",
        )
    return _worst(report, worst)


def _worst(report: Report, worst: MethodEntry) -> Words:
    right = statistics.fmean(worst.numbers(correct_share(report)))
    imitating = _verdict_share(report, lambda verdict: verdict.imitates_training)
    ads = percent(statistics.fmean(worst.numbers(imitating)))
    before = percent(right + report.forgetting.loss(worst.key))
    model, label, rate = worst.first.model, worst.label, _learning_rate(worst.first)
    return Words(
        f"**{model} forgot most with {label.en}{rate.en}: {percent(right)} correct instead of "
        f"{before}; {ads} of its answers imitate the training data.** {HELP.en}",
        f"**{model} 用 {label.zh} 微调后遗忘最严重{rate.zh}："
        f"正确率从 {before} 降到 {percent(right)}；{ads} 的回答在模仿训练数据。** {HELP.zh}",
    )


def _learning_rate(run: Run) -> Words:
    """Example: " (lr 0.02)"."""
    rate = run.training.get("settings", {}).get("lr")
    if not isinstance(rate, int | float):
        return Words("", "")
    return Words(f" (lr {rate:g})", f"（学习率 {rate:g}）")


def _sample_answers(report: Report) -> list[Block]:
    """Show a few evenly spaced questions with the answers of all methods side by side."""
    methods = {entry.key[1]: entry.label for entry in report.entries}
    header = [MODEL, Words("Question", "问题"), Words("Expected", "正确答案"), *methods.values()]
    rows = []
    for model in report.models:
        runs = {entry.key[1]: entry.first for entry in report.entries_of(model)}
        for index in _evenly_spaced(len(report.runs[0].probe)):
            asked = next(iter(runs.values())).probe[index]
            responses = [
                _first_characters(runs[method].probe[index]["predict"]) if method in runs else ""
                for method in methods
            ]
            cells = [model, plain(asked["prompt"]), plain(asked["labels"]), *responses]
            rows.append(Row(cells, model))
    intro = (
        Words(
            "A sample of the questions, evenly spaced, answered with the first seed:",
            "等间隔抽取几道题，列出第一个种子的回答：",
        )
        if report.has_seeds
        else Words("A sample of the questions, evenly spaced:", "等间隔抽取几道题：")
    )
    caption = Words("Answers to some general questions", "部分常识题的回答")
    return [Prose(intro), Table(caption, header, rows, text_columns=len(header))]


def _evenly_spaced(count: int) -> list[int]:
    """Evenly spaced indexes, so that nobody picks them, e.g. 46 -> [5, 17, 28, 40]."""
    shown = min(SHOWN_QUESTIONS, count)
    return [(2 * place + 1) * count // (2 * shown) for place in range(shown)]


def _first_characters(response: str) -> Text:
    cut = "".join(islice(response, LONGEST_SHOWN))
    return (plain(cut) + ("…" if len(response) > LONGEST_SHOWN else "")) or EMPTY
