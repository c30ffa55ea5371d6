"""Scores: equal to the official code's, and what is done where that code stops."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmtune.errors import ParamsError
from glmtune.metrics import METRICS, PROTOCOLS, asked_values, score_rows, summarise

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"
PROMPT = "类型#裙*颜色#白色*图案#条纹*风格#白色"


def score(predict: str, labels: str, prompt: str = "", protocol: str = "thudm-ptuning") -> Any:
    return score_rows([{"predict": predict, "labels": labels, "prompt": prompt}], protocol)[0]


def golden_rows(reference: Path) -> list[dict[str, Any]]:
    return json.loads((reference / "metrics/metrics_golden.json").read_text("utf-8"))["rows"]


@pytest.mark.parametrize(
    ("protocol", "key"), [("thudm-ptuning", "ptuning_main"), ("thudm-finetune-demo", "finetune_hf")]
)
def test_scores_equal_the_official_code(reference: Path, protocol: str, key: str) -> None:
    crashed = dict.fromkeys(METRICS, 0.0)
    for row in golden_rows(reference):
        expected = crashed if "error" in row[key] else {name: row[key][name] for name in METRICS}
        scores = score(row["prediction"], row["label"], protocol=protocol)
        assert {name: scores[name] for name in METRICS} == expected, row["kind"]


def test_means_equal_the_official_code(reference: Path) -> None:
    golden = json.loads((reference / "metrics/metrics_golden.json").read_text("utf-8"))
    rows = [
        {"predict": row["prediction"], "labels": row["label"]}
        for row in golden["rows"]
        if "error" not in row["ptuning_main"]
    ]
    means = summarise(rows, score_rows(rows))
    expected = golden["mean_ptuning_main_over_non_crashing"]
    assert {name: means[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)


def test_rouge_is_the_f1_of_shared_words() -> None:
    # Words 我 很 喜欢 猫 against 我 喜欢 狗: 2 of 4 and 2 of 3 shared, no two in a row.
    scores = score("我很喜欢猫", "我喜欢狗")
    assert scores["rouge-1"] == pytest.approx(100 * 4 / 7, abs=1e-4)
    assert scores["rouge-2"] == 0
    assert scores["rouge-l"] == pytest.approx(100 * 4 / 7, abs=1e-4)


def test_bleu_counts_characters_and_smooths_by_halves() -> None:
    # 白裙子 against 白裙子美: all of 3, 2, 1 runs match, no run of four: smoothed to 1/2;
    # one character short: exp(1 - 4/3).
    expected = 100 * math.exp(1 - 4 / 3) * (1 / 2) ** (1 / 4)
    assert score("白裙子", "白裙子美")["bleu-4"] == pytest.approx(expected, abs=1e-4)


def test_row_scores_have_at_most_four_places() -> None:
    scores = score("这件白色的裙子很美", "这条裙子是白色的，美极了")
    assert all(scores[name] == round(scores[name], 4) for name in METRICS)


def test_identical_texts_score_a_hundred() -> None:
    scores = score("这件白色的裙子很美", "这件白色的裙子很美")
    assert {name: scores[name] for name in METRICS} == dict.fromkeys(METRICS, 100.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_a_blank_text_on_either_side_scores_zero(protocol: str, blank: str) -> None:
    for predict, labels in [(blank, "白色的裙子"), ("白色的裙子", blank), (blank, blank)]:
        scores = score(predict, labels, protocol=protocol)
        assert {name: scores[name] for name in METRICS} == dict.fromkeys(METRICS, 0.0)


def test_a_blank_prediction_stays_in_the_mean() -> None:
    rows = [
        {"predict": text, "labels": "白色的裙子"} for text in ("白色的裙子", "", " ", "白色的裙子")
    ]
    means = summarise(rows, score_rows(rows))
    assert means["rouge-l"] == 50.0
    assert means["bleu-4"] == 50.0
    assert means["empty"] == 50.0
    assert means["rows"] == 4


def test_attribute_recall_counts_each_asked_value_once() -> None:
    assert asked_values(PROMPT) == ["裙", "白色", "条纹"]
    assert score("白色的裙子", "", PROMPT)["attribute-recall"] == pytest.approx(200 / 3)
    assert score("", "参考", PROMPT)["attribute-recall"] == 0.0


@pytest.mark.parametrize(
    "prompt", ["", "你好", "类型#裙*颜色", "类型#", "#裙", "类型#裙*", "a#b#c"]
)
def test_other_prompts_have_no_attribute_recall(prompt: str) -> None:
    assert asked_values(prompt) is None
    rows = [{"predict": "裙", "labels": "裙", "prompt": prompt}]
    assert summarise(rows, score_rows(rows))["attribute-recall"] is None


def test_attribute_recall_is_the_mean_over_prompts_that_list_attributes() -> None:
    rows = [
        {"predict": "白色的裙子", "labels": "文", "prompt": "类型#裙"},
        {"predict": "白色的裙子", "labels": "文", "prompt": "类型#裤"},
        {"predict": "白色的裙子", "labels": "文", "prompt": "你好"},
    ]
    assert summarise(rows, score_rows(rows))["attribute-recall"] == 50.0


def test_repetition_needs_four_words_twice() -> None:
    assert score("我喜欢白色的裙子，我喜欢白色的裙子", "文")["repetition"] == 100.0
    assert score("我喜欢白色的裙子，你喜欢蓝色的裤子", "文")["repetition"] == 0.0
    assert score("    " * 4, "文")["repetition"] == 0.0


def test_distinct_and_length_describe_the_texts() -> None:
    rows = [{"predict": text, "labels": "文"} for text in ("裙子", "裙子", "白裙子", "白色裙子!")]
    means = summarise(rows, score_rows(rows))
    assert means["distinct"] == 75.0
    assert means["length"] == 3.0


def test_an_unknown_protocol_lists_the_known() -> None:
    with pytest.raises(ParamsError, match="'glue'; choose from thudm-finetune-demo, thudm-ptuning"):
        score_rows([], "glue")


def test_importing_metrics_loads_no_heavy_package() -> None:
    heavy = {"jieba", "nltk", "rouge_chinese", "torch", "transformers", "numpy"}
    code = f"import sys, glmtune.metrics; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
