"""Answers are written down as they come; a killed run's are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtune.generation.answer_log import Answer, AnswerLog

DONE = {"finished": True, "near_tie": False}


def text(shown: str, decoded: str = "", *, finished: bool = True, near_tie: bool = False) -> Answer:
    return Answer(shown, decoded, finished, near_tie)


def test_what_was_written_down_is_found_again(tmp_path: Path) -> None:
    with AnswerLog(tmp_path / "work" / "answers.jsonl") as log:
        log.append({3: text("白色的\u2028裙子\n好", "白色的 裙子"), 0: text("", finished=False)})
        log.append({1: text("b", near_tie=True)})
    with AnswerLog(tmp_path / "work" / "answers.jsonl") as again:
        assert again.answers == {
            3: {"predict": "白色的\u2028裙子\n好", "decoded": "白色的 裙子", **DONE},
            0: {"predict": "", "decoded": "", **DONE, "finished": False},
            1: {"predict": "b", "decoded": "", **DONE, "near_tie": True},
        }


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_a_kill_cut_off_is_dropped_and_written_anew(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.append({0: text("甲"), 1: text("乙")})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with AnswerLog(path) as log:
        assert list(log.answers) == [0]
        log.append({1: text("乙")})
    assert path.read_bytes() == whole


def damage_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.98])
def test_a_line_with_a_changed_byte_is_answered_again(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.append({0: text("甲"), 1: text("乙"), 2: text("丙")})
        before = dict(log.answers)
    first, second, _ = path.read_bytes().splitlines(keepends=True)
    damage_byte(path, len(first) + int(share * (len(second) - 1)))
    with AnswerLog(path) as log:
        assert log.answers == {0: before[0], 2: before[2]}
        assert f"{path}: regenerating 1 damaged answers" in capsys.readouterr().err
        log.append({1: text("乙")})
    with AnswerLog(path) as log:
        assert log.answers == before


@pytest.mark.parametrize("content", [b"\0" * 60 + b"\n", b"[]\n", b"1\n", b"{}\n", b"\xff\n\n"])
def test_lines_that_are_no_answers_are_left_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with AnswerLog(path) as log:
        assert log.answers == {}
