"""The verdict on each model, which follows from the tests by rule."""

from __future__ import annotations

from pathlib import Path

from report_tree import (
    PARAMS,
    RUNS,
    change,
    read,
    row_scores,
    write_probe,
    write_scores,
)

from glmtune.files import write_jsonl
from glmtune.report.conclusions import conclusion
from glmtune.report.markup import paragraphs
from glmtune.report.words import Words

MODEL = "chatglm-6b"


def test_the_best_is_named_with_its_gain_and_what_others_lost(tree: Path) -> None:
    assert conclusion(read(tree), MODEL) == Words(
        "**lora** scores highest, 55.00 BLEU-4 (+20.00 over untuned); ptuning is significantly "
        "lower; **ptuning** forgets most, 100.0% → 21.7% of the general questions correct.",
        "**lora** 得分最高，BLEU-4 55.00（较未微调 +20.00）；ptuning 显著更低；"
        "**ptuning** 遗忘最严重，常识题正确率 100.0% → 21.7%。",
    )


def test_a_method_that_does_not_differ_is_named_with_its_share_of_parameters(copy: Path) -> None:
    noise = [(1 if row % 2 else -1) for row in range(42)]
    rows = [r | {"bleu-4": r["bleu-4"] + n} for r, n in zip(row_scores(24.0), noise, strict=True)]
    write_jsonl(copy / f"results/scores/{MODEL}/ptuning.rows.jsonl", rows)
    change(copy / f"results/scores/{MODEL}/ptuning.json", **{"bleu-4": 54.9})
    text = conclusion(read(copy), MODEL).en
    assert "; ptuning (training 1.8% of the parameters) is not significantly different; " in text
    change(copy / f"results/training/{MODEL}/ptuning.json", trainable_parameters=700_000)
    assert "; ptuning is not significantly different; " in conclusion(read(copy), MODEL).en


def test_a_gain_that_is_not_significant_is_not_called_one(copy: Path) -> None:
    for method in ("ptuning", "lora"):
        write_scores(copy / "results", MODEL, method, 4.0)
    text = conclusion(read(copy), MODEL).en
    assert text.startswith("no method scores higher than the untuned model, 35.00 BLEU-4; ")
    assert "ptuning (training 1.8% of the parameters) and lora (" in text
    assert "are not significantly different" in text


def test_an_untuned_model_that_is_best_is_called_so(copy: Path) -> None:
    write_scores(copy / "results", MODEL, "none", 44.0)
    text = conclusion(read(copy), MODEL).en
    assert text.startswith("no method scores higher than the untuned model, 75.00 BLEU-4; ")
    assert "; ptuning and lora are significantly lower; " in text


def test_no_significant_loss_is_no_forgetting(copy: Path) -> None:
    write_probe(copy / "results", MODEL, "ptuning", adverts=1)
    text = conclusion(read(copy), MODEL)
    assert text.en.endswith("; no significant forgetting.")
    assert text.zh.endswith("；没有显著遗忘。")


def test_too_few_questions_say_nothing_about_forgetting(copy: Path) -> None:
    for path in (copy / "results/probe").rglob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:5]), encoding="utf-8")
    assert "forget" not in conclusion(read(copy), MODEL).en


def test_without_scores_of_rows_nothing_is_called_significant(copy: Path) -> None:
    for path in (copy / "results/scores").rglob("*.rows.jsonl"):
        write_jsonl(path, [dict.fromkeys(row) for row in row_scores(1)])
    text = conclusion(read(copy), MODEL).en
    assert text.startswith(
        "**lora** scores highest, 55.00 BLEU-4; the protocol has no scores of rows to test; "
    )
    assert "significant" not in text


def test_a_few_rows_are_not_tested(copy: Path) -> None:
    for path in (copy / "results").rglob("*.jsonl"):
        if path.parts[-3] in ("scores", "predictions"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[:10]), encoding="utf-8")
    for path in (copy / "results/scores").rglob("*/*.json"):
        change(path, rows=10)
    assert "; 10 rows are too few to test differences; " in conclusion(read(copy), MODEL).en


def test_a_model_that_was_not_tuned_has_no_verdict(tree: Path) -> None:
    only = read(tree, RUNS[:1], PARAMS)
    assert conclusion(only, MODEL).en == "only the untuned model was run."


def test_chinese_has_no_gaps_around_full_width_marks() -> None:
    text = Words("a", "用 lora（9%） 微调， 得分\n最高；**甲** 高于 乙")
    assert "用 lora（9%）微调，得分最高；<strong>甲</strong> 高于 乙" in paragraphs(text)
