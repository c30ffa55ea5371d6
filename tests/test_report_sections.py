"""The report's sections on data, forgetting, other definitions and unusual losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_tree import (
    MODELS,
    PARAMS,
    QUESTIONS,
    RUNS,
    change,
    read,
    section,
    spread,
    table_rows,
    write_probe,
)

from glmtune.families.registry import FAMILIES
from glmtune.files import read_json, read_jsonl, write_jsonl
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.report.data_card import TRAINS_ON_ZH
from glmtune.report.definitions import DIFFERS_ZH
from glmtune.report.figures import loss_figure
from glmtune.report.writing import headline, render_markdown, write_report

DEFINITIONS = "The same answers under other definitions"
FORGOT = "What the models forgot"


# --- forgetting -----------------------------------------------------------------------------------


def test_forgetting_is_measured_against_the_untuned_model(tree: Path) -> None:
    text = section(render_markdown(read(tree)), FORGOT)
    none, ptuning, lora = table_rows(text, "Correct")[:3]
    assert none[2:] == ["100.0% (100.0 … 100.0)", "–", "–", "–"]
    share = 100 * 36 / len(QUESTIONS)
    assert ptuning[2].startswith(f"{100 - share:.1f}% (8.7 … ")
    assert ptuning[3].startswith(f"**-{share:.1f}** (-91.3 … ")
    assert ptuning[4] == f"{share:.1f}%"
    assert 100 - share < float(ptuning[5]) < 40
    assert lora[2:] == ["100.0% (100.0 … 100.0)", "+0.0 (+0.0 … +0.0)", "0.0%", "100.0"]


def test_one_sentence_names_the_worst_run_and_its_learning_rate(copy: Path) -> None:
    write_probe(copy / "results", "chatglm2-6b", "ptuning", adverts=len(QUESTIONS))
    text = section(render_markdown(read(copy)), FORGOT)
    assert (
        "**chatglm2-6b forgot most with ptuning (lr 0.02): 0.0% correct instead of 100.0%; "
        "100.0% of its answers imitate the training data.** General questions and answers mixed "
        "into the training data help: `dataset.train` takes them as a part with a share" in text
    )


def test_a_mixture_is_named_with_what_it_took_and_what_was_kept(copy: Path) -> None:
    path = copy / "data/dataset/manifest.json"
    parts = [
        {"kind": "files", "rows": 4500, "chosen_from": {"rows": 4500, "seed": 42}},
        {"kind": "files", "rows": 1500, "share": 0.25, "chosen_from": {"rows": 60, "seed": 42}},
    ]
    change(path, train=read_json(path)["train"] | {"parts": parts})
    named = [{"path": "more_*.jsonl", "share": 0.25}, {"path": "mine.jsonl"}]
    params = PARAMS | {"dataset": {"train": named, "dev": 0.1}}
    markdown = render_markdown(read(copy, params=params))
    text = section(markdown, FORGOT)
    assert (
        "1,500 of the 6,000 training rows (25%) were mixed in: more\\_\\*.jsonl (1,500). The "
        "steps stay the same, so the user's own rows were seen 25% less often." in text
    )
    kept = 100 * (1 - 36 / len(QUESTIONS))
    assert f"these stay correct: chatglm-6b ptuning {kept:.0f}%, chatglm-6b lora 100%" in text
    facts = {row[0]: row[1:] for row in table_rows(section(markdown, "Data"), "train | dev")}
    assert facts["Parts"] == [
        "mine.jsonl: 4,500 rows; more\\_\\*.jsonl: 1,500 rows, a share of 25%, from 60",
        "",
    ]


def test_answers_that_were_mixed_in_are_not_the_style_of_training(copy: Path) -> None:
    """Else a right answer to a general question would count as an imitation."""
    rows = read_jsonl(copy / "data/dataset/train.jsonl")
    style = read(copy).style
    answers = [{"content": "q", "summary": "晚安，好梦，再见。"}] * 3
    write_jsonl(copy / "data/dataset/train.jsonl", rows + answers)
    parts = [{"kind": "general", "rows": 3, "share": 0.5, "chosen_from": {"rows": 3, "seed": 1}}]
    train = {"rows": len(rows) + 3, "sha256": "e" * 64, "parts": parts}
    change(copy / "data/dataset/manifest.json", train=train)
    assert read(copy).style == style


def test_an_insignificant_drop_is_not_called_forgetting(copy: Path) -> None:
    for model in MODELS:
        write_probe(copy / "results", model, "ptuning", adverts=2)
    text = section(render_markdown(read(copy)), FORGOT)
    assert "No run answers significantly fewer of them correctly than the untuned model." in text
    assert "forgot most" not in text


def test_a_few_questions_cannot_show_forgetting(copy: Path) -> None:
    for path in (copy / "results/probe").rglob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:5]), encoding="utf-8")
    text = section(render_markdown(read(copy)), FORGOT)
    assert "Fewer than 20 questions are too few to detect forgetting." in text


def test_some_questions_are_shown_with_the_answers_of_all_methods(copy: Path) -> None:
    path = copy / "results/probe/chatglm-6b/lora.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_jsonl(path, [row | {"predict": "|" + "很" * 80} for row in rows])
    write_probe(copy / "results", "chatglm2-6b", "lora", adverts=0)
    text = section(render_markdown(read(copy)), FORGOT)
    rows = table_rows(text, "Question")
    assert len(rows) == 4 * len(MODELS)
    question = QUESTIONS[5]
    assert rows[0] == [
        "chatglm-6b",
        question["content"],
        question["summary"],
        question["summary"],
        "这款裙子让人心动，面料柔软。",
        "\\|" + "很" * 59 + "…",
    ]


def test_a_method_used_by_one_model_leaves_the_cells_of_others_empty(tree: Path) -> None:
    text = section(render_markdown(read(tree, RUNS[:5])), FORGOT)
    assert [row[5] for row in table_rows(text, "Question")][4:] == [""] * 4


@pytest.mark.parametrize(
    ("kind", "title"),
    [("adgen", "Answers turned into ads"), ("files", "Answers in training style")],
)
def test_answers_become_ads_only_if_the_training_data_are(
    copy: Path, kind: str, title: str
) -> None:
    change(copy / "data/dataset/manifest.json", source={"kind": kind})
    text = section(render_markdown(read(copy)), FORGOT)
    assert f"| {title} |" in text
    assert f"*{title}*:" in text


def test_forgetting_shows_in_the_headline_and_in_metrics_json(tree: Path) -> None:
    report = read(tree)
    assert table_rows(render_markdown(report), "General")[1][8] == "21.7%"
    numbers = headline(report)["chatglm-6b"]
    assert numbers["ptuning"]["general-questions"] == pytest.approx(1000 / 46, abs=1e-4)
    assert numbers["none"]["general-questions"] == 100.0


# --- other definitions ----------------------------------------------------------------------------


def test_every_definition_is_shown_with_its_scores_of_each_run(tree: Path) -> None:
    text = section(render_markdown(read(tree)), DEFINITIONS)
    for protocol in PROTOCOLS.values():
        assert protocol.title.replace("_", "\\_") in text
        assert protocol.differs in text.replace("\\", "")
    none, _, lora = table_rows(text, "PaddleNLP")[:3]
    assert none[2:] == ["35.00 / 35.00", "0.0040 / 35.00", "0.0400 / –"]
    assert lora[2:] == ["55.00 / 55.00", "0.0240 / 55.00", "0.2400 / –"]


def test_a_definition_with_the_same_numbers_as_another_shares_its_column(tree: Path) -> None:
    text = section(render_markdown(read(tree)), DEFINITIONS)
    header = next(line for line in text.splitlines() if line.startswith("| Model"))
    assert "| Method | glmtune | ChatGLM3 finetune\\_demo\\* | PaddleNLP |" in header
    assert "- MindFormers: rows with a blank answer are skipped (same numbers here as" in text


def test_the_definition_of_the_headline_is_named(tree: Path) -> None:
    text = render_markdown(read(tree))
    assert "follow **glmtune** (`protocol: glmtune`)" in section(text, DEFINITIONS)
    sampled = render_markdown(read(tree, params=PARAMS | {"protocol": "thudm"}))
    assert "follow **THUDM ptuning** (`protocol: thudm`)" in section(sampled, DEFINITIONS)
    assert (
        "BLEU-4 and ROUGE follow the definition of THUDM ptuning and compare answers as decoded "
        "and references as decoded." in section(sampled, "Scores")
    )
    assert (
        "of glmtune and compare answers as displayed and references as in the data, both with "
        "normalized punctuation and whitespace." in section(text, "Scores")
    )
    old = {key: value for key, value in PARAMS.items() if key != "protocol"}
    assert "(`protocol: glmtune`)" in render_markdown(read(tree, params=old))


def test_scores_of_0_to_1_have_four_decimals(copy: Path) -> None:
    for path in (copy / "results/scores").rglob("*.json"):
        change(path, **{"bleu-4": 0.03456})
    rows = table_rows(render_markdown(read(copy)), "BLEU-4")
    assert rows[0][2].startswith("0.0346 (")
    assert rows[0][4] == "35.00"


# --- data -----------------------------------------------------------------------------------------


def test_the_card_shows_rows_lengths_duplicates_and_leakage(tree: Path) -> None:
    text = section(render_markdown(read(tree)), "Data")
    facts = {row[0]: row[1:] for row in table_rows(text, "train | dev")}
    assert facts["Rows"] == ["6,000", "42"]
    assert facts["SHA-256"] == ["`eeeeeeeeeeee…`", "`ffffffffffff…`"]
    assert facts["Prompt length (characters)"][0] == "29.0, 50, 60"
    assert facts["Duplicate prompts"] == ["60 (1.0%)", "0"]
    assert facts["Answers with \\<UNK\\>"] == ["0", "0"]
    assert "Skipped rows" not in facts
    assert "Dev rows that also appear in train: 1; only the prompt: 2; only the answer: 0." in text
    assert "类型 6,000, 颜色 3,500" in text
    assert 'generated by this workflow\'s grammar: `{"seed": 42}`' in text
    assert "License: not stated in the data set" in text


def test_the_card_shows_tokens_templates_and_truncation(tree: Path) -> None:
    text = section(render_markdown(read(tree)), "Data")
    assert table_rows(text, "Template")[0] == [
        *("chatglm-6b", "thudm-ptuning", "last answer", "600,000"),
        *("21.1, 50, 60", "26.7, 50, 60", "33.3% / 33.3%", "0.0% / 0.0%", "16.7% / 16.7%"),
    ]
    assert "`max_source_tokens` 96 and `max_target_tokens` 128" in text


def test_what_registries_say_in_english_has_a_chinese_form() -> None:
    templates = [each for family in FAMILIES.values() for each in family.templates.values()]
    assert {template.trains_on for template in templates} == set(TRAINS_ON_ZH)
    assert set(PROTOCOLS) == set(DIFFERS_ZH)


def test_the_card_shows_skipped_and_sampled_rows_and_the_licence(copy: Path) -> None:
    path = copy / "data/dataset/manifest.json"
    manifest = read_json(path)
    manifest["train"] |= {
        "skipped": {"rows": 7, "unit": "row", "first": [3, 9]},
        "notes": {"questions in a row are made one": 1200},
        "chosen_from": {"rows": 114_599, "seed": 42},
    }
    change(path, train=manifest["train"], source={"kind": "files", "format": "a`b"})
    change(copy / "data/dataset/card.json", licence="CC-BY-4.0 *or* not")
    text = section(render_markdown(read(copy)), "Data")
    facts = {row[0]: row[1:] for row in table_rows(text, "train | dev")}
    assert facts["Skipped rows"] == ["7 (row 3, 9, …)", ""]
    assert facts["Notes"] == ["1,200 rows: questions in a row are made one", ""]
    assert facts["Sampled from"] == ["114,599 rows, seed 42", ""]
    assert "License: CC-BY-4.0 \\*or\\* not" in text
    assert 'the user\'s own data: `` {"format": "a`b"} ``' in text


def test_data_without_attributes_or_dev_rows_has_a_card(copy: Path) -> None:
    path = copy / "data/dataset/card.json"
    splits = read_json(path)["splits"]
    splits["train"]["attributes"] = {}
    splits["dev"] |= {"rows": 0, "answer_characters": dict.fromkeys(spread(1))}
    change(path, splits=splits)
    text = section(render_markdown(read(copy)), "Data")
    assert "Attributes" not in text
    assert table_rows(text, "train | dev")[3] == ["Answer length (characters)", "65.6, 50, 60", "–"]


def test_the_card_is_also_a_separate_file(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree), tmp_path)
    card = (tmp_path / "data_card.md").read_text(encoding="utf-8")
    assert card.startswith("# Data card\n\n- Source: ")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert card.removeprefix("# Data card\n\n").rstrip() in report


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_valid", [False, True])
def test_the_rows_that_chose_the_best_step_are_named(copy: Path, has_valid: bool) -> None:
    path = copy / "results/training/chatglm-6b/lora.json"
    training = read_json(path)
    change(path, settings=training["settings"] | {"keep_best": True}, best_step=20)
    if has_valid:
        change(copy / "data/dataset/manifest.json", valid={"rows": 50, "sha256": "a" * 64})
        card = read_json(copy / "data/dataset/card.json")["splits"]
        change(copy / "data/dataset/card.json", splits=card | {"valid": card["dev"]})
    text = section(render_markdown(read(copy)), "Loss curves")
    assert ("The choice of the step saw the scored rows" in text) is not has_valid
    assert ("chosen on 50 valid rows, which are not scored" in text) is has_valid


def test_without_a_choice_by_loss_no_rows_are_named_for_it(tree: Path) -> None:
    assert "scored rows" not in section(render_markdown(read(tree)), "Loss curves")


@pytest.mark.parametrize(
    ("facts", "loss", "noted"),
    [
        ({}, 6.73, True),
        ({}, 0.0, True),
        ({}, 3.74, False),
        ({}, None, False),
        ({"parameters": 700_000}, 6.73, False),
        ({"kind": "files"}, 6.73, False),
    ],
)
def test_a_loss_unlike_published_ones_is_noted_for_6b_models_on_adgen(
    copy: Path, facts: dict[str, Any], loss: float | None, noted: bool
) -> None:
    change(copy / "data/dataset/manifest.json", source={"kind": facts.get("kind", "adgen")})
    path = copy / "results/models/chatglm-6b.json"
    change(path, parameters=facts.get("parameters", 6_200_000_000))
    change(copy / "results/training/chatglm-6b/ptuning.json", train_loss=loss)
    text = section(render_markdown(read(copy, RUNS[:2])), "Loss curves")
    line = "- chatglm-6b / ptuning: train loss"
    assert (line in text) is noted
    if loss == 6.73 and noted:
        assert f"{line} 6.73 is outside 3.1 to 4.2; published runs of ptuning on ADGEN" in text


def test_warnings_of_a_training_are_listed_below_the_curves(copy: Path) -> None:
    training = copy / "results/training/chatglm-6b/ptuning.json"
    change(training, notes=["lr 2 is outside 0.001 to 0.05"])
    text = section(render_markdown(read(copy, RUNS[:2])), "Loss curves")
    assert "- chatglm-6b / ptuning: lr 2 is outside 0.001 to 0.05." in text


def test_early_stopping_and_the_best_weights_are_noted(copy: Path) -> None:
    training = copy / "results/training/chatglm-6b/ptuning.json"
    change(training, steps=60, best_step=40, settings={"max_steps": 100})
    text = section(render_markdown(read(copy, RUNS[:2])), "Loss curves")
    assert "ptuning: stopped after 60 of 100 steps: the dev loss stopped falling." in text
    assert "ptuning: kept the weights of step 40, which has the lowest dev loss." in text


def test_dev_losses_are_a_second_line_in_the_color_of_the_method(copy: Path) -> None:
    curve = "step,loss,learning_rate,dev_loss\n10,2.8,0.01,\n20,2.6,0.01,2.9\n30,2.4,0.01,2.7\n"
    (copy / "results/curves/chatglm-6b/ptuning.csv").write_text(curve, encoding="utf-8")
    report = read(copy, RUNS[:2])
    assert report.runs[1].curve == [(10, 2.8), (20, 2.6), (30, 2.4)]
    assert report.runs[1].dev_curve == [(20, 2.9), (30, 2.7)]
    (panel,) = loss_figure(report).panels
    assert 'class="line s0"' in panel.body
    assert 'class="line dev s0"' in panel.body
    assert 'data-xy="20,2.9 30,2.7"' in panel.body
