"""The section on published figures of the same model and method: published.json, beside ours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.report.blocks import Block, Cell, Head, Heading, Prose, Row, Table
from glmtune.report.contents import MethodEntry, Report
from glmtune.report.markdown import plain
from glmtune.report.tables import METHOD, MODEL, NOTHING, trained
from glmtune.report.words import Text, Words

OURS = Words("this report", "本报告")
NOT_OURS = Words("**published, not ours**", "**公开数据，非本报告**")
HEADER: list[Text | Head] = [
    *(MODEL, METHOD, Words("Measured by", "来自"), Words("Definition", "定义")),
    *(Words("Settings", "设置"), Words("Source", "出处")),
    *(Head(name.upper()) for name in METRICS),
    Words("Train loss", "训练损失"),
]
# Each figure with its settings, the protocol that computed it, and where it is published.
FIGURES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("published.json").read_text(encoding="utf-8")
)


def published(report: Report) -> list[Block]:
    """Put published figures on ADGEN beside ours, where model and method are the same."""
    rows = list(_rows(report))
    blocks: list[Block] = [
        Heading(2, Words("Published figures", "公开的得分"), "published"),
        Prose(_introduction(report, bool(rows))),
    ]
    if rows:
        caption = Words("Published figures beside ours", "公开的得分与本报告的得分")
        blocks.append(Table(caption, HEADER, rows, text_columns=6, named=2))
    return blocks


def _introduction(report: Report, has_rows: bool) -> Words:
    if has_rows:
        return Words(
            "Figures that others published for the same model and method on ADGEN's dev set, and "
            "ours under the same definition. Their settings, rows and decoding differ from ours; "
            "published runs of one setting differ by ±0.4 BLEU-4, and none states an interval.",
            "他人公布的同一模型、同一方法在 ADGEN 验证集上的得分，以及本报告按同一定义算出的得分。"
            "设置、行数和解码方式各不相同；公开的同一设置的多次运行相差 ±0.4 BLEU-4，"
            "且都没有给出置信区间。",
        )
    return Words(
        "Figures are published only for the 6B models on ADGEN. They are shown here, beside ours "
        "and with their sources, when a report is about one of those models on that data; they say "
        "nothing about miniatures or other data.",
        "公开的得分只有 6B 模型在 ADGEN 上的。报告涉及这些模型和这份数据时，"
        "会在这里并列展示并注明出处；"
        "它们与微型模型或其他数据无关。",
    )


def _rows(report: Report) -> Iterator[Row]:
    if report.dataset["source"]["kind"] != "adgen":
        return
    for entry in report.entries:
        family = report.models[entry.first.model]["family"]
        found = [
            each
            for each in FIGURES
            if (each["family"], each["method"]) == (family, entry.first.tuning)
        ]
        if report.is_full_size(entry.first.model):
            protocols = dict.fromkeys(each["protocol"] for each in found)
            yield from (_ours(entry, protocol) for protocol in protocols)
            yield from map(_theirs, found)


def _ours(entry: MethodEntry, protocol: str) -> Row:
    """Our scores of an entry under one definition, means over seeds."""

    def score(name: str) -> Cell:
        found = entry.numbers(lambda run: run.scores["protocols"][protocol].get(name))
        return _cell(statistics.fmean(found) if found else None)

    losses = entry.numbers(trained("train_loss"))
    rate = entry.first.training.get("settings", {}).get("lr")
    cells: list[Text | Cell] = [
        *(entry.first.model, entry.label, OURS, plain(PROTOCOLS[protocol].title)),
        f"lr {rate:g}" if isinstance(rate, int | float) else "",
        "",
        *map(score, METRICS),
        _cell(statistics.fmean(losses) if losses else None),
    ]
    return Row(cells, *entry.key)


def _theirs(figure: dict[str, Any]) -> Row:
    told = [PROTOCOLS[figure["protocol"]].title, figure["settings"], figure["source"]]
    numbers = [_cell(figure[name]) for name in (*METRICS, "train_loss")]
    return Row([figure["model"], figure["method"], NOT_OURS, *map(plain, told), *numbers])


def _cell(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else f"{value:.2f}", value)
