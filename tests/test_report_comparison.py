"""The report's significant differences, and several seeds of a method."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from report_tree import (
    METHODS,
    PARAMS,
    ROWS,
    RUNS,
    change,
    move_run,
    read,
    renamed,
    row_scores,
    section,
    table_rows,
    write_probe,
    write_scores,
)

from glmtune.files import write_jsonl
from glmtune.metrics.significance import adjusted_p_values
from glmtune.report.contents import MOST_PAIRED, Comparison
from glmtune.report.figures import loss_figure, loss_table
from glmtune.report.writing import headline, render_markdown

TITLE = "Significant differences"


def test_a_matrix_and_sentences_show_which_differences_are_significant(tree: Path) -> None:
    text = section(render_markdown(read(tree)), TITLE)
    of_model = text.split("### chatglm-6b\n")[1].split("\n### ")[0]
    assert table_rows(of_model, "Row minus column") == [
        ["ptuning", "+0.00 / +0.00", ""],
        ["lora", "**+20.00** / **+20.00**", "**+20.00** / **+20.00**"],
    ]
    assert "- BLEU-4 and ROUGE-L: lora is **higher** than none and ptuning; " in of_model
    assert "; no significant difference: none vs. ptuning." in of_model
    assert "over the same 42 dev rows" in text
    assert "any of the 18 differences is wrongly called significant is below 1%" in text


def test_a_worse_run_is_reported_as_lower(copy: Path) -> None:
    write_scores(copy / "results", "chatglm-6b", "lora", 1.0)
    text = render_markdown(read(copy))
    assert table_rows(text, "Row minus column")[1][1] == "**-3.00** / **-3.00**"
    assert "BLEU-4 and ROUGE-L: none and ptuning are **higher** than lora; no significant" in text


def test_scores_with_different_verdicts_get_a_sentence_each(copy: Path) -> None:
    path = copy / "results/scores/chatglm-6b/ptuning.rows.jsonl"
    write_jsonl(path, [row | {"rouge-l": row["rouge-l"] + 1} for row in row_scores(4.0)])
    text = render_markdown(read(copy))
    assert (
        "- BLEU-4: lora is **higher** than none and ptuning; no significant difference: none "
        in text
    )
    assert (
        "- ROUGE-L: ptuning is **higher** than none; lora is **higher** than none and ptuning."
        in text
    )


def test_a_difference_expected_by_chance_among_many_is_not_significant(copy: Path) -> None:
    """Its own 99% interval excludes zero, which is not enough among 18 comparisons."""
    noise = [0.45 + (1 if row % 2 else -1) for row in range(ROWS)]
    rows = [row | {"bleu-4": row["bleu-4"] + noise[i]} for i, row in enumerate(row_scores(4.0))]
    write_jsonl(copy / "results/scores/chatglm-6b/ptuning.rows.jsonl", rows)
    report = read(copy)
    baseline, ptuning = report.entries_of("chatglm-6b")[:2]
    assert report.differences[Comparison("bleu-4", ptuning.key, baseline.key)].p_value < 0.01
    text = render_markdown(report)
    assert table_rows(text, "Row minus column")[0][1] == "+0.45 / +0.00"
    assert table_rows(text, "BLEU-4")[1][3].startswith("+0.45 (+0.0")


def test_the_best_is_bold_only_where_it_differs_from_every_other_method(copy: Path) -> None:
    """LoRA is above the untuned model, but no higher than P-Tuning."""
    write_scores(copy / "results", "chatglm-6b", "ptuning", 24.0)
    none, ptuning, lora = table_rows(render_markdown(read(copy)), "BLEU-4")[:3]
    assert ptuning[2] == lora[2] == "55.00 (47.00 … 62.93)"
    assert ptuning[3] == lora[3] == "**+20.00** (+20.00 … +20.00)"
    write_scores(copy / "results", "chatglm-6b", "none", 44.0)
    none, ptuning, lora = table_rows(render_markdown(read(copy)), "BLEU-4")[:3]
    assert none[2].startswith("**75.00** (")
    assert lora[3] == "**-20.00** (-20.00 … -20.00)"


def test_models_are_compared_where_they_have_the_same_method(copy: Path) -> None:
    write_scores(copy / "results", "chatglm2-6b", "lora", 27.0)
    text = section(render_markdown(read(copy)), TITLE).split("### Models with the same method")[1]
    assert table_rows(text, "Models") == [
        ["chatglm2-6b − chatglm-6b", *["+0.00 / +0.00"] * 2, "**+3.00** / **+3.00**"]
    ]
    assert "- none, ptuning. BLEU-4 and ROUGE-L: no significant difference: chatglm-6b vs." in text
    assert "- lora. BLEU-4 and ROUGE-L: chatglm2-6b is **higher** than chatglm-6b." in text
    alone = render_markdown(read(copy, RUNS[:3]))
    assert "Models with the same method" not in alone


@pytest.fixture
def sweep(copy: Path) -> Path:
    """chatglm-6b with more methods than are compared pair by pair: none, ptuning, lora, lora-0 …"""
    for index in range(MOST_PAIRED):
        for path in list((copy / "results").rglob("chatglm-6b/lora.*")):
            shutil.copyfile(path, path.with_name(path.name.replace("lora", f"lora-{index}", 1)))
    write_scores(copy / "results", "chatglm-6b", "lora-3", 27.0)
    return copy


SWEEP = RUNS[:3] + [renamed(RUNS[2], f"lora-{index}") for index in range(MOST_PAIRED)]


def test_of_many_methods_each_is_compared_with_the_untuned_and_the_best(sweep: Path) -> None:
    report = read(sweep, SWEEP)
    text = section(render_markdown(report), TITLE)
    rows = table_rows(text, "Row minus column")
    assert [row[0] for row in rows] == [run["method"] for run in SWEEP[1:]]
    assert rows[0] == ["ptuning", "+0.00 / +0.00", "**-23.00** / **-23.00**"]
    assert rows[5] == ["lora-3", "**+23.00** / **+23.00**", ""]
    assert "lora-3 is **higher** than none, ptuning, lora, lora-0, lora-1 and 17 others; " in text
    others = MOST_PAIRED + 2
    assert len(report.differences) == 2 * (2 * others - 1)
    assert f"any of the {2 * (2 * others - 1)} differences" in text
    pairs = (others + 1) * others // 2
    assert report.untested == 2 * pairs - len(report.differences)
    assert f"counts the {report.untested} differences left out, too" in text


def test_the_best_of_many_methods_stands_out_and_is_named(sweep: Path) -> None:
    text = render_markdown(read(sweep, SWEEP))
    scores = {row[1]: row[2] for row in table_rows(text, "BLEU-4")}
    assert [name for name, shown in scores.items() if shown.startswith("**")] == ["lora-3"]
    assert "**lora-3** scores highest, 58.00 BLEU-4 (+23.00 over untuned); ptuning, lora, " in text
    assert f"lora-2 and {MOST_PAIRED - 4} others are significantly lower" in text


def test_a_chosen_difference_must_hold_among_those_left_out(sweep: Path) -> None:
    """It is significant among the tested differences, but not among all pairs."""
    noise = [0.9 + (1.5 if row % 2 else -1.5) for row in range(ROWS)]
    rows = [row | {"bleu-4": row["bleu-4"] + noise[i]} for i, row in enumerate(row_scores(4.0))]
    write_jsonl(sweep / "results/scores/chatglm-6b/ptuning.rows.jsonl", rows)
    report = read(sweep, SWEEP)
    baseline, ptuning = report.entries_of("chatglm-6b")[:2]
    comparison = Comparison("bleu-4", ptuning.key, baseline.key)
    assert adjusted_p_values(report.differences)[comparison] < 0.01
    assert not report.is_significant(comparison)


def test_many_models_are_compared_with_the_best_of_them(copy: Path) -> None:
    runs = [{**RUNS[0], "model": f"model-{index}"} for index in range(MOST_PAIRED + 1)]
    for run in runs:
        for path in list(copy.rglob("chatglm-6b*")):
            target = path.with_name(path.name.replace("chatglm-6b", run["model"]))
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
    write_scores(copy / "results", "model-3", "none", 9.0)
    text = section(render_markdown(read(copy, runs)), TITLE)
    rows = table_rows(text, "Models")
    assert [row[0] for row in rows] == [
        f"{run['model']} − model-3" for run in runs if run["model"] != "model-3"
    ]
    assert {row[1] for row in rows} == {"**-5.00** / **-5.00**"}


def test_the_smallest_detectable_difference_is_reported(copy: Path) -> None:
    """Rows that deviate by 10 from the untuned ones: (3.26 + 0.84) x 10 / sqrt(42) or more."""
    rows = [row | {"bleu-4": row["bleu-4"] + 10 * (-1) ** i} for i, row in enumerate(row_scores(4))]
    write_jsonl(copy / "results/scores/chatglm-6b/ptuning.rows.jsonl", rows)
    text = section(render_markdown(read(copy)), TITLE)
    found = re.search(
        r"a true difference of ([\d.]+) BLEU-4 or 0.00 ROUGE-L would be detected", text
    )
    assert found
    deviation = 10 * (42 / 41) ** 0.5
    assert float(found[1]) == pytest.approx((3.4521 + 0.8416) * deviation / 42**0.5, abs=0.02)


def test_few_rows_show_no_significant_difference(copy: Path) -> None:
    for method in METHODS:
        change(copy / f"results/scores/chatglm-6b/{method}.json", rows=5)
        for folder in ("scores", "predictions"):
            suffix = ".rows.jsonl" if folder == "scores" else ".jsonl"
            path = copy / f"results/{folder}/chatglm-6b/{method}{suffix}"
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[:5]), encoding="utf-8")
    text = render_markdown(read(copy, RUNS[:3]))
    assert (
        "5 dev rows are too few to call any difference significant; at least 20 are required."
        in text
    )
    assert table_rows(text, "Row minus column")[1][1] == "+20.00 / +20.00"
    assert "would be detected" not in text
    scores = table_rows(text, "BLEU-4")
    assert not any("**" in cell for row in scores for cell in row)


def test_without_the_untuned_model_there_is_nothing_to_compare(tree: Path) -> None:
    text = render_markdown(read(tree, RUNS[1:3]))
    assert "sample data, generated by this workflow's grammar, after tuning with" in text
    assert "There is no run of the untuned model to compare with." in text
    assert "Measuring forgetting requires both a tuned and an untuned run." in text
    assert table_rows(text, "BLEU-4")[1][2] == "**55.00** (47.00 … 62.93)"
    assert "− untuned" not in text.replace("*− untuned*", "")


def test_an_untrained_run_of_any_name_is_the_baseline(copy: Path) -> None:
    move_run(copy, "none", "as-it-came")
    methods = {"as-it-came": {"method": "none"}, "ptuning": {}, "lora": {}}
    runs = [*RUNS[1:3], renamed(RUNS[0], "as-it-came")]
    text = render_markdown(read(copy, runs, PARAMS | {"methods": methods}))
    rows = table_rows(text, "BLEU-4")
    assert [row[1] for row in rows] == ["as-it-came (untuned)", "ptuning", "lora"]
    assert rows[2][2:4] == ["**55.00** (47.00 … 62.93)", "**+20.00** (+20.00 … +20.00)"]


def test_a_second_untrained_run_is_compared_with_the_first(copy: Path) -> None:
    move_run(copy, "none", "first")
    for path in list((copy / "results").rglob("chatglm-6b/first.*")):
        shutil.copy(path, path.with_name(path.name.replace("first", "second")))
    runs = [renamed(RUNS[0], method) for method in ("second", "first")]
    text = render_markdown(read(copy, runs))
    assert [row[1] for row in table_rows(text, "BLEU-4")] == [
        "second (untuned)",
        "first (untuned)",
    ]
    assert table_rows(text, "Row minus column") == [["first (untuned)", "+0.00 / +0.00"]]


def test_a_single_run_has_no_comparison(tree: Path) -> None:
    text = section(render_markdown(read(tree, RUNS[:1])), TITLE)
    assert text.strip() == "There is only one run, so there is nothing to compare."


def test_a_protocol_without_scores_of_rows_has_no_intervals(copy: Path) -> None:
    for path in (copy / "results/scores").rglob("*.rows.jsonl"):
        write_jsonl(path, [dict.fromkeys(row) for row in row_scores(0)])
    text = render_markdown(read(copy, params=PARAMS | {"protocol": "paddle"}))
    assert "The protocol paddle scores the file as a whole." in section(text, TITLE)
    assert table_rows(text, "BLEU-4")[2][2:4] == ["55.00", "55.00"]


def test_rows_that_a_protocol_skips_are_not_compared(copy: Path) -> None:
    rows = [row if i < 30 else dict.fromkeys(row) for i, row in enumerate(row_scores(24.0))]
    write_jsonl(copy / "results/scores/chatglm-6b/lora.rows.jsonl", rows)
    report = read(copy)
    baseline, _, lora = report.entries_of("chatglm-6b")
    assert report.differences[Comparison("bleu-4", lora.key, baseline.key)].rows == 30


# --- seeds ---------------------------------------------------------------------------------------


SEEDED = [
    *RUNS[:3],
    RUNS[2] | {"method": "lora.seed-43", "seed": 43},
    RUNS[2] | {"method": "lora.seed-44", "seed": 44},
]


@pytest.fixture
def seeded(copy: Path) -> Path:
    """LoRA with three seeds: 24, 26 and 28 on the first row."""
    for seed, base in ((43, 26.0), (44, 28.0)):
        for path in list((copy / "results").rglob("chatglm-6b/lora.*")):
            if ".seed-" not in path.name:
                shutil.copy(path, path.with_name(path.name.replace("lora", f"lora.seed-{seed}", 1)))
        write_scores(copy / "results", "chatglm-6b", f"lora.seed-{seed}", base)
    write_probe(copy / "results", "chatglm-6b", "lora.seed-43", adverts=23)
    return copy


def test_seeds_of_a_method_share_a_row_with_mean_and_deviation(seeded: Path) -> None:
    text = render_markdown(read(seeded, SEEDED))
    rows = table_rows(text, "BLEU-4")
    assert [row[1] for row in rows] == ["none (untuned)", "ptuning", "lora, 3 seeds"]
    assert rows[2][2:4] == ["**57.00 ± 2.00** (49.00 … 64.93)", "**+22.00** (+22.00 … +22.00)"]
    assert rows[2][8] == "83.3 ± 28.9%"
    assert rows[2][11:] == ["12,288 (1.76%)", "1 min 15 s"]


def test_a_small_table_lists_each_seed(seeded: Path) -> None:
    text = render_markdown(read(seeded, SEEDED))
    assert table_rows(text, "Seed") == [
        ["chatglm-6b", "lora", "42", "55.00", "55.00", "100.0%", "1.235", "1.500"],
        ["chatglm-6b", "lora", "43", "57.00", "57.00", "50.0%", "1.235", "1.500"],
        ["chatglm-6b", "lora", "44", "59.00", "59.00", "100.0%", "1.235", "1.500"],
    ]
    assert "Seed" not in render_markdown(read(seeded, RUNS[:3]))


def test_rows_are_compared_by_their_means_over_seeds(seeded: Path) -> None:
    text = section(render_markdown(read(seeded, SEEDED)), TITLE)
    assert table_rows(text, "Row minus column")[1][1] == "**+22.00** / **+22.00**"
    assert "the score of a row is its mean over the seeds" in text


def test_metrics_json_holds_the_means_over_seeds_under_the_methods_name(seeded: Path) -> None:
    numbers = headline(read(seeded, SEEDED))["chatglm-6b"]
    assert set(numbers) == {"none", "ptuning", "lora"}
    assert numbers["lora"]["bleu-4"] == 57.0
    assert numbers["lora"]["general-questions"] == 83.3333


def test_each_seed_has_a_curve_in_the_color_of_its_method(seeded: Path) -> None:
    report = read(seeded, SEEDED)
    assert "chatglm-6b,lora.seed-44,10,2.8" in loss_table(report)
    curves = "".join(panel.body for panel in loss_figure(report).panels)
    assert curves.count('class="line s1" data-model="chatglm-6b" data-method="lora"') == 3
    assert 's2"' not in curves


def test_examples_show_the_answers_of_the_first_seed(seeded: Path) -> None:
    text = section(render_markdown(read(seeded, SEEDED)), "Before and after")
    assert text.count("lora, 3 seeds |") == 2
    assert "Methods with several seeds show the answer of the first one." in text
