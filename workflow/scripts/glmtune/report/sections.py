"""The sections of the report: each is a function of a Report that returns blocks.

SECTIONS sets their order. To add a section, write a function and list it there.
"""

from __future__ import annotations

from collections.abc import Callable

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.significance import CONFIDENCE
from glmtune.report.answers import all_answers
from glmtune.report.blocks import Block, Heading, Prose
from glmtune.report.comparison import differences
from glmtune.report.contents import Report
from glmtune.report.data_card import data_section
from glmtune.report.definitions import definitions
from glmtune.report.examples import before_and_after
from glmtune.report.figures import cost_figure, length_figure, loss_figure
from glmtune.report.forgetting import forgetting
from glmtune.report.markdown import plain
from glmtune.report.overview import overview
from glmtune.report.published import published
from glmtune.report.seeds import seed_table
from glmtune.report.tables import (
    fairer_columns,
    percent_of,
    run_table,
    score_columns,
    text_columns,
)
from glmtune.report.training_notes import training_notes
from glmtune.report.what_was_run import what_was_run
from glmtune.report.words import Words, join


def scores(report: Report) -> list[Block]:
    """Show the table of scores and further statistics of the generated texts."""
    title, protocol = Words("Scores", "得分"), plain(PROTOCOLS[report.protocol].title)
    compared, confidence = _compared_texts(report), percent_of(CONFIDENCE)
    legend = Words(
        f"""BLEU-4 and ROUGE follow the definition of {protocol}
and compare {compared.en}. In
parentheses: the {confidence} confidence interval. *− untuned*: the difference from the
untuned model on the same rows. Bold: significant (Holm's correction): a score above that of every
other method of its model, or a difference from zero. *General*: general questions answered
correctly, see below. *Dev loss*: loss of the tuned model on the references. *Trained*: trainable
parameters, and their share of all parameters. *Time*: training time.""",
        f"""BLEU-4 和 ROUGE 按 {protocol} 的定义计算，比较的是{compared.zh}。
括号内：{confidence} 置信区间。*− 未微调*：在同样的数据上与未微调模型的差值。
加粗：差异显著（经 Holm 校正），即得分高于同一模型的其他所有方法，或差值不为零。
*常识题*：正确率，见下文。*验证损失*：微调后的模型在参考答案上的损失。
*训练参数*：参与训练的参数量及占比。*用时*：训练用时。""",
    )
    return [
        Heading(2, title, "scores"),
        run_table(report, score_columns(report), title),
        Prose(legend),
        *_each_seed(report),
        *_fairer_scores(report),
    ]


def _compared_texts(report: Report) -> Words:
    """The texts that the headline scores compare."""
    protocol = PROTOCOLS[report.protocol]
    answers = {
        "predict": Words("answers as displayed", "用户看到的回答"),
        "decoded": Words("answers as decoded", "解码后的回答"),
    }[protocol.response_key]
    references = {
        "labels": Words("references as in the data", "数据中的参考答案"),
        "decoded_labels": Words("references as decoded", "解码后的参考答案"),
    }[protocol.reference_key]
    form = Words("", "")
    if protocol.normal_form:
        form = Words(
            ", both with normalized punctuation and whitespace", "（标点和空白均已规范化）"
        )
    return Words(
        f"{answers.en} and {references.en}{form.en}", f"{answers.zh}与{references.zh}{form.zh}"
    )


def _each_seed(report: Report) -> list[Block]:
    found = seed_table(report)
    text = Words(
        "Methods with several seeds show the mean ± standard deviation. Each seed separately:",
        "用多个种子训练的方法，显示均值 ± 标准差。各种子的结果：",
    )
    return [Prose(text), found] if found else []


def _fairer_scores(report: Report) -> list[Block]:
    columns = fairer_columns(report)
    if not columns:
        return []
    unknown = plain("<UNK>")
    text = Words(
        f"Scores against fairer references, by the default definition: without {unknown}, which no "
        "model can guess, and against the references of all rows with the same prompt.",
        f"换用更公平的参考答案计分（按默认定义）：一是去掉任何模型都猜不到的 {unknown}，"
        "二是把同一提示词的所有参考答案都算上。",
    )
    caption = Words("Scores against fairer references", "换用更公平的参考答案后的得分")
    return [Prose(text), run_table(report, columns, caption)]


def texts(report: Report) -> list[Block]:
    """Show what the generated texts are like: lengths, attributes, variety."""
    title = Words("Texts", "文本")
    legend = Words(
        """*Characters*: mean answer length. *Attribute recall*: requested attribute values that
appear verbatim in the answer. *Attribute precision*: requested values among those in the answer
that are requested or contradict the prompt; see `docs/metrics.md`. *Distinct*: share of distinct
answers. *Distinct-4*: share of distinct word 4-grams. *Repetition-4*: answers that repeat a word
4-gram. *Cut off*: answers that reached the length limit before they ended.""",
        """*字符数*：回答的平均长度。*属性召回率*：提示词要求的属性值中，原样出现在回答里的比例。
*属性准确率*：回答里“符合要求”或“与提示词矛盾”的属性值中，符合要求的比例（`docs/zh/metrics.md`）。
*不重复率*：去重后的回答所占比例。*Distinct-4*：去重后的词 4-gram 所占比例。
*Repetition-4*：有重复词 4-gram 的回答所占比例。*被截断*：没写完就达到长度上限的回答所占比例。""",
    )
    lengths = Words(
        "The length of answers and references: the median, and the range of 90% of the rows.",
        "回答与参考答案的长度：中位数，以及中间 90% 的范围。",
    )
    return [
        Heading(2, title, "texts"),
        run_table(report, text_columns(report), title),
        Prose(legend),
        Prose(lengths),
        length_figure(report),
    ]


def loss_curves(report: Report) -> list[Block]:
    """Show the loss plot and notes on unusual trainings."""
    heading = Heading(2, Words("Loss curves", "损失曲线"), "losses")
    figure, notes = loss_figure(report), training_notes(report)
    if not figure.panels:
        notes = [Words("No run was trained.", "没有训练任何模型。")]
    return [heading, figure, *([Prose(join(notes, "\n"))] if notes else [])]


def cost(report: Report) -> list[Block]:
    """Show what each training cost against what it scores."""
    text = Words(
        "Score against cost: cheaper is further left, better is higher. Time and memory are "
        "those of "
        "the machine that trained (see the last section).",
        "得分与成本：越靠左越省，越靠上越好。用时和内存取自训练所用的机器（见最后一节）。",
    )
    figure = cost_figure(report)
    if not figure.panels:
        text = Words("Nothing was trained.", "没有训练任何模型。")
    return [Heading(2, Words("Cost and quality", "成本与质量"), "cost"), Prose(text), figure]


Section = Callable[[Report], list[Block]]
SECTIONS: tuple[Section, ...] = (
    overview,
    scores,
    differences,
    forgetting,
    texts,
    before_and_after,
    all_answers,
    loss_curves,
    cost,
    published,
    definitions,
    data_section,
    what_was_run,
)
