"""Parts of README.md that a tool writes, between two marks that a reader does not see."""

from __future__ import annotations

from pathlib import Path

README = Path("README.md")


def put(part: str, start: str, end: str) -> bool:
    """Write `part` between the marks; returns whether the file changed."""
    text, written = _texts(part, start, end)
    if written != text:
        README.write_text(written, encoding="utf-8")
    return written != text


def is_there(part: str, start: str, end: str) -> bool:
    """Whether `part` already stands between the marks."""
    text, written = _texts(part, start, end)
    return written == text


def _texts(part: str, start: str, end: str) -> tuple[str, str]:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    return text, f"{before}{start}\n\n{part.strip()}\n\n{end}{after}"
