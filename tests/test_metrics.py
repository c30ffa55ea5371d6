"""Scores of a file, compared with the official code's, and statistics of the texts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from glmtune.errors import ParamsError
from glmtune.metrics.attribute_values import distinct_values, requested_attributes
from glmtune.metrics.pairs import TextPair
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS, ms_swift
from glmtune.metrics.statistics import STATISTICS
from glmtune.metrics.summary import score_predictions
from glmtune.synthetic import grammar

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"
PROMPT = "类型#裙*颜色#白色*图案#条纹*风格#白色"


def row(predict: str, labels: str = "文", **more: Any) -> dict[str, Any]:
    return {"predict": predict, "labels": labels, **more}


def of_row(*args: Any, **more: Any) -> dict[str, Any]:
    return score_predictions([row(*args, **more)]).rows[0]


def scores_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(score_predictions(rows).rows)


def of_file(*rows: dict[str, Any], protocol: str = "glmtune") -> dict[str, Any]:
    return score_predictions(rows, protocol).summary


def golden_rows(reference: Path) -> list[dict[str, Any]]:
    return json.loads((reference / "metrics/metrics_golden.json").read_text("utf-8"))["rows"]


# --- the official code ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "key"), [("thudm", "ptuning_main"), ("finetune_demo", "finetune_hf")]
)
def test_scores_equal_the_official_code(reference: Path, protocol: str, key: str) -> None:
    crashed = dict.fromkeys(METRICS, 0.0)
    golden = golden_rows(reference)
    ours = score_predictions([row(each["prediction"], each["label"]) for each in golden], protocol)
    for scores, each in zip(ours.rows, golden, strict=True):
        expected = crashed if "error" in each[key] else {name: each[key][name] for name in METRICS}
        assert {name: scores[name] for name in METRICS} == expected, each["kind"]


def test_means_equal_the_official_code(reference: Path) -> None:
    golden = json.loads((reference / "metrics/metrics_golden.json").read_text("utf-8"))
    rows = [
        row(each["prediction"], each["label"])
        for each in golden["rows"]
        if "error" not in each["ptuning_main"]
    ]
    means = of_file(*rows)
    expected = golden["mean_ptuning_main_over_non_crashing"]
    assert {name: means[name] for name in METRICS} == expected


def test_means_equal_those_of_each_public_code_to_the_last_digit() -> None:
    """numpy adds pairwise, a loop sequentially; the exact sum is neither."""
    numpy = pytest.importorskip("numpy")
    rng = Random(17)
    texts = [grammar.ad_copy(grammar.draw_item(rng), rng) for _ in range(151)]
    rows = [row(ours, theirs) for ours, theirs in zip(texts, texts[1:], strict=False)]
    differ = set()
    for name in set(PROTOCOLS) - {"paddle"}:
        scores = score_predictions(rows, name)
        for score in METRICS:
            column = [value for each in scores.rows if (value := each[score]) is not None]
            if not column or name == "ms_swift":  # whose rows are shown on another scale
                continue
            looped = 0.0
            for value in column:
                looped += value
            expected = float(numpy.mean(column))
            if name == "yongzhuo":
                expected = round(looped / len(column), 4)
            assert scores.summary[score] == expected
            if expected != math.fsum(column) / len(column):
                differ.add(name)
    assert differ >= {"thudm", "finetune_demo", "ssbuild", "yongzhuo"}


def test_ms_swift_rounds_the_mean_percentage_to_six_decimals() -> None:
    rows = [row("白色的裙子", "白色的长裙子"), row("裙子", "裙子很美"), row("蓝裤", "蓝色的裤子")]
    fractions = [ms_swift(TextPair(each["predict"], each["labels"])) for each in rows]
    summary = of_file(*rows, protocol="ms_swift")
    for score in METRICS:
        total = 0.0
        for each in fractions:
            assert each is not None
            total += each[score]
        assert summary[score] == round(total / 3 * 100, 6)


# --- one file, every protocol ---------------------------------------------------------------------


def test_every_protocol_is_computed_whichever_the_headline_uses() -> None:
    rows = [row("白色的裙子很美", "这条裙子是白色的"), row("", "文")]
    summaries = {name: of_file(*rows, protocol=name) for name in PROTOCOLS}
    for name, summary in summaries.items():
        assert summary["protocols"] == summaries["glmtune"]["protocols"]
        assert list(summary["protocols"]) == list(PROTOCOLS)
        headline = summary["protocols"][name]
        assert {key: summary[key] for key in METRICS} == {key: headline[key] for key in METRICS}
        assert summary["rows"] == 2
    assert summaries["mindformers"]["protocols"]["mindformers"]["rows"] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_row_has_its_headline_scores_or_none(protocol: str) -> None:
    scores = score_predictions([row("白色的裙子", "白色的裙子")] * 2 + [row("")], protocol)
    summary = scores.summary
    for name in METRICS:
        column = [each[name] for each in scores.rows]
        known = [value for value in column if value is not None]
        if protocol == "paddle" or summary[name] is None:
            assert not known
        else:
            # yongzhuo's mean has four decimals, ms-swift's six.
            assert sum(known) / len(known) == pytest.approx(summary[name], abs=5e-5)


def test_rows_beyond_the_first_fifty_have_no_finetune_demo_score() -> None:
    scores = score_predictions([row("白色的裙子", "白色的裙子")] * 50 + [row("")], "finetune_demo")
    assert scores.summary["protocols"]["finetune_demo"]["rows"] == 50
    assert scores.summary["rouge-l"] == 100
    assert scores.rows[49]["rouge-l"] == 100
    assert scores.rows[50]["rouge-l"] is None
    assert scores.summary["empty"] == pytest.approx(100 / 51)


def test_every_score_of_a_blank_file_is_zero_or_unknown() -> None:
    summary = of_file(row(""), row(" ", ""))
    for scores in summary["protocols"].values():
        assert {scores[name] for name in METRICS} <= {0.0, None}
    assert summary["protocols"]["ms_swift"] == {"rows": 0, **dict.fromkeys(METRICS)}


def test_the_numbers_do_not_depend_on_the_number_of_processes() -> None:
    rng = Random(3)
    texts = [grammar.ad_copy(grammar.draw_item(rng), rng) for _ in range(41)]
    rows = [row(ours, theirs) for ours, theirs in zip(texts, texts[1:], strict=False)]
    assert score_predictions(rows, workers=2) == score_predictions(rows)


def test_an_unknown_protocol_lists_the_known_ones() -> None:
    with pytest.raises(ParamsError, match="'glue'; choose from glmtune, thudm, llamafactory"):
        score_predictions([], "glue")


def test_importing_metrics_loads_no_heavy_package() -> None:
    heavy = {"jieba", "nltk", "rouge_chinese", "torch", "transformers", "numpy"}
    code = f"import sys, glmtune.metrics; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- statistics -----------------------------------------------------------------------------------


def test_attribute_recall_counts_each_requested_value_once() -> None:
    (attributes,) = requested_attributes([PROMPT])
    assert distinct_values(attributes or []) == ("裙", "白色", "条纹")
    recall = of_row("白色的裙子", prompt=PROMPT)["attribute-recall"]
    assert recall == pytest.approx(200 / 3)
    assert of_row("", prompt=PROMPT)["attribute-recall"] == 0.0


@pytest.mark.parametrize(
    "prompt",
    [
        "[Round 1]\n\n问：类型#裙*颜色#白色\n\n答：",
        "[gMASK]sop<|user|> \n 类型#裙*颜色#白色<|assistant|>",
        "Human: 类型#裙*颜色#白色\nAssistant:",
    ],
)
def test_values_are_found_in_a_prompt_inside_a_chat_template(prompt: str) -> None:
    (attributes,) = requested_attributes([prompt])
    assert distinct_values(attributes or []) == ("裙", "白色")


@pytest.mark.parametrize(
    "prompt",
    ["", "你好", "类型#裙*颜色", "类型#", "#裙", "类型#裙*", "a#b#c", "类型#裙\n类型#裤"],
)
def test_other_prompts_have_no_attribute_recall(prompt: str) -> None:
    assert requested_attributes([PROMPT, PROMPT, prompt])[2] is None
    assert of_file(row("裙", prompt=prompt))["attribute-recall"] is None


def test_attribute_recall_is_the_mean_over_prompts_with_attributes() -> None:
    prompts = ("类型#裙*颜色#白色", "类型#裤*图案#条纹", "类型#裙*颜色#红", "裙长#短", "你好")
    rows = [row("白色的裙子", prompt=prompt) for prompt in prompts]
    assert of_file(*rows)["attribute-recall"] == (100 + 0 + 50 + 0) / 4


@pytest.mark.parametrize(
    "prompts",
    [
        ["C#是什么"],
        ["C#是什么", "5#楼怎么走", "#话题", "C#和F#的区别", "类型#裙"] * 5,
        ["你好", "再见", "类型#裙*颜色#白色"],
        ["类型#裙*颜色#白色", "你好"],
    ],
)
def test_a_file_that_is_not_adgen_has_no_attribute_recall(prompts: list[str]) -> None:
    rows = [row("是什么楼", prompt=prompt) for prompt in prompts]
    assert of_file(*rows)["attribute-recall"] is None
    assert {each["attribute-recall"] for each in score_predictions(rows).rows} == {None}


COLOURS = [
    "类型#裙*颜色#白色*材质#纯棉",
    "类型#裤*颜色#黑色*裤长#长裤",
    "颜色#白*图案#蕾丝",
    "材质#蕾丝",
]


@pytest.mark.parametrize(
    ("response", "precision"),
    [
        ("白色的纯棉裙", 100.0),
        ("黑色的纯棉", 50.0),  # 黑色 is another color than the one requested
        ("黑色和黑色的纯棉", 50.0),  # counts once
        ("黑色", 0.0),
        ("纯棉长裤", 100.0),  # the prompt requests no 裤长, so 长裤 is not known to be wrong
        ("纯棉蕾丝", 100.0),  # 蕾丝 may be a pattern, which the prompt does not request
        ("白白的纯棉", 100.0),  # one character is too short to be certain
        ("很美", None),
        ("", None),
    ],
)
def test_attribute_precision_counts_values_that_contradict_the_prompt(
    response: str, precision: float | None
) -> None:
    rows = [row(response if index == 0 else "", prompt=p) for index, p in enumerate(COLOURS)]
    assert score_predictions(rows).rows[0]["attribute-precision"] == precision


def test_a_longer_or_shorter_form_of_a_requested_value_is_no_contradiction() -> None:
    prompts = ["类型#裙*图案#条纹", "类型#裙*图案#竖条纹", "类型#裙*图案#格子"]
    for response, precision in (("竖条纹", 100.0), ("格子条纹", 50.0)):
        rows = [row(response, prompt=prompt) for prompt in prompts]
        assert score_predictions(rows).rows[0]["attribute-precision"] == precision


def test_repetition_needs_four_words_twice() -> None:
    assert of_row("我喜欢白色的裙子，我喜欢白色的裙子")["repetition"] == 100.0
    assert of_row("我喜欢白色的裙子，你喜欢蓝色的裤子")["repetition"] == 0.0
    assert of_row("    " * 4)["repetition"] == 0.0


def test_distinct_4_is_the_share_of_distinct_4_grams_in_the_whole_file() -> None:
    # 我/喜欢/白色/的/裙子: two 4-grams, the same two in the second row.
    rows = [row("我喜欢白色的裙子"), row("我 喜欢 白色 的 裙子"), row("裙子")]
    assert of_file(*rows)["distinct-4"] == 50.0
    assert of_file(row("裙子"))["distinct-4"] is None
    assert "distinct-4" not in of_row("我喜欢白色的裙子")


def test_distinct_and_length_describe_the_texts() -> None:
    rows = [row(text, "四个字符") for text in ("裙子", "裙子", "白裙子", "白色裙子!")]
    summary = of_file(*rows)
    assert summary["distinct"] == 75.0
    assert summary["length"] == 3.0
    assert summary["length-ratio"] == 75.0
    assert of_file(row("裙", ""))["length-ratio"] is None


def test_a_blank_prediction_is_counted_and_stays_in_the_mean() -> None:
    summary = of_file(*(row(text, "白色的裙子") for text in ("白色的裙子", "", " ", "白色的裙子")))
    assert (summary["rouge-l"], summary["bleu-4"]) == (50.0, 50.0)
    assert (summary["empty"], summary["rows"]) == (50.0, 4)


def test_cut_off_counts_only_rows_with_a_finished_key() -> None:
    finished = row("文", finished=True)
    assert of_file(finished, row("文", finished=False), row("文"))["cut-off"] == 50.0
    assert of_file(row("文"))["cut-off"] is None
    assert of_row("文", finished=True)["cut-off"] == 0.0


def test_a_removed_word_costs_nothing_without_unk() -> None:
    scores = of_row("白色的裙子很美", "白色的裙子<UNK>很美")
    assert scores["bleu-4"] < 100
    assert scores["bleu-4-no-unk"] == scores["rouge-l-no-unk"] == 100
    assert of_row("白色的<UNK>裙子很美", "白色的裙子<UNK>很美")["bleu-4-no-unk"] == 100


def test_an_invented_unk_still_costs() -> None:
    scores = of_row("白色的裙子<UNK>很美", "白色的裙子很美")
    assert scores["bleu-4-no-unk"] == scores["bleu-4"] < 100


def test_a_reference_that_is_only_unk_scores_zero() -> None:
    assert of_row("白色", "<UNK>")["bleu-4-no-unk"] == 0


def test_rows_with_the_same_prompt_share_their_references() -> None:
    rows = [
        row("长裤很美", "短裙很好看", prompt="类型#裤"),
        row("短裙", "长裤很美", prompt="类型#裤"),
        row("长裤很美", "短裙很好看", prompt="类型#裙"),
    ]
    shared, _, alone = scores_of(rows)
    assert shared["bleu-4-multi"] == shared["rouge-l-multi"] == 100
    assert shared["bleu-4"] == alone["bleu-4"] == alone["bleu-4-multi"] < 100
    assert shared["rouge-l"] == alone["rouge-l-multi"] < 100


def test_a_different_history_makes_a_different_prompt() -> None:
    earlier = [{"role": "user", "content": "你好"}]
    rows = [
        row("长裤很美", "短裙很好看", prompt="裤", history=earlier),
        row("短裙", "长裤很美", prompt="裤"),
    ]
    first = scores_of(rows)[0]
    assert first["bleu-4-multi"] == first["bleu-4"] < 100


def test_blank_references_are_ignored() -> None:
    rows = [row("裙", "", prompt="裙"), row("", "裙", prompt="裙"), row("裙", " ", prompt="裤")]
    multi = [(each["bleu-4-multi"], each["rouge-l-multi"]) for each in score_predictions(rows).rows]
    only_reference = of_row("裙", "裙")["bleu-4"]
    assert multi == [(only_reference, 100), (0, 0), (0, 0)]


def test_statistics_that_need_a_prompt_are_unknown_without_one() -> None:
    summary = of_file(row("裙子"))
    needing = {"attribute-recall", "attribute-precision", "bleu-4-multi", "rouge-l-multi"}
    assert {name for name in STATISTICS if summary[name] is None} == needing | {
        "cut-off",  # the file does not say
        "distinct-4",  # too short
    }
