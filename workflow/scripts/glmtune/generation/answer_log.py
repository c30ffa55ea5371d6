"""A log of answers, so that a resumed run does not generate them again."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self


@dataclass(frozen=True)
class Answer:
    """A generated text."""

    text: str
    """As chat() shows it to a person."""
    decoded: str
    """As the vocabulary decodes its ids, white space at both ends removed."""
    finished: bool
    """False: cut at max_new_tokens."""
    near_tie: bool = False
    """Whether two tokens were almost equally good at some step."""


class AnswerLog:
    """A JSON Lines file {"number", "predict", "decoded", "finished", "crc32"} with all answers.

    `answers` holds those that the file had and those that are appended, by number.
    The line that a kill cut off is dropped, and so is one whose bytes the disk changed: such
    answers are given again. The file is on the disk when `append` returns.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[int, dict[str, Any]] = {}
        whole = 0
        if path.is_file():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            found = [_checked(line) for line in content[:whole].splitlines()]
            for row in filter(None, found):
                self.answers[row.pop("number")] = row
            if None in found:
                print(f"{path}: regenerating {found.count(None)} damaged answers", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(whole)

    def append(self, answers: Mapping[int, Answer]) -> None:
        """Log answers, by the numbers of their prompts."""
        for number, answer in answers.items():
            texts = {"predict": answer.text, "decoded": answer.decoded}
            kept = texts | {"finished": answer.finished, "near_tie": answer.near_tie}
            row = {"number": number, **kept}
            self._file.write(_encoded(row | {"crc32": zlib.crc32(_encoded(row))}) + b"\n")
            self.answers[number] = kept
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _encoded(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


def _checked(line: bytes) -> dict[str, Any] | None:
    """The row of a line, without its checksum; None if the line is damaged."""
    try:
        row = json.loads(line)
        checksum = row.pop("crc32")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return row if checksum == zlib.crc32(_encoded(row)) else None
