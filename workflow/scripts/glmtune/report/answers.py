"""The browser of all answers on the page: its controls, and the texts of all rows, packed.

The texts are compressed JSON, so that a page of a thousand rows and a dozen runs stays small enough
to mail. If they would still be too large, the page has evenly spaced rows and says so.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from glmtune.errors import printable
from glmtune.report.blocks import Block, Heading, PageOnly, Prose
from glmtune.report.contents import COMPARED, MethodEntry, Report, finite
from glmtune.report.markup import choices, inline
from glmtune.report.words import Text, Words

LARGEST = 4_000_000  # characters of packed texts


def all_answers(report: Report, largest: int = LARGEST) -> list[Block]:
    """Let a reader search, filter, sort and compare the answers to all dev rows."""
    rows, packed = _packed(report, largest)
    title = Words("All answers", "全部回答")
    seeds = (
        Words(
            " Methods with several seeds show the first one.",
            "用多个种子训练的方法，只显示第一个种子的回答。",
        )
        if report.has_seeds
        else Words("", "")
    )
    if rows < report.rows:
        what = Words(
            f"{rows:,} of the {report.rows:,} dev rows, evenly spaced: all of them would make this "
            f"page too large.{seeds.en}",
            f"{report.rows:,} 行验证数据中等间隔的 {rows:,} 行：全部放入会使页面过大。{seeds.zh}",
        )
    else:
        what = Words(
            f"All {rows:,} dev rows with every answer; `report.html` searches, sorts and compares "
            f"them.{seeds.en}",
            f"全部 {rows:,} 行验证数据的所有回答；`report.html` 中可以搜索、排序和对比。{seeds.zh}",
        )
    return [Heading(2, title, "answers"), Prose(what), PageOnly(_browser(report, packed))]


def _packed(report: Report, largest: int) -> tuple[int, str]:
    """The number of rows, and their texts as base64 of compressed JSON."""
    count = report.rows
    while True:
        chosen = [(2 * place + 1) * report.rows // (2 * count) for place in range(count)]
        compressed = zlib.compress(_texts(report, chosen).encode(), 9)
        if 4 * len(compressed) <= 3 * largest or count == 1:
            return count, base64.b64encode(compressed).decode()
        # The size is about proportional to the rows; a little fewer, so that they fit.
        count = max(1, min(count - 1, int(count * 0.7 * largest / len(compressed))))


def _texts(report: Report, chosen: Sequence[int]) -> str:
    first = report.runs[0].predictions
    return json.dumps(
        {
            "scores": COMPARED,
            "rows": [
                {
                    "number": index + 1,
                    "prompt": _prompt(first[index]),
                    "reference": _shown(first[index]["labels"]),
                }
                for index in chosen
            ],
            "runs": [_run(entry, chosen) for entry in report.entries],
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _run(entry: MethodEntry, chosen: Sequence[int]) -> dict[str, Any]:
    model, method = entry.key
    run = entry.first
    return {
        "model": model,
        "method": method,
        "is_trained": run.is_trained,
        "label": {"en": entry.label.en, "zh": entry.label.zh},
        "answers": [_shown(run.predictions[index].get("predict")) for index in chosen],
        "scores": {
            name: [_rounded(run.row_scores[index].get(name)) for index in chosen]
            for name in COMPARED
        },
    }


def _prompt(row: Mapping[str, Any]) -> str:
    """The prompt, below the turns before it."""
    turns = [
        f"{turn.get('role', '')}: {turn.get('content', '')}"
        for turn in row.get("history") or ()
        if isinstance(turn, dict)
    ]
    return _shown("\n".join([*turns, str(row.get("prompt") or "")]))


def _shown(text: Any) -> str:
    """A text with its line breaks, without characters that control a terminal or its direction."""
    return printable(text) if isinstance(text, str) else ""


def _rounded(value: Any) -> float | None:
    number = finite(value)
    return None if number is None else round(number, 2)


def _browser(report: Report, packed: str) -> str:
    runs = "".join(
        f'<option value="{index}" {choices(_run_name(entry))}></option>'
        for index, entry in enumerate(report.entries)
    )
    scores = "".join(f'<option value="{name}">{title}</option>' for name, title in COMPARED.items())
    labels = {name: inline(words) for name, words in LABELS.items()}
    options = {name: choices(words) for name, words in OPTIONS.items()}
    return BROWSER.format(runs=runs, scores=scores, packed=packed, **labels, **options)


def _run_name(entry: MethodEntry) -> Words:
    return entry.label.map(f"{entry.first.model} / {{}}".format)


LABELS: dict[str, Text] = {
    "search": Words("Search", "搜索"),
    "order": Words("Order", "排序"),
    "run": Words("Run", "运行"),
    "score": Words("Score", "得分"),
    "least": Words("From", "从"),
    "most": Words("To", "到"),
    "marks": Words("Mark differences from", "标出差异，对照"),
    "no_script": Words(
        "Searching and comparing needs JavaScript. The examples above do not.",
        "搜索和对比需要 JavaScript；上面的示例不需要。",
    ),
}
OPTIONS: dict[str, Text] = {
    "by_row": Words("as in the data", "按数据顺序"),
    "worst": Words("worst first", "得分最低在前"),
    "best": Words("best first", "得分最高在前"),
    "gain": Words("largest gain over untuned first", "比未微调提升最多在前"),
    "drop": Words("largest drop below untuned first", "比未微调下降最多在前"),
    "reference": Words("the reference", "参考答案"),
    "untuned": Words("the untuned model", "未微调的模型"),
    "nothing": Words("nothing", "不标"),
    "more": Words("Show more", "显示更多"),
}
BROWSER = """<noscript><p>{no_script}</p></noscript>
<div id="browser" hidden>
<form class="fields">
<label class="grow">{search}<input id="search" type="search"></label>
<label>{run}<select id="run">{runs}</select></label>
<label>{score}<select id="score">{scores}</select></label>
<label>{order}<select id="order"><option value="row" {by_row}></option>
<option value="worst" {worst}></option><option value="best" {best}></option>
<option value="gain" {gain}></option><option value="drop" {drop}></option></select></label>
<label>{least}<input id="least" type="number" step="any"></label>
<label>{most}<input id="most" type="number" step="any"></label>
<label>{marks}<select id="marks"><option value="reference" {reference}></option>
<option value="untuned" {untuned}></option><option value="" {nothing}></option></select></label>
</form>
<p id="found" role="status"></p>
<ol id="rows"></ol>
<button id="more" {more}></button>
</div>
<script type="application/octet-stream" id="packed">{packed}</script>"""
