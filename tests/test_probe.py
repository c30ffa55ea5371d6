"""The forgetting probe: correct answers, answers turned into ads, overlap."""

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
        ("这款 裙子\n很美。", True),  # whitespace is ignored
        ("很美。", False),  # shorter than an n-gram
        ("", False),
    ],
)
def test_an_answer_imitates_training_if_half_of_its_n_grams_do(answer: str, covered: bool) -> None:
    assert STYLE.covers(answer) is covered


def test_an_ad_that_contains_the_expected_character_is_not_correct() -> None:
    verdict = judge("这款小巧的白色手提包，很有趣味。", "小。", ADVERTS, "小。")
    assert (verdict.is_correct, verdict.imitates_training) == (False, True)


def test_an_answer_is_no_imitation_if_the_untuned_one_reads_the_same() -> None:
    untuned = "好看的裙子让人心动。"
    verdict = judge("好看的裙子让人心动，红色。", "红色。", ADVERTS, untuned)
    assert (verdict.is_correct, verdict.imitates_training) == (True, False)
    without = judge("好看的裙子让人心动，红色。", "红色。", ADVERTS)
    assert (without.is_correct, without.imitates_training, without.overlap) == (False, True, None)


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
def test_an_answer_that_contains_the_expected_one_is_correct(
    answer: str, expected: str, right: bool
) -> None:
    assert judge(answer, expected, STYLE).is_correct is right


@pytest.mark.parametrize("row", probe_rows(), ids=lambda row: row["content"])
def test_every_question_of_the_project_has_correct_and_wrong_answers(row: dict) -> None:
    assert judge(row["summary"], row["summary"], ADVERTS).is_correct
    assert not judge("不知道", row["summary"], ADVERTS).is_correct


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
