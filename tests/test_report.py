"""The report, rendered from a small made-up results tree: its tables, page and files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from report_tree import (
    METHODS,
    MODELS,
    PARAMS,
    PROMPTS,
    RUNS,
    Page,
    change,
    move_run,
    read,
    renamed,
    spaced,
    table_rows,
    write_tokens,
)

from glmtune.durations import format_seconds
from glmtune.errors import printable
from glmtune.files import write_json
from glmtune.report.figures import loss_table
from glmtune.report.page import render_page
from glmtune.report.tables import score_columns
from glmtune.report.writing import headline, render_markdown, render_sections, write_report


def test_the_table_has_a_row_per_run_with_the_untuned_model_first(tree: Path) -> None:
    shuffled = [RUNS[2], RUNS[0], RUNS[1], *RUNS[3:]]
    rows = table_rows(render_markdown(read(tree, shuffled)), "BLEU-4")
    assert [row[:2] for row in rows[:3]] == [
        ["chatglm-6b", "none (untuned)"],
        ["chatglm-6b", "lora"],
        ["chatglm-6b", "ptuning"],
    ]
    assert len(rows) == len(RUNS)
    assert all(len(row) == 2 + len(score_columns(read(tree))) for row in rows)


def test_a_row_shows_scores_intervals_losses_parameters_and_time(tree: Path) -> None:
    none, ptuning, lora = table_rows(render_markdown(read(tree)), "BLEU-4")[:3]
    assert lora[2:] == [
        "**55.00** (47.00 … 62.93)",
        "**+20.00** (+20.00 … +20.00)",
        "55.00",
        "55.00",
        "**55.00** (47.00 … 62.93)",
        "**+20.00** (+20.00 … +20.00)",
        "100.0%",
        "1.235",
        "1.500",
        "12,288 (1.76%)",
        "1 min 15 s",
    ]
    assert ptuning[2:4] == ["35.00 (27.00 … 42.93)", "+0.00 (+0.00 … +0.00)"]
    assert none[2:4] == ["35.00 (27.00 … 42.93)", "–"]
    assert none[9:] == ["–", "–", "–", "–"]


def test_only_miniatures_are_called_miniatures(copy: Path) -> None:
    for model, source, parameters in [("a", "hub", 6_243_584_000), ("b", "random", None)]:
        manifest = {"family": "chatglm-6b", "source": source, "parameters": parameters}
        write_json(copy / f"results/models/{model}.json", manifest)
        write_tokens(copy / "data", model)
        for folder in (
            "scores",
            "predictions",
            "examples",
            "probe",
            "runtime/generate_predictions",
        ):
            folder = f"results/{folder}"
            shutil.copytree(copy / folder / "chatglm-6b", copy / folder / model)
    runs = [RUNS[0] | {"model": model} for model in ("chatglm-6b", "a", "b")]
    text = render_markdown(read(copy, runs))
    assert "- chatglm-6b: miniature, about 0.7 million parameters\n" in text
    assert "- a: hub, about 6.2 billion parameters\n" in text
    assert "- b: random, unknown size\n" in text
    assert "A **miniature** is built by this workflow; it has the real architecture" in text
    assert "A model with **random weights** has the real configuration" in text
    only_real = render_markdown(read(copy, runs[1:2]))
    assert "miniature" not in only_real.split("## Scores")[0]


def test_the_opening_names_rows_data_and_methods(tree: Path) -> None:
    opening = render_markdown(read(tree)).splitlines()[2]
    assert "the same 42 dev prompts of the synthetic sample data" in opening
    assert "untuned and after tuning with ptuning, lora." in opening


def test_answers_that_hit_the_length_limit_are_counted(copy: Path) -> None:
    change(copy / "results/scores/chatglm-6b/none.json", **{"cut-off": 50.0})
    none, ptuning = table_rows(render_markdown(read(copy)), "Cut off")[:2]
    assert none[2:5] == ["41.2", "90.4%", "–"]  # older scores have no attribute precision
    assert none[5:] == ["87.5%", "33.3%", "5.0%", "2.5%", "50.0%", "1 min 15 s"]
    assert ptuning[9] == "–"


def test_fairer_references_are_shown_only_where_they_change_a_score(copy: Path) -> None:
    assert "fairer" not in render_markdown(read(copy))
    change(copy / "results/scores/chatglm-6b/lora.json", **{"bleu-4-no-unk": 58.0})
    text = render_markdown(read(copy))
    assert table_rows(text, "BLEU-4, without \\<UNK\\>")[1:3] == [
        ["chatglm-6b", "ptuning", "35.00"],
        ["chatglm-6b", "lora", "58.00"],
    ]
    assert "any reference |" not in text


def test_answers_are_shown_side_by_side_with_the_reference(tree: Path) -> None:
    text = render_markdown(read(tree))
    first, second = (
        text.split("## Before and after")[1].split("## All answers")[0].split("### ")[1:]
    )
    assert first.startswith("`类型#裙*颜色#白色*裙型#百褶裙`\n")
    assert [row[1] for row in table_rows(first, "Answer")] == [
        "none (untuned)",
        *METHODS[1:],
    ] * 2 + [""]
    assert "| chatglm-6b | lora | lora: 这款百褶裙\\|很\\*美\\* |" in first
    assert "| reference |  | 白色的参考文案 |" in first
    assert "| chatglm-6b | none (untuned) | *(empty)* |" in second
    assert "reference" not in second


def test_texts_are_shown_exactly_in_the_page(tree: Path) -> None:
    report = read(tree)
    page = Page(render_page(render_sections(report)))
    assert "lora: 这款百褶裙|很*美*" in page.text
    assert "第一行 ⏎ <b>第二行</b>" in page.text
    assert "什么是 | `a*b`？" in page.text
    assert "b" not in page.tags


# An escape sequence, a bell, direction marks, a zero-width space, a lone surrogate, a NUL, and
# Markdown and HTML syntax.
FIGURES = ("scores", "forgetting", "lengths", "loss", "cost")
HOSTILE = (
    "裙\x1b[31m\x07\u202e\u2066\u200b\ud83d\x00|<script>x</script>[a](b)"
    "\x85👩\u200d🔬❤\ufe0f\u3000。"
)
SHOWN = (
    r"裙\x1b[31m\x07\u202e\u2066\u200b\ud83d\x00|<script>x</script>[a](b)"
    " ⏎ 👩\u200d🔬❤\ufe0f\u3000。"
)


def fill_with(hostile: str, root: Path) -> None:
    """Put a text wherever the report shows content of data, answers or untrusted files."""
    for method in METHODS:
        results = root / "results"
        for name in ("examples", "probe"):
            path = results / f"{name}/chatglm-6b/{method}.jsonl"
            lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            changed = [json.dumps(line | {"predict": hostile}) for line in lines]
            path.write_text("\n".join(changed) + "\n", encoding="utf-8")
    data = root / "data/dataset"
    manifest, card = (json.loads((data / f"{n}.json").read_text()) for n in ("manifest", "card"))
    manifest["source"]["file"] = hostile
    manifest["train"]["notes"] = {hostile: 2}
    card["splits"]["train"]["attributes"] = {hostile: 3, hostile * 9: 2}
    card["licence"] = hostile
    training = root / "results/training/chatglm-6b/lora.json"
    settings = {"lr": 0.02, "target": hostile}
    model = root / "results/models/chatglm-6b.json"
    for path, values in (
        (data / "manifest.json", manifest),
        (data / "card.json", card),
        (training, {"notes": [hostile], "settings": settings}),
        (model, {"files": {hostile: "c" * 64}}),
        (root / "data/tokenized/chatglm-6b/manifest.json", {"template": hostile}),
    ):
        values = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps(values), encoding="utf-8")


def test_untrusted_texts_control_neither_terminal_nor_page(copy: Path) -> None:
    fill_with(HOSTILE, copy)
    params = PARAMS | {"hostile": HOSTILE}
    write_report(read(copy, params=params), copy / "out")
    for name in ("report.md", "report.html", "data_card.md"):
        text = (copy / "out" / name).read_text(encoding="utf-8")
        assert text.replace("\n", "") == printable(text).replace("\n", ""), name
    html = (copy / "out/report.html").read_text(encoding="utf-8")
    page = Page(html)
    # Answers to an example and a probe question, a note, licence, ...
    assert page.text.count(SHOWN) >= 3 * len(PROMPTS) + 5
    assert html.count("<script") == 2  # the packed answers and the page's own
    assert all(str(link).startswith("#") for link in page.links)
    markdown = (copy / "out/report.md").read_text(encoding="utf-8")
    assert {len(row) for row in table_rows(markdown, "Answer |")} == {3}


def test_a_long_name_is_truncated(copy: Path) -> None:
    change(copy / "results/models/chatglm-6b.json", files={"a" * 500: "c" * 64})
    rows = table_rows(render_markdown(read(copy)), "| File |")
    assert [row[1] for row in rows if row[1].startswith("aa")] == ["a" * 100 + "…"]


def test_the_page_needs_no_other_file_and_nothing_of_it_needs_a_script(
    tree: Path, tmp_path: Path
) -> None:
    write_report(read(tree), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.sources == []
    assert all(str(link).startswith("#") for link in page.links)
    assert not page.tags & {"link", "iframe", "img", "object", "embed"}
    assert not re.search(r"https?:|@import|url\(", text)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.rows == sum(
        line.startswith("|") and "| ---" not in line for line in markdown.splitlines()
    )
    for name in FIGURES:
        assert f"](figures/{name}.svg)" in markdown


def test_rendering_twice_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    names = ["report.md", "report.html", "data_card.md", "metrics.json"]
    names += ["plots/loss.csv", "plots/scores.csv", *(f"figures/{name}.svg" for name in FIGURES)]
    for folder in ("once", "twice"):
        write_report(read(tree), tmp_path / folder)
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert {
        path.relative_to(tmp_path / "once").as_posix() for path in (tmp_path / "once").rglob("*.*")
    } == set(names)


def test_the_plotted_scores_are_a_row_per_model_method_and_score(
    tree: Path, tmp_path: Path
) -> None:
    write_report(read(tree), tmp_path)
    rows = (tmp_path / "plots/scores.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "model,method,score,value"
    assert len(rows) == 1 + len(MODELS) * len(METHODS) * 3
    assert "chatglm-6b,lora,bleu-4,55.0" in rows


def test_the_headline_has_a_few_rounded_numbers(copy: Path) -> None:
    change(copy / "results/training/chatglm-6b/lora.json", dev_loss=None)
    numbers = headline(read(copy))
    scores = {"bleu-4": 55.0, "rouge-1": 55.0, "rouge-2": 55.0, "rouge-l": 55.0}
    texts = {"attribute-recall": 92.4, "distinct": 87.5, "general-questions": 100.0}
    assert numbers["chatglm-6b"]["lora"] == {**scores, **texts, "train-loss": 1.2346}
    assert set(numbers) == set(MODELS)
    assert set(numbers["chatglm-6b"]) == set(METHODS)
    assert "train-loss" not in numbers["chatglm-6b"]["none"]


def test_the_loss_table_has_every_point(tree: Path) -> None:
    lines = loss_table(read(tree)).splitlines()
    assert lines[:2] == ["model,method,step,loss", "chatglm-6b,ptuning,10,2.8"]
    assert len(lines) == 1 + 4 * 10


def test_a_method_has_the_same_color_in_every_figure(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree), tmp_path)
    for name in FIGURES:
        picture = (tmp_path / f"figures/{name}.svg").read_text(encoding="utf-8")
        found = re.findall(r'class="[^"]*\b(s\d)"[^>]*data-method="(\w+)"', picture)
        marks = re.findall(r"<g>.*?</g>", picture)
        assert set(found) <= {("s0", "ptuning"), ("s1", "lora")}, (name, marks)
        assert 's0"' in picture
        assert 's2"' not in picture


def test_untuned_models_alone_make_a_report(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree, [RUNS[0]], PARAMS | {"examples": []}), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No run was trained." in text
    assert "No example prompts are configured." in text
    assert len(table_rows(text, "BLEU-4")) == 1


def test_provenance_names_data_models_machine_commit_and_parameters(tree: Path) -> None:
    text = render_markdown(read(tree)).split("## What was run")[1]
    assert "| chatglm-6b | lora | finetune_model | 1 min 15 s | – | – | 812 MiB |" in text
    assert "All steps:" in text
    for fact in ("e" * 64, "f" * 64, "d" * 64, "CPU, 2 cores", "torch: 2.13.0", "abc1234"):
        assert fact in text
    assert '- chatglm-6b / lora: `{"lr": 0.02, "method": "lora"}`' in text


def test_the_throughput_of_a_training_is_shown_beside_its_time(copy: Path) -> None:
    facts = {"tokens_per_second": 12345.6, "mfu": 0.41, "estimated_memory_mib": 790}
    change(copy / "results/runtime/finetune_model/chatglm-6b/lora.json", **facts)
    rows = table_rows(render_markdown(read(copy)), "Tokens/s")
    assert ["1 min 15 s", "12,346", "41%", "812 MiB (790)"] in [row[3:] for row in rows]


def test_different_machines_are_listed_separately(copy: Path) -> None:
    facts = {"seconds": 1.0, "peak_memory_mib": None, "hardware": "GPU"}
    write_json(copy / "results/runtime/finetune_model/chatglm-6b/lora.json", facts)
    text = render_markdown(read(copy))
    assert "All steps:" not in text
    assert "chatglm-6b / lora finetune_model:\n\n````yaml\nhardware: GPU\n````" in text


def test_a_trained_run_may_have_any_name_and_shows_its_method(copy: Path) -> None:
    move_run(copy, "lora", "none-but-small")
    runs = [*RUNS[:2], renamed(RUNS[2], "none-but-small")]
    methods = {"none": {}, "ptuning": {}, "none-but-small": {"method": "lora"}}
    text = render_markdown(read(copy, runs, PARAMS | {"methods": methods}))
    assert table_rows(text, "BLEU-4")[2][1] == "none-but-small (lora)"
    assert "untuned and after tuning with ptuning, none-but-small (lora)." in text
    assert "| none-but-small (lora) | **+20.00** / **+20.00** |" in spaced(text)
    assert "chatglm-6b,none-but-small,10,2.8" in loss_table(read(copy, runs))


def test_parameters_are_readable_and_keep_their_order(tree: Path) -> None:
    long = "类型#裙 " * 30 + "版型#显瘦"
    values = {"lr": 0.01, "examples": [], "b": {"z": None, "a": [long, "````", "是😀"]}}
    text = render_markdown(read(tree, params=values)).split("### Parameters\n\n")[1]
    fence, *lines, last = text.rstrip().splitlines()
    assert (fence, last) == ("`````yaml", "`````")
    assert lines[:5] == ["lr: 0.01", "examples: []", "b:", "  z: null", "  a:"]
    assert long in lines[5]
    assert yaml.safe_load("\n".join(lines)) == values


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (5.25, "5.2 s"),
        (59.96, "1 min 0 s"),
        (75.2, "1 min 15 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
