"""The project's own data: varied, separate, and shaped so that a miniature can learn from it."""

from __future__ import annotations

import itertools
import math
from itertools import islice
from random import Random
from statistics import mean

import jieba
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from glmtune.normal_form import normal_form
from glmtune.synthetic import general_part, general_qa, grammar

DEV_SEED, TRAIN_ROWS, DEV_ROWS = 42, 3000, 200


@pytest.fixture(scope="module")
def sample() -> tuple[list[dict], list[dict]]:
    return grammar.sample_rows(TRAIN_ROWS, DEV_ROWS, DEV_SEED)


@pytest.fixture(scope="module")
def items() -> list[grammar.Item]:
    rng = Random(1)
    return [grammar.draw_item(rng) for _ in range(60)]


def values_of(content: str) -> list[str]:
    return [pair.split("#")[1] for pair in content.split("*")]


def bleu_4(prediction: str, reference: str) -> float:
    smoothing = SmoothingFunction().method3
    return 100 * sentence_bleu([list(reference)], list(prediction), smoothing_function=smoothing)


def rouge_l(prediction: str, reference: str) -> float:
    jieba.setLogLevel(60)
    words = [" ".join(jieba.cut(text)) for text in (prediction, reference)]
    return 100 * Rouge().get_scores(*words)[0]["rouge-l"]["f"]


def test_an_item_is_written_in_adgens_notation() -> None:
    item = grammar.Item("裙", (("颜色", "米白"), ("风格", "简约"), ("裙长", "连衣裙")))
    assert grammar.content_string(item) == "类型#裙*颜色#米白*风格#简约*裙长#连衣裙"
    assert grammar.literal_listing(item) == "这条裙的颜色是米白，风格是简约，裙长是连衣裙。"


def test_every_text_names_every_value_in_the_order_of_the_prompt(items: list) -> None:
    for item in items:
        for text in (grammar.ad_copy(item, Random(0)), grammar.literal_listing(item)):
            places = [text.index(value) for value in item.values]
            assert places == sorted(places), text


def test_no_value_is_named_unless_it_was_asked() -> None:
    """Otherwise a text that ignores its prompt would still score in coverage."""
    words = [*grammar.OPENINGS, *grammar.CLOSINGS]
    for kind in grammar.KINDS.values():
        words += [*kind.heads, *kind.tails]
    values = {value for kind in grammar.KINDS.values() for value in kind.values}
    assert not [(word, value) for word in words for value in values if value in word]


def test_items_have_four_to_six_attributes_and_there_are_several_hundred_thousand(
    items: list,
) -> None:
    assert {len(item.values) for item in items} == {4, 5, 6}
    assert {item.type for item in items} == set(grammar.TYPES)
    assert (
        sum(
            math.prod(len(grammar.KINDS[kind].values) for kind in kinds)
            for garment in grammar.TYPES.values()
            for size in (3, 4, 5)  # beside the type
            for kinds in itertools.combinations(garment.kinds, size)
        )
        > 500_000
    )


def test_dev_is_not_in_train_and_no_prompt_repeats(sample: tuple) -> None:
    train, dev = ([row["content"] for row in rows] for rows in sample)
    assert (len(train), len(dev)) == (TRAIN_ROWS, DEV_ROWS)
    assert len({*train, *dev}) == TRAIN_ROWS + DEV_ROWS


def test_train_of_one_seed_and_dev_of_another_stay_apart(sample: tuple) -> None:
    other_train, _ = grammar.sample_rows(TRAIN_ROWS, 1, DEV_SEED + 1)
    dev = {row["content"] for row in sample[1]}
    assert not dev & {row["content"] for row in other_train}


def test_a_seed_decides_the_rows_and_more_rows_keep_the_first(sample: tuple) -> None:
    assert grammar.sample_rows(50, 20, DEV_SEED) == (sample[0][:50], sample[1][:20])
    assert grammar.sample_rows(50, 20, DEV_SEED + 1)[0] != sample[0][:50]


def test_references_are_short_and_hardly_repeat(sample: tuple) -> None:
    summaries = [row["summary"] for row in sample[0]]
    assert len(set(summaries)) > 0.99 * TRAIN_ROWS
    assert 40 <= min(map(len, summaries)) <= max(map(len, summaries)) <= 90


def test_the_characters_are_few_enough_for_a_miniature(sample: tuple) -> None:
    garments = set("".join(row["content"] + row["summary"] for row in sample[0]))
    general = general_qa.training_rows() + general_qa.probe_rows()
    characters = garments | set("".join(row["content"] + row["summary"] for row in general))
    assert len(characters - garments) <= 150
    assert len(characters) <= 350


def test_ad_copy_scores_well_above_a_listing_and_above_another_items_copy(items: list) -> None:
    """Tuning must have something to gain, and copying one template must not be it."""
    rng = Random(2)
    references = [grammar.ad_copy(item, rng) for item in items]
    answers = {
        "tuned": [grammar.ad_copy(item, rng) for item in items],
        "listing": [grammar.literal_listing(item) for item in items],
        "template": references[1:] + references[:1],
    }
    for score in (bleu_4, rouge_l):
        mean_of = {name: mean(map(score, texts, references)) for name, texts in answers.items()}
        assert mean_of["tuned"] - mean_of["listing"] >= 10, (score.__name__, mean_of)
        assert mean_of["tuned"] - mean_of["template"] >= 10, (score.__name__, mean_of)


def test_pretraining_mixes_the_three_kinds_of_answers_in_their_shares() -> None:
    rows = list(grammar.pretraining_rows(2000, literal_share=0.6, general_share=0.1, seed=1))
    general = [row for row in rows if "#" not in row["content"]]
    literal = [row for row in rows if "#" in row["content"] and "是" in row["summary"]]
    assert len(rows) == 2000
    assert len(general) / 2000 == pytest.approx(0.1, abs=0.03)
    assert len(literal) / 2000 == pytest.approx(0.6, abs=0.03)


def test_pretraining_never_shows_a_dev_item_even_when_nobody_names_it(sample: tuple) -> None:
    """A miniature is built without a look at the data set, so the split is the grammar's rule."""
    rows = [row["content"] for row in grammar.pretraining_rows(2000, 0.6, 0.0, seed=DEV_SEED)]
    assert not any(grammar.is_dev(content) for content in rows)
    assert all(grammar.is_dev(row["content"]) for row in sample[1])


def test_values_are_set_off_as_wholes_and_words_that_hold_no_value_stay() -> None:
    text = "颜色#米白*裙长#连衣裙，长度选了短裙。"
    assert grammar.set_off_values(text, "|") == "颜色#|米白|*裙长#|连衣裙|，长度选了|短裙|。"


def test_pretraining_is_decided_by_its_seed() -> None:
    first, again, other = (
        list(islice(grammar.pretraining_rows(10**6, 0.6, 0.1, seed), 50)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_every_probed_fact_is_learned_in_other_words_and_no_question_has_two_answers() -> None:
    training, probe = general_qa.training_rows(), general_qa.probe_rows()
    learned = {row["content"]: row["summary"] for row in training}
    assert len({row["content"] for row in training + probe}) == len(training) + len(probe)
    assert len(probe) >= 30
    for row in probe:
        assert row["content"] not in learned
        assert row["summary"] in learned.values()


def test_general_answers_are_right() -> None:
    answers = {row["content"]: row["summary"] for row in general_qa.training_rows()}
    answers |= {row["content"]: row["summary"] for row in general_qa.probe_rows()}
    assert answers["三加五等于几？"] == "等于八。"
    assert answers["法国的首都是哪里？"] == "巴黎。"
    assert answers["“大”的反义词是什么？"] == "小。"


def _bare(text: str) -> str:
    """A text as the probe compares it: normalised, without its last mark."""
    return normal_form(text).rstrip("。.!?").casefold()


def test_the_part_to_mix_in_shares_no_question_and_no_answer_with_the_probe() -> None:
    """Else a mixture would teach the probe's answers, and the probe would prove nothing."""
    part, probe = general_part.general_rows(), general_qa.probe_rows()
    for key in ("content", "summary"):
        assert not {_bare(row[key]) for row in part} & {_bare(row[key]) for row in probe}


def test_the_part_to_mix_in_is_of_every_kind_and_known_from_pretraining() -> None:
    """Miniatures that were taught new facts by a mixture forgot more."""
    answers = {row["content"]: row["summary"] for row in general_part.general_rows()}
    learned = {row["content"]: row["summary"] for row in general_qa.training_rows()}
    assert answers.items() < learned.items()
    assert len(answers) >= 60
    for kind in ("加", "首都", "颜色", "反义词", "英语", "一周"):
        assert any(kind in question for question in answers)
