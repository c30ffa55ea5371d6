"""A page in Chinese names the same commands, keys and files as the English one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHINESE = sorted((ROOT / "docs" / "zh").glob("*.md"))
PAIRS = {
    ROOT / "README.md": ROOT / "README.zh-CN.md",
    **{ROOT / "docs" / path.name: path for path in CHINESE},
}
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOREIGN_MARKS = re.compile(r".*(?:[「」『』]|\d %|[，。；：、\u4e00-\u9fff]\n[\u4e00-\u9fff]).*")
COMMENT = re.compile(r"\s+#.*")


def commands(document: str) -> list[str]:
    """The lines of all code blocks, without comments, which are in the page's language.

    Example: "```\\nmake report   # first\\n```" -> ["make report"]
    """
    lines = [line for block in FENCE.findall(document) for line in block.splitlines()]
    return [COMMENT.sub("", line).rstrip() for line in lines]


def names(document: str) -> set[str]:
    """Everything in backticks outside of code blocks: keys, files, options, messages."""
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", document))
    return {" ".join(span.split()) for span in spans}


def test_a_missing_command_or_name_would_be_found() -> None:
    english = "`lr` in `a.py`\n```\nmake report   # first\n```\n"
    chinese = "`a.py` 里的 `lr`\n```\nmake report   # 第一次\n```\n"
    assert commands(english) == commands(chinese) == ["make report"]
    assert names(english) == names(chinese) == {"lr", "a.py"}
    assert names(english) != names(chinese.replace("`lr`", "学习率"))


@pytest.mark.parametrize("page", PAIRS, ids=lambda path: path.name)
def test_a_page_leads_to_itself_in_the_other_language(page: Path) -> None:
    chinese = PAIRS[page]
    to_chinese = chinese.relative_to(page.parent).as_posix()
    to_english = page.name if chinese.parent == ROOT else f"../{page.name}"
    for path, links in (
        (page, f"English | [中文]({to_chinese})"),
        (chinese, f"[English]({to_english}) | 中文"),
    ):
        assert path.read_text(encoding="utf-8").splitlines()[1:4] == ["", links, ""]


@pytest.mark.parametrize("page", PAIRS.values(), ids=lambda path: path.name)
def test_chinese_has_the_marks_of_the_mainland(page: Path) -> None:
    """Curly quotes, no gap before a percent sign, and no line break, which would be a gap, too."""
    assert FOREIGN_MARKS.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "page", ["tutorial", "troubleshooting", "data", "metrics", "params", "cluster"]
)
def test_the_pages_that_users_need_are_there_in_chinese(page: str) -> None:
    assert ROOT / "docs" / "zh" / f"{page}.md" in CHINESE


@pytest.mark.parametrize("page", PAIRS, ids=lambda path: path.name)
def test_both_languages_have_the_same_commands_and_names(page: Path) -> None:
    english, chinese = (path.read_text(encoding="utf-8") for path in (page, PAIRS[page]))
    assert commands(chinese) == commands(english)
    assert names(chinese) == names(english)
    assert len(re.findall("[\u4e00-\u9fff]", chinese)) > 100
