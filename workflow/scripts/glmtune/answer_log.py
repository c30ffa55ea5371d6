"""Answers written down as they come, so that a killed run does not give them again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self


class Answer(Protocol):
    """What is written down of a generated text."""

    @property
    def text(self) -> str:
        """What a person reads."""

    @property
    def decoded(self) -> str:
        """What the vocabulary decodes."""

    @property
    def finished(self) -> bool:
        """Whether it ended by itself."""


class AnswerLog:
    """A JSON Lines file {"number", "predict", "decoded", "finished"} with all answers.

    `answers` holds those that the file had and those that are appended.

    The line that a kill cut off is dropped. The file is on the disk when `append` returns.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[int, dict[str, Any]] = {}
        whole = 0
        if path.is_file():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            for line in content[:whole].splitlines():
                answer = json.loads(line)
                self.answers[answer.pop("number")] = answer
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(whole)

    def append(self, answers: Mapping[int, Answer]) -> None:
        """Write down the answers to the questions of these numbers."""
        for number, answer in answers.items():
            texts = {"predict": answer.text, "decoded": answer.decoded}
            kept = texts | {"finished": answer.finished}
            line = json.dumps({"number": number, **kept}, ensure_ascii=False)
            self._file.write(line.encode("utf-8") + b"\n")
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
