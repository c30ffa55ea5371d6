"""The project's own small set of general questions and short answers.

A miniature sees it in pre-training only, so that a later probe can measure what it forgets when
tuned on ad copy. Each fact has several phrasings; for half of the facts one phrasing is held out.
The probe therefore asks about known facts in unseen wording.
Knows nothing about garments, files or models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_DIGITS = "零一二三四五六七八九十"
_ARITHMETIC = ("{}等于几？", "{}是多少？", "请算一算，{}。")
_CAPITAL = ("{}的首都是哪里？", "{}的首都在哪里？", "请问{}的首都。")
_COLOR = ("{}是什么颜色的？", "{}的颜色是什么？", "请问{}什么颜色？")
_OPPOSITE = ("“{}”的反义词是什么？", "请说出“{}”的反义词。", "什么和“{}”相反？")
_ENGLISH = ("“{}”用英语怎么说？", "请把“{}”翻译成英语。", "“{}”的英语是什么？")

_CAPITALS = {
    "中国": "北京", "日本": "东京", "法国": "巴黎", "英国": "伦敦", "德国": "柏林", "韩国": "首尔",
}  # fmt: skip
_COLORS = {
    "天": "蓝色", "草": "绿色", "雪": "白色", "血": "红色", "夜": "黑色", "云": "白色",
    "叶子": "绿色", "海": "蓝色",
}  # fmt: skip
_OPPOSITES = {
    "大": "小", "高": "低", "长": "短", "黑": "白", "上": "下", "左": "右", "多": "少",
    "宽": "窄", "轻": "重", "好": "坏",
}  # fmt: skip
_ENGLISH_WORDS = {
    "红": "red", "白": "white", "黑": "black", "蓝": "blue", "绿": "green", "一": "one",
    "二": "two", "三": "three", "好": "good", "裙子": "dress", "鞋子": "shoe", "水": "water",
}  # fmt: skip
_CHAT = {
    "你好！我是小模型。": ("你好！", "你好，你是谁？", "你是谁？"),
    "不客气。": ("谢谢！", "谢谢你！", "多谢！"),
    "再见！": ("再见！", "明天见！", "下次见！"),
    "早上好！": ("早上好！", "早！", "你早！"),
    "一年有十二个月。": ("一年有几个月？", "一年有多少个月？", "请问一年几个月？"),
    "一周有七天。": ("一周有几天？", "一周有多少天？", "请问一周几天？"),
}


@dataclass(frozen=True)
class Fact:
    """One short answer and the phrasings of its question."""

    questions: tuple[str, ...]
    answer: str

    @property
    def held_out(self) -> int | None:
        """The index of the held-out phrasing; None for half of the facts, chosen by SHA-256."""
        first, second = hashlib.sha256("".join(self.questions).encode()).digest()[:2]
        return second % len(self.questions) if first % 2 == 0 else None


def facts() -> list[Fact]:
    """All facts, in a fixed order."""
    found = [Fact(questions, answer) for answer, questions in _CHAT.items()]
    for phrasings, answer_form, table in (
        (_ARITHMETIC, "等于{}。", _sums()),
        (_CAPITAL, "{}。", _CAPITALS),
        (_COLOR, "{}。", _COLORS),
        (_OPPOSITE, "{}。", _OPPOSITES),
        (_ENGLISH, "{}", _ENGLISH_WORDS),
    ):
        for subject, answer in table.items():
            questions = tuple(phrasing.format(subject) for phrasing in phrasings)
            found.append(Fact(questions, answer_form.format(answer)))
    return found


def training_rows() -> list[dict]:
    """Rows {"content", "summary"} for pre-training: every fact, without the held-out phrasings."""
    return [
        {"content": question, "summary": fact.answer}
        for fact in facts()
        for index, question in enumerate(fact.questions)
        if index != fact.held_out
    ]


def probe_rows() -> list[dict]:
    """Rows {"content", "summary"} of the forgetting probe: the held-out phrasings only."""
    return [
        {"content": fact.questions[fact.held_out], "summary": fact.answer}
        for fact in facts()
        if fact.held_out is not None
    ]


def _sums() -> dict[str, str]:
    """All sums up to ten, e.g. {"三加五": "八"}."""
    return {
        f"{_DIGITS[a]}加{_DIGITS[b]}": _DIGITS[a + b]
        for a in range(1, 10)
        for b in range(1, 10)
        if a + b <= 10
    }
