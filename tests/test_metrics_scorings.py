"""Every public definition, computed by hand and compared with its original packages."""

from __future__ import annotations

import math
from random import Random

import pytest

from glmtune.metrics.pairs import TextPair, basic_tokens, segment
from glmtune.metrics.rouge import rouge_chinese, rouge_package
from glmtune.metrics.scorings import (
    METRICS,
    SCORINGS,
    finetune_demo,
    llamafactory,
    mindformers,
    ms_swift,
    paddle_counts,
    paddle_scores,
    ssbuild,
    thudm,
    yongzhuo,
)

SAME = "这件白色的裙子很美"
EIGHTH_ROOT = (1 / 8) ** (1 / 4)  # two tokens, both correct: precisions 1, 1, 1/2, 1/4


def scores_of(name: str, prediction: str, label: str) -> dict[str, float | None]:
    scoring = SCORINGS[name]
    part = scoring.of_row(TextPair(prediction, label))
    return scoring.of_file([] if part is None else [part])


@pytest.mark.parametrize("name", SCORINGS)
def test_identical_texts_have_the_best_score(name: str) -> None:
    best = 100 if name in ("thudm", "llamafactory", "mindformers", "ms_swift") else 1
    expected = dict.fromkeys(METRICS, float(best))
    expected |= {"bleu-4": 100.0} if name == "ssbuild" else {}
    if name == "finetune_demo":
        expected = dict.fromkeys(METRICS, 100.0) | {"bleu-4": 1.0}
    for score, value in scores_of(name, SAME, SAME).items():
        if value is not None:
            assert value == pytest.approx(expected[score], rel=1e-7)


@pytest.mark.parametrize("name", SCORINGS)
@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_a_blank_text_on_either_side_scores_zero_or_is_left_out(name: str, blank: str) -> None:
    for prediction, label in [(blank, SAME), (SAME, blank)]:
        scores = scores_of(name, prediction, label).values()
        # Without smoothing, PaddleNLP's zero is the smallest float.
        assert all(value is None or value == pytest.approx(0, abs=1e-70) for value in scores)


@pytest.mark.parametrize("name", SCORINGS)
@pytest.mark.parametrize("odd", [".", "。", "...", "a", "\ufffd", "裙" * 3000])
def test_no_text_breaks_a_definition(name: str, odd: str) -> None:
    for pair in [(odd, SAME), (SAME, odd), (odd, odd)]:
        assert all(math.isfinite(v) for v in scores_of(name, *pair).values() if v is not None)


# --- THUDM and its variants -----------------------------------------------------------------------


def test_rouge_is_the_f1_of_shared_words() -> None:
    # Words 我 很 喜欢 猫 against 我 喜欢 狗: 2 of 4 and 2 of 3 shared, no bigram.
    scores = thudm(TextPair("我很喜欢猫", "我喜欢狗"))
    assert scores["rouge-1"] == pytest.approx(100 * 4 / 7, abs=1e-4)
    assert scores["rouge-2"] == 0
    assert scores["rouge-l"] == pytest.approx(100 * 4 / 7, abs=1e-4)


def test_bleu_counts_characters_and_smooths_by_halves() -> None:
    # 白裙子 against 白裙子美: all 3, 2 and 1 n-grams match, the missing 4-gram is smoothed to 1/2;
    # one character short: exp(1 - 4/3).
    expected = 100 * math.exp(1 - 4 / 3) * (1 / 2) ** (1 / 4)
    assert thudm(TextPair("白裙子", "白裙子美"))["bleu-4"] == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(60.2529, abs=1e-4)


def test_row_scores_have_at_most_four_decimals() -> None:
    scores = thudm(TextPair("这件白色的裙子很美", "这条裙子是白色的，美极了"))
    assert all(scores[name] == round(scores[name], 4) for name in METRICS)


def test_llamafactory_differs_from_thudm_at_blank_texts_only() -> None:
    pair = TextPair("这件白色的裙子很美", "这条裙子是白色的，美极了")
    assert llamafactory(pair) == thudm(pair)
    blank = TextPair("   ", "    ")
    assert thudm(blank)["bleu-4"] == 0 < llamafactory(blank)["bleu-4"]
    assert llamafactory(blank)["rouge-1"] == 0


def test_mindformers_skips_blank_answers() -> None:
    assert mindformers(TextPair(" ", SAME)) is None
    assert mindformers(TextPair(SAME, SAME)) == thudm(TextPair(SAME, SAME))
    rows = [mindformers(TextPair(text, SAME)) for text in (SAME, "")]
    counted = [each for each in rows if each is not None]
    assert SCORINGS["mindformers"].of_file(counted)["bleu-4"] == 100


# --- others ---------------------------------------------------------------------------------------


def test_finetune_demo_counts_words_from_zero_to_one_and_strips() -> None:
    assert segment("白色裙子") == ("白色", "裙子")
    scores = finetune_demo(TextPair(" 白色裙子\n", "白色裙子"))
    assert scores["bleu-4"] == pytest.approx(EIGHTH_ROOT)
    assert scores["rouge-l"] == 100


def test_ms_swift_counts_words_and_skips_blanks() -> None:
    scores = ms_swift(TextPair("白色裙子", "白色 裙子 "))
    assert scores is not None
    assert scores["bleu-4"] == pytest.approx(EIGHTH_ROOT)
    assert scores["rouge-l"] == pytest.approx(1)
    assert SCORINGS["ms_swift"].row_scores(scores)["bleu-4"] == 100 * scores["bleu-4"]
    assert ms_swift(TextPair(" ", "文")) is None
    assert ms_swift(TextPair("文", "")) is None


def test_the_package_rouge_counts_distinct_words() -> None:
    # 好/很/好 against 好/好: ROUGE-L of distinct words 2/3, of sequences 4/5.
    assert rouge_package("好 很 好", "好 好")["rouge-l"] == pytest.approx(2 / 3)
    assert rouge_chinese("好 很 好", "好 好")["rouge-l"] == pytest.approx(4 / 5)


def test_ssbuild_smooths_as_sacrebleu() -> None:
    scores = ssbuild(TextPair("白裙子美", "白裙子长"))
    assert scores["bleu-4"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4))
    assert scores["bleu-4"] == pytest.approx(59.4604, abs=1e-4)
    assert scores["rouge-l"] == pytest.approx(3 / 4)
    assert set(scores) == {"bleu-4", "rouge-l"}
    assert ssbuild(TextPair("白裙子", "白裙子"))["bleu-4"] == 0  # no 4-gram


def test_yongzhuo_also_counts_spaces() -> None:
    assert yongzhuo(TextPair("白裙", "白色"))["bleu-4"] == pytest.approx(0.240281, abs=1e-6)
    # Only the prediction is lowercased.
    assert yongzhuo(TextPair("T恤", "T恤"))["rouge-1"] == pytest.approx(0.5)
    assert yongzhuo(TextPair("t 恤[EOP]", "t恤"))["rouge-1"] == pytest.approx(1)


def test_paddle_counts_the_whole_file() -> None:
    rows = [
        paddle_counts(TextPair("白裙子美", "白裙子美")),
        paddle_counts(TextPair("长裤", "长裙")),
    ]
    scores = paddle_scores(rows)
    assert scores["bleu-4"] == pytest.approx((5 / 6 * 3 / 4) ** (1 / 4))
    assert scores["rouge-l"] is None
    silent = paddle_scores([*rows, paddle_counts(TextPair("", "长裙"))])
    assert silent["bleu-4"] == pytest.approx(math.exp(1 - 8 / 6) * (5 / 6 * 3 / 4) ** (1 / 4))


def test_paddle_does_not_smooth() -> None:
    bleu = paddle_scores([paddle_counts(TextPair("白裙子长", "白裙子美"))])["bleu-4"]
    assert bleu is not None
    assert bleu < 1e-70


def test_basic_tokens_are_characters_and_whole_foreign_words() -> None:
    assert basic_tokens("白色T恤，iPhone7!\t$5") == [*"白色t恤，", "iphone7", "!", "$", "5"]
    assert basic_tokens("Café\u200b \ufffd") == ["cafe"]


# --- the packages themselves ----------------------------------------------------------------------


def random_texts(seed: int, count: int) -> list[tuple[str, str]]:
    rng = Random(seed)
    signs = "ab cd。！？”’，.…\n好你我\u3000 \t"

    def text() -> str:
        return "".join(rng.choice(signs) for _ in range(rng.choice([1, 2, 3, 5, 10, 30, 60])))

    return [(text(), text()) for _ in range(count)]


@pytest.mark.parametrize(
    ("package", "ours"), [("rouge", rouge_package), ("rouge_chinese", rouge_chinese)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
def test_rouge_equals_the_package_to_the_last_digit(package: str, ours: object) -> None:
    assert callable(ours)
    counter = pytest.importorskip(package).Rouge()
    for pair in random_texts(1, 400):
        for prediction, label in (pair, tuple(map(" ".join, pair))):
            try:
                theirs = counter.get_scores(prediction, label)[0]
            except ValueError:
                with pytest.raises(ValueError, match="no ROUGE"):
                    ours(prediction, label)
            else:
                expected = {name: value["f"] for name, value in theirs.items()}
                assert ours(prediction, label) == expected, (prediction, label)


def test_ssbuild_equals_sacrebleu_to_the_last_digit() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    counter = metrics.BLEU(effective_order=False)
    metrics.bleu.sacrelogger.disabled = True  # it recommends another order for each sentence
    for prediction, label in random_texts(2, 400):
        theirs = counter.sentence_score(" ".join(prediction), [" ".join(label)]).score
        assert ssbuild(TextPair(prediction, label))["bleu-4"] == theirs, (prediction, label)
