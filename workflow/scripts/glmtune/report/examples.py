"""The section of answers side by side: to the user's own prompts, or to some of the dev rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glmtune.errors import DataError
from glmtune.report.blocks import Block, Heading, Prose, Row, Table
from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.markdown import code, plain
from glmtune.report.tables import EMPTY, METHOD, MODEL
from glmtune.report.words import Text, Words

# One dev row of each length, from short to long, at this place among the scores of its length.
SCORE_PLACES = (0.5, 0.1, 0.9, 0.3, 0.7)


@dataclass(frozen=True)
class Example:
    """A prompt, and what a run answered: {"predict"[, "labels"]}."""

    prompt: str
    answer_of: Callable[[Run], Mapping[str, Any]]


def before_and_after(report: Report) -> list[Block]:
    """Show the answers to each example side by side."""
    blocks: list[Block] = [Heading(2, Words("Before and after", "微调前后"), "examples")]
    prompts, rows = report.examples, []
    if prompts is None:
        rows = spread_rows(report)
        blocks.append(Prose(_which_rows(len(rows))))
    elif not prompts:
        nothing = Words("No example prompts are configured.", "没有配置示例提示词。")
        blocks.append(Prose(nothing))
    examples = [_of_prompt(prompt) for prompt in prompts or ()]
    examples += [_of_row(report, row) for row in rows]
    if examples and report.has_seeds:
        first = Words(
            "Methods with several seeds show the answer of the first one.",
            "用多个种子训练的方法，只显示第一个种子的回答。",
        )
        blocks.append(Prose(first))
    for number, example in enumerate(examples, 1):
        caption = Words(f"Answers to example {number}", f"例 {number} 的回答")
        blocks += [
            Heading(3, code(example.prompt), f"example-{number}"),
            _answer_table(report, example, caption),
        ]
    return blocks


def spread_rows(report: Report) -> list[int]:
    """The indices of some dev rows, spread over the length of references and over scores.

    The score is the mean of all trained runs. Of equal prompts only the first row counts.
    """
    predictions = report.runs[0].predictions
    first = {row.get("prompt"): index for index, row in reversed(list(enumerate(predictions)))}
    by_length = sorted(first.values(), key=lambda index: (len(predictions[index]["labels"]), index))
    groups = min(len(by_length), len(SCORE_PLACES))
    chosen = []
    for number, place in enumerate(SCORE_PLACES[:groups]):
        start, end = (len(by_length) * bound // groups for bound in (number, number + 1))
        ranked = sorted(by_length[start:end], key=lambda index: (_score(report, index), index))
        chosen.append(ranked[int(place * len(ranked))])
    return chosen


def _score(report: Report, index: int) -> float:
    name = next(iter(COMPARED))
    trained = [run for run in report.runs if run.is_trained] or report.runs
    return statistics.fmean(run.row_scores[index].get(name) or 0.0 for run in trained)


def _which_rows(count: int) -> Words:
    return Words(
        f"{count} dev rows, spread over the length of references and over scores. `examples` of "
        "params.yaml can name prompts instead.",
        f"{count} 行验证数据，按参考答案的长度和得分分散选取。也可以在 params.yaml 的 `examples` "
        "里写自己的提示词。",
    )


def _of_prompt(prompt: str) -> Example:
    def answer_of(run: Run) -> Mapping[str, Any]:
        if prompt not in run.example_responses:
            raise DataError(
                f"examples of {run.name}: no answer to {prompt!r}; run generate_predictions again"
            )
        return run.example_responses[prompt]

    return Example(prompt, answer_of)


def _of_row(report: Report, index: int) -> Example:
    prompt = str(report.runs[0].predictions[index].get("prompt") or "")
    return Example(prompt, lambda run: run.predictions[index])


def _answer_table(report: Report, example: Example, caption: Words) -> Table:
    """One row per model and method, plus the reference if there is one."""
    rows, references = [], []
    for entry in report.entries:
        run = entry.first
        given = example.answer_of(run)
        references.append(given.get("labels"))
        answer: Text = plain(given["predict"]) or EMPTY
        rows.append(Row([run.model, entry.label, answer], *entry.key))
    reference = next(filter(None, references), None)
    if reference:
        rows.append(Row([Words("reference", "参考答案"), "", plain(reference)]))
    header = [MODEL, METHOD, Words("Answer", "回答")]
    return Table(caption, header, rows, text_columns=3, named=2)
