"""What is called forgetting: right answers, answers turned into adverts, overlap."""

from __future__ import annotations

import pytest

from glmtune.metrics.probe import judge, overlap, style_of
from glmtune.synthetic.general_qa import probe_rows

STYLE = style_of(["这款裙子很美。"])  # 这款裙子, 款裙子很, 裙子很美, 子很美。
ADVERTS = style_of(["这款小巧的白色手提包，很有趣味。", "好看的裙子让人心动。"])


@pytest.mark.parametrize(
    ("answer", "covered"),
    [
        ("这款裙子很美。", True),
        ("这款裙子很好。", True),  # 2 of 4
        ("裙子很好看。", False),  # 0 of 3
        ("这款 裙子\n很美。", True),  # white space is nothing
        ("很美。", False),  # shorter than a run
        ("", False),
    ],
)
def test_an_answer_reads_like_training_if_half_of_its_runs_do(answer: str, covered: bool) -> None:
    assert STYLE.covers(answer) is covered


def test_an_advert_that_holds_the_expected_character_is_not_right() -> None:
    verdict = judge("这款小巧的白色手提包，很有趣味。", "小。", ADVERTS, "小。")
    assert (verdict.is_right, verdict.leaks_style) == (False, True)


def test_an_answer_is_not_called_turned_where_the_untuned_one_reads_the_same() -> None:
    untuned = "好看的裙子让人心动。"
    verdict = judge("好看的裙子让人心动，红色。", "红色。", ADVERTS, untuned)
    assert (verdict.is_right, verdict.leaks_style) == (True, False)
    without = judge("好看的裙子让人心动，红色。", "红色。", ADVERTS)
    assert (without.is_right, without.leaks_style, without.overlap) == (False, True, None)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("一加七等于八，对吗？", "等于八。", True),
        ("等于九。", "等于八。", False),
        ("It is Water.", "water", True),
        ("首都是伦敦！", "伦敦。", True),
        ("", "伦敦。", False),
    ],
)
def test_right_is_an_answer_that_holds_the_expected_one(
    answer: str, expected: str, right: bool
) -> None:
    assert judge(answer, expected, STYLE).is_right is right


@pytest.mark.parametrize("row", probe_rows(), ids=lambda row: row["content"])
def test_every_question_of_the_project_can_be_answered_rightly_and_wrongly(row: dict) -> None:
    assert judge(row["summary"], row["summary"], ADVERTS).is_right
    assert not judge("不知道", row["summary"], ADVERTS).is_right


@pytest.mark.parametrize(
    ("answer", "untuned", "percent"),
    [
        ("等于八。", "等于九。", 75),  # 3 of 4 characters in order
        ("等于八。", "等于 八。", 100),
        ("蓝色", "伦敦。", 0),
        ("", "", 100),
        ("", "伦敦。", 0),
        ("伦敦。", " ", 0),
    ],
)
def test_overlap_is_rouge_l_over_characters(answer: str, untuned: str, percent: float) -> None:
    assert overlap(answer, untuned) == pytest.approx(percent, abs=1e-4)
