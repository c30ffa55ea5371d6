"""Refuse phrases that have a plainer word in tools/word_list.txt.

python tools/word_list.py              every file in SCOPE
python tools/word_list.py FILE …       these files, for pre-commit
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT / "tools" / "word_list.txt"
# What is checked: documents, code, and the parameters with their comments.
SCOPE = (
    *("*.md", "docs/*.md", ".github/**/*.md", ".github/**/*.yml"),
    *("workflow/**/*.py", "tools/*.py", "Snakefile", "Makefile", "params.yaml", "presets/*.yaml"),
)
# Written by a tool from code, which is where to change a word.
GENERATED = {"docs/params.md"}
# Markdown that quotes: code blocks, code spans, and the targets of links.
QUOTED = re.compile(r"^```.*?^```|`+[^`]+`+|^    .+?$|\]\([^)]*\)", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Print each finding as file:line: phrase -> better; 1 if there is one."""
    files = [Path(name).resolve() for name in sys.argv[1:]] or files_in_scope()
    found = [line for file in files for line in findings(file)]
    print("\n".join(found) or f"word list: nothing to change in {len(files)} files")
    return int(bool(found))


def files_in_scope() -> list[Path]:
    """Every file that SCOPE names, sorted."""
    found = {path for pattern in SCOPE for path in ROOT.glob(pattern)}
    return sorted(p for p in found if p.relative_to(ROOT).as_posix() not in GENERATED)


def findings(file: Path) -> Iterator[str]:
    """A line for each phrase of the list that a file has."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = QUOTED.sub(_blank, text)
    name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    for wrong, right in word_list().items():
        for match in phrase(wrong).finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {wrong!r} -> {right}"


def word_list() -> dict[str, str]:
    """The phrases to refuse, with what to write instead."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" -> ", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def phrase(words: str) -> re.Pattern[str]:
    """Whole words in any case; a line of a comment may break between them."""
    gap = r"\s+(?:#\s*)?"
    return re.compile(rf"\b{gap.join(map(re.escape, words.split()))}\b", re.IGNORECASE)


def _blank(match: re.Match[str]) -> str:
    """As many lines, with nothing on them."""
    return "\n" * match[0].count("\n")


if __name__ == "__main__":
    sys.exit(main())
