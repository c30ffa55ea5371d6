"""The section that scores the same answers under every public definition of BLEU-4 and ROUGE."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.report.blocks import Block, Head, Heading, Prose, Row, Table
from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.markdown import plain
from glmtune.report.tables import METHOD, MODEL, NO_BREAK, NOTHING, digits
from glmtune.report.words import Text, Words, join

# `differs` of each protocol in Chinese.
DIFFERS_ZH = {
    "glmtune": "用户看到的回答和完整的参考答案，均已规范化",
    "thudm": "采样；回答和参考答案都用模型的分词器解码，参考答案截断到 64 个 token",
    "llamafactory": "采样；回答和参考答案都用模型的分词器解码",
    "finetune_demo": "BLEU-4 按词，0 到 1；只评前 50 行",
    "mindformers": "跳过空回答的行",
    "ms_swift": "BLEU-4 按词；ROUGE 用 rouge 包；跳过空的行",
    "ssbuild": "sacrebleu；ROUGE-L 用 rouge 包，0 到 1；没有 ROUGE-1 和 ROUGE-2",
    "yongzhuo": "按字符，0 到 1；BLEU-4 把字符之间的空格也算上",
    "paddle": "整个文件的 BLEU-4，0 到 1，不平滑；没有 ROUGE",
}


def definitions(report: Report) -> list[Block]:
    """One column per definition; definitions that give the same numbers share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in PROTOCOLS:
        columns.setdefault(tuple(_protocol_column(report, name)), []).append(name)
    same_as = {name: names[0] for names in columns.values() for name in names[1:]}
    header: list[Text | Head] = [
        MODEL,
        METHOD,
        *(_protocol_title(names[0]) for names in columns.values()),
    ]
    rows = [
        Row([entry.first.model, entry.label, *cells], *entry.key)
        for entry, *cells in zip(report.entries, *columns, strict=True)
    ]
    title = Words("The same answers under other definitions", "同样的回答，不同的指标定义")
    return [
        Heading(2, title, "definitions"),
        Prose(_introduce(report)),
        Table(title, header, rows, text_columns=2, named=2),
        Prose(Words("In brief:", "主要区别：")),
        Prose(join((_differs(name, same_as) for name in PROTOCOLS), "\n")),
        Prose(
            Words(
                "\\* Its published scores are for answers decoded differently: set `protocol:` to "
                "compare with them.",
                "\\* 其公开分数用的是另一种解码方式：要与之比较，请设置 `protocol:`。",
            )
        ),
    ]


def _introduce(report: Report) -> Words:
    headline, how = PROTOCOLS[report.protocol], _how_decoded(report)
    scores = " / ".join(COMPARED.values())
    return Words(
        f"""Public code computes different numbers under the names BLEU-4 and ROUGE. The scores
above follow **{plain(headline.title)}** (`protocol: {report.protocol}`){how.en}.
Each cell below is
{scores} of the same answers under another definition: compare scores within
a column, never across columns. `docs/metrics.md` compares the definitions in
detail.""",
        f"""各家公开代码都叫 BLEU-4 和 ROUGE，算法却不相同。
上面的得分采用 **{plain(headline.title)}** 的定义（`protocol: {report.protocol}`）{how.zh}。
下表每格是同样的回答按另一种定义算出的 {scores}：只能在同一列内比较，不能跨列比较。
各定义的详细对照见 `docs/zh/metrics.md`。""",
    )


def _differs(name: str, same_as: Mapping[str, str]) -> Words:
    title = _protocol_title(name)
    line = Words(
        f"- {title}: {plain(PROTOCOLS[name].differs)}", f"- {title}：{plain(DIFFERS_ZH[name])}"
    )
    if name not in same_as:
        return line
    other = _protocol_title(same_as[name])
    return Words(
        f"{line.en} (same numbers here as {other})", f"{line.zh}（这里与 {other} 的数值相同）"
    )


def _how_decoded(report: Report) -> Words:
    """Example: ": answers decoded greedily, full references"; empty if unknown."""
    protocol = PROTOCOLS[report.protocol]
    decoding = {**report.params.generation, **(protocol.decoding or {})}
    if "do_sample" not in decoding:
        return Words("", "")
    how = Words("decoded greedily", "用贪心解码")
    if decoding["do_sample"]:
        top_p, temperature = decoding["top_p"], decoding["temperature"]
        how = Words(
            f"sampled with top-p {top_p} and temperature {temperature}",
            f"由采样得到（top-p {top_p}，温度 {temperature}）",
        )
    limit = protocol.reference_tokens
    references = Words("full references", "参考答案不截断")
    if limit:
        references = Words(
            f"references truncated to {limit} tokens", f"参考答案截断到 {limit} 个 token"
        )
    return Words(f": answers {how.en}, {references.en}", f"：回答{how.zh}，{references.zh}")


def _protocol_title(name: str) -> str:
    own_decoding = PROTOCOLS[name].decoding is not None
    return plain(PROTOCOLS[name].title) + ("\\*" if own_decoding else "")


def _protocol_column(report: Report, protocol: str) -> list[str]:
    """One cell per entry, e.g. "57.11 / 67.77": means over seeds."""
    shown = [_formatted_means(report, protocol, score) for score in COMPARED]
    return [f"{NO_BREAK}/{NO_BREAK}".join(cell) for cell in zip(*shown, strict=True)]


def _formatted_means(report: Report, protocol: str, score: str) -> list[str]:
    values = [entry.numbers(_protocol_score(protocol, score)) for entry in report.entries]
    show = digits([value for each in values for value in each])
    return [show(statistics.fmean(each)) if each else NOTHING for each in values]


def _protocol_score(protocol: str, score: str) -> Callable[[Run], float | None]:
    return lambda run: run.scores["protocols"][protocol][score]
