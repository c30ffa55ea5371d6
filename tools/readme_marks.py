"""Parts of the READMEs that a tool writes, between two marks that a reader does not see."""

from __future__ import annotations

from pathlib import Path

READMES = {"en": Path("README.md"), "zh": Path("README.zh-CN.md")}


def put(part: str, start: str, end: str, language: str = "en") -> bool:
    """Write `part` between the marks of a README; returns whether the file changed."""
    text, written = _texts(part, start, end, language)
    if written != text:
        READMES[language].write_text(written, encoding="utf-8")
    return written != text


def is_there(part: str, start: str, end: str, language: str = "en") -> bool:
    """Whether `part` is already between the marks."""
    text, written = _texts(part, start, end, language)
    return written == text


def _texts(part: str, start: str, end: str, language: str) -> tuple[str, str]:
    text = READMES[language].read_text(encoding="utf-8")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    return text, f"{before}{start}\n\n{part.strip()}\n\n{end}{after}"
