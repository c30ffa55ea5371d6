"""The first screen: what was compared, when and with which code; the verdict; two figures."""

from __future__ import annotations

from glmtune.metrics.significance import CONFIDENCE
from glmtune.report.blocks import Block, Heading, Prose
from glmtune.report.conclusions import conclusion
from glmtune.report.contents import Report
from glmtune.report.data_card import kind_of
from glmtune.report.figures import forgetting_figure, score_figure
from glmtune.report.markdown import plain
from glmtune.report.words import (
    MOST_NAMED,
    Words,
    bold,
    chinese,
    english,
    enumerate_names,
    join,
)

MODEL_NOTES = {
    "miniature": Words(
        "A **miniature** is built by this workflow; it has the real architecture at a tiny size "
        "and its own vocabulary. Its scores show what the methods do; they say nothing about the "
        "6B model.",
        "**微型模型**由本工作流从零训练：结构与原模型相同，只是规模很小，词表也是自建的。"
        "它的得分只能说明各种方法的效果，不代表 6B 模型的水平。",
    ),
    "random": Words(
        "A model with **random weights** has the real configuration but is untrained: its times "
        "and memory are meaningful, its scores are not.",
        "**随机权重**的模型采用真实配置，但未经训练：用时和内存有参考价值，得分没有。",
    ),
}

SOURCES_ZH = {"miniature": "微型模型", "random": "随机权重", "folder": "本地文件夹"}


def overview(report: Report) -> list[Block]:
    """State what is compared, the verdict per model, and the limits of the comparison."""
    return [
        Heading(1, Words("Fine-tuning report", "微调报告"), "report"),
        Prose(join([_opening(report), _made(report)], " ", "")),
        Prose(join((_verdict(report, model) for model in report.models), "\n")),
        score_figure(report),
        forgetting_figure(report),
        Prose(join((_model(report, model) for model in report.models), "\n")),
        *(Prose(note) for note in _notes(report)),
    ]


def _opening(report: Report) -> Words:
    kind, tuned = kind_of(report), _tuned_with(report)
    return Words(
        f"Each model answers the same {report.rows:,} dev prompts of {english(kind)}, {tuned.en}.",
        f"每个模型回答同样的 {report.rows:,} 条验证提示词（{chinese(kind)}），{tuned.zh}。",
    )


def _tuned_with(report: Report) -> Words:
    """Example: "untuned and after tuning with ptuning, lora"."""
    tuned = list(dict.fromkeys(entry.label for entry in report.entries if entry.first.is_trained))
    if not tuned:
        return Words("untuned; nothing was tuned", "均未微调")
    methods = enumerate_names(tuned) if len(tuned) > MOST_NAMED else join(tuned, ", ", "、")
    if all(run.is_trained for run in report.runs):
        return Words(f"after tuning with {methods.en}", f"均已微调（{methods.zh}）")
    return Words(
        f"untuned and after tuning with {methods.en}", f"未微调时和用 {methods.zh} 微调后各答一遍"
    )


def _verdict(report: Report, model: str) -> Words:
    found = conclusion(report, model)
    return Words(f"- {bold(model)}: {found.en}", f"- {bold(model)}：{found.zh}")


def computed(report: Report) -> Words:
    """Example: "computed 2026-11-27 with commit `d1cb98e`"."""
    days = sorted({moment[:10] for moment in report.distinct_runtimes("finished")})
    when = Words("", "")
    if days:
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        when = Words(f"computed {span}", f"计算日期 {span.replace(' to ', ' 至 ')}")
    commits = [f"`{plain(commit)}`" for commit in report.commits]
    by = Words("by code outside a git repository", "代码不在 git 仓库中")
    if commits:
        by = Words(
            f"with commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}",
            f"代码提交 {'、'.join(commits)}",
        )
    return join([each for each in (when, by) if each.en], " ", "，")


def _made(report: Report) -> Words:
    """When and by which code the results were computed, and how the verdicts are tested."""
    level, made = f"{1 - CONFIDENCE:.2f}", computed(report)
    test = Words(
        f"Significant: p < {level} in paired tests over the same rows, with Holm's correction.",
        f"“显著”指在同样的数据上逐行配对检验，经 Holm 校正后 p < {level}。",
    )
    return Words(f"{made.en[0].upper()}{made.en[1:]}. {test.en}", f"{made.zh}。{test.zh}")


def _model(report: Report, model: str) -> Words:
    """Example: "- chatglm-6b: miniature, about 0.3 million parameters"."""
    source, size = report.models[model]["source"], _parameter_count(report, model)
    kind = SOURCES_ZH.get(source) or plain(source)
    return Words(f"- {model}: {plain(source)}, {size.en}", f"- {model}：{kind}，{size.zh}")


def _parameter_count(report: Report, model: str) -> Words:
    """Example: 6,243,584,000 -> "about 6.2 billion parameters"."""
    count = report.parameters_of(model)
    if count is None:
        return Words("unknown size", "大小未知")
    shown = f"{count / 1e9:.1f} billion" if count >= 1e8 else f"{count / 1e6:.1f} million"
    chinese_ = f"{count / 1e8:.1f} 亿" if count >= 1e8 else f"{count / 1e4:.1f} 万"
    return Words(f"about {shown} parameters", f"约 {chinese_}参数")


def _notes(report: Report) -> list[Words]:
    sources = {manifest["source"] for manifest in report.models.values()}
    return [note for source, note in MODEL_NOTES.items() if source in sources]
