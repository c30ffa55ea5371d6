"""The report, rendered from a small made-up results tree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmtune.errors import DataError
from glmtune.files import write_json, write_jsonl, write_text
from glmtune.report import read_report, write_report
from glmtune.report.contents import Report
from glmtune.report.figures import COLOURS, draw_losses, loss_table
from glmtune.report.page import render_html
from glmtune.report.tables import SCORE_COLUMNS, format_seconds
from glmtune.report.writing import headline, render_markdown

SCRIPT = Path(__file__).resolve().parents[1] / "workflow/scripts/render_report.py"
MODELS = {"chatglm-6b": "miniature", "chatglm2-6b": "miniature"}
METHODS = ("none", "ptuning", "lora")
RUNS: list[dict[str, Any]] = [
    {"model": model, "method": method, "is_trained": method != "none"}
    for model in MODELS
    for method in METHODS
]
PROMPTS = ["类型#裙*颜色#白色*裙型#百褶裙", "什么是 | `a*b`？"]
PARAMS: dict[str, Any] = {
    "lr": 0.01,
    "examples": PROMPTS,
    "methods": {method: {} for method in METHODS},
}
ROWS = 42  # so that the means below are whole numbers


def row_scores(base: float) -> list[dict[str, float]]:
    names = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
    return [{name: base + row % 3 + 10 * (row % 7) for name in names} for row in range(ROWS)]


def write_scores(results: Path, model: str, method: str, base: float) -> None:
    rows = row_scores(base)
    means: dict[str, Any] = {name: sum(row[name] for row in rows) / ROWS for name in rows[0]}
    means |= {"attribute-recall": 90.0 + base / 10, "distinct": 87.5, "empty": 2.5}
    means |= {"repetition": 5.0, "length": 41.25, "rows": ROWS}
    write_json(results / f"scores/{model}/{method}.json", means)
    write_jsonl(results / f"scores/{model}/{method}.rows.jsonl", rows)


def write_training(results: Path, model: str, method: str) -> None:
    manifest = {
        "method": method,
        "base": {"sha256": "b" * 64},
        "train_loss": 1.23456,
        "dev_loss": 1.5 if method == "lora" else 2.5,
        "trainable_parameters": 12_288,
        "total_parameters": 700_000,
        "settings": {"lr": 0.02, "method": method},
    }
    write_json(results / f"training/{model}/{method}.json", manifest)
    curve = "".join(f"{step},{3 - step / 50},0.01\n" for step in range(10, 101, 10))
    write_text(results / f"curves/{model}/{method}.csv", "step,loss,learning_rate\n" + curve)


def write_run(results: Path, model: str, method: str) -> None:
    write_scores(results, model, method, {"none": 4.0, "ptuning": 4.0, "lora": 24.0}[method])
    rows = [
        {"prompt": f"类型#裙*颜色#{row}", "labels": f"裙子{row}", "predict": "这件裙子"}
        for row in range(ROWS)
    ]
    write_jsonl(results / f"predictions/{model}/{method}.jsonl", rows)
    answers: list[dict[str, str]] = [
        {
            "prompt": PROMPTS[0],
            "predict": f"{method}: 这款百褶裙|很*美*",
            "labels": "白色的参考文案",
        },
        {"prompt": PROMPTS[1], "predict": "" if method == "none" else "第一行\n<b>第二行</b>"},
    ]
    write_jsonl(results / f"examples/{model}/{method}.jsonl", answers)
    facts = {"hardware": "CPU, 2 cores", "versions": {"torch": "2.13.0"}, "git_commit": "abc1234"}
    steps = ["generate_predictions"]
    if method != "none":
        write_training(results, model, method)
        steps.append("finetune_model")
    for step in steps:
        runtime = facts | {"seconds": 75.2, "peak_memory_mib": 812.5}
        write_json(results / f"runtime/{step}/{model}/{method}.json", runtime)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for model, source in MODELS.items():
        files = {"config.json": "c" * 64, "model.safetensors": "d" * 64}
        manifest = {"generation": model, "source": source, "parameters": 700_000, "files": files}
        write_json(root / f"results/models/{model}.json", manifest)
        for method in METHODS:
            write_run(root / "results", model, method)
    parts = {"train": {"rows": 6000, "sha256": "e" * 64}, "dev": {"rows": ROWS, "sha256": "f" * 64}}
    write_json(
        root / "data/dataset/manifest.json", {"source": {"kind": "sample", "seed": 42}} | parts
    )
    return root


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "copy"))


def read(
    root: Path, runs: Sequence[dict[str, Any]] = RUNS, params: dict[str, Any] = PARAMS
) -> Report:
    return read_report(runs, params, results_dir=root / "results", data_dir=root / "data")


def move_run(root: Path, method: str, name: str) -> None:
    """Call a method of chatglm-6b by another name in every folder of the results."""
    for path in list((root / "results").rglob(f"chatglm-6b/{method}.*")):
        path.rename(path.with_name(path.name.replace(method, name, 1)))


def change(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def table_rows(markdown: str, first_column: str) -> list[list[str]]:
    """The cells of the rows below the first table head that holds `first_column`."""
    lines = iter(markdown.splitlines())
    for line in lines:
        if line.startswith("| Model") and first_column in line:
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.replace("\N{NO-BREAK SPACE}", " "))
        rows.append([cell.strip() for cell in cells[1:-1]])
    return rows


class Page(HTMLParser):
    """What a browser would find: table rows, links to elsewhere, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.text = 0, ""
        self.links: list[str | None] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.rows += tag == "tr"
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_table_has_a_row_per_run_with_the_untuned_model_first(tree: Path) -> None:
    shuffled = [RUNS[2], RUNS[0], RUNS[1], *RUNS[3:]]
    rows = table_rows(render_markdown(read(tree, shuffled)), "BLEU-4")
    assert [row[:2] for row in rows[:3]] == [
        ["chatglm-6b", "none (untuned)"],
        ["chatglm-6b", "lora"],
        ["chatglm-6b", "ptuning"],
    ]
    assert len(rows) == len(RUNS)
    assert all(len(row) == 2 + len(SCORE_COLUMNS) for row in rows)


def test_a_row_shows_scores_intervals_losses_parameters_and_time(tree: Path) -> None:
    none, ptuning, lora = table_rows(render_markdown(read(tree)), "BLEU-4")[:3]
    assert lora[2:] == [
        "**55.00** (+20.00 … +20.00)",
        "**55.00**",
        "**55.00**",
        "**55.00** (+20.00 … +20.00)",
        "**92.4 %**",
        "87.5 %",
        "1.235",
        "**1.500**",
        "12,288 (1.76 %)",
        "1 min 15 s",
    ]
    assert ptuning[2] == "35.00 (+0.00 … +0.00)"
    assert none[2] == "35.00"
    assert none[8:] == ["–", "–", "–", "–"]


def test_words_tell_a_real_difference_from_none(tree: Path) -> None:
    text = render_markdown(read(tree))
    assert "    - lora: BLEU-4 is **higher** by 20.00 (+20.00 … +20.00)" in text
    assert "    - ptuning: BLEU-4 shows no real difference (+0.00 … +0.00)" in text
    assert "10,000 resamples of the 42 dev rows" in text


def test_a_worse_run_is_called_lower(copy: Path) -> None:
    write_scores(copy / "results", "chatglm-6b", "lora", 1.0)
    assert "    - lora: BLEU-4 is **lower** by 3.00 (-3.00 … -3.00)" in render_markdown(read(copy))


def test_miniatures_are_called_so_and_real_weights_are_not(copy: Path) -> None:
    for model, source, parameters in [("a", "hub", 6_243_584_000), ("b", "random", None)]:
        manifest = {"generation": "chatglm-6b", "source": source, "parameters": parameters}
        write_json(copy / f"results/models/{model}.json", manifest)
        for folder in ("scores", "predictions", "examples", "runtime/generate_predictions"):
            shutil.copytree(
                copy / f"results/{folder}/chatglm-6b", copy / f"results/{folder}/{model}"
            )
    runs = [RUNS[0] | {"model": model} for model in ("chatglm-6b", "a", "b")]
    text = render_markdown(read(copy, runs))
    assert "- chatglm-6b: miniature, about 0.7 million parameters\n" in text
    assert "- a: hub, about 6.2 billion parameters\n" in text
    assert "- b: random, unknown size\n" in text
    assert "A **miniature** has the real architecture at a tiny size" in text
    assert "A model with **random weights** has the real configuration" in text
    only_real = render_markdown(read(copy, runs[1:2]))
    assert "miniature" not in only_real.split("## Scores")[0]


def test_the_opening_names_rows_data_and_methods(tree: Path) -> None:
    opening = render_markdown(read(tree)).splitlines()[2]
    assert "the same 42 dev prompts of the synthetic sample data" in opening
    assert "untuned and after tuning with ptuning, lora." in opening


def test_answers_that_hit_the_length_limit_are_counted(copy: Path) -> None:
    path = copy / "results/predictions/chatglm-6b/none.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_jsonl(path, [row | {"finished": index > 20} for index, row in enumerate(rows)])
    none, ptuning = table_rows(render_markdown(read(copy)), "Cut off")[:2]
    assert none[2:] == ["41.2 characters", "2.5 %", "5.0 %", "50.0 %", "1 min 15 s"]
    assert ptuning[5] == "–"


def test_few_rows_prove_nothing(copy: Path) -> None:
    for method in METHODS:
        change(copy / f"results/scores/chatglm-6b/{method}.json", rows=5)
        for folder in ("scores", "predictions"):
            suffix = ".rows.jsonl" if folder == "scores" else ".jsonl"
            path = copy / f"results/{folder}/chatglm-6b/{method}{suffix}"
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[:5]), encoding="utf-8")
    text = render_markdown(read(copy, RUNS[:3]))
    assert "5 dev rows are too few to call any difference real; at least 20 are needed." in text
    assert "lora: BLEU-4 shows no real difference (+20.00 … +20.00)" in text


def test_answers_stand_side_by_side_with_the_reference(tree: Path) -> None:
    text = render_markdown(read(tree))
    first, second = (
        text.split("## Before and after")[1].split("## Loss curves")[0].split("### ")[1:]
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
    page = Page(render_html(render_markdown(report), draw_losses(report)))
    assert "lora: 这款百褶裙|很*美*" in page.text
    assert "第一行 ⏎ <b>第二行</b>" in page.text
    assert "什么是 | `a*b`？" in page.text
    assert "b" not in page.tags


def test_a_text_that_cannot_be_written_does_not_stop_the_report(copy: Path) -> None:
    path = copy / "results/examples/chatglm-6b/lora.jsonl"
    answers = [{"prompt": prompt, "predict": "坏\ud83d字\x00"} for prompt in PROMPTS]
    path.write_text("\n".join(map(json.dumps, answers)) + "\n", encoding="utf-8")
    write_report(read(copy), copy / "out")
    assert "坏" in (copy / "out/report.md").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file_and_no_script(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [str(link)[:26] for link in page.links] == ["data:image/svg+xml;base64,"]
    assert not page.tags & {"script", "link", "iframe"}
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.rows == sum(
        line.startswith("|") and "| ---" not in line for line in markdown.splitlines()
    )
    assert "![Training loss over steps, one panel a model](plots/loss.svg)" in markdown


def test_rendering_twice_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    names = ["report.md", "report.html", "metrics.json", "plots/loss.csv", "plots/loss.svg"]
    for folder in ("once", "twice"):
        write_report(read(tree), tmp_path / folder)
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert {
        path.relative_to(tmp_path / "once").as_posix() for path in (tmp_path / "once").rglob("*.*")
    } == set(names)


def test_the_headline_holds_few_rounded_numbers(copy: Path) -> None:
    change(copy / "results/training/chatglm-6b/lora.json", dev_loss=None)
    numbers = headline(read(copy))
    scores = {"bleu-4": 55.0, "rouge-1": 55.0, "rouge-2": 55.0, "rouge-l": 55.0}
    texts = {"attribute-recall": 92.4, "distinct": 87.5}
    assert numbers["chatglm-6b"]["lora"] == {**scores, **texts, "train-loss": 1.2346}
    assert set(numbers) == set(MODELS)
    assert set(numbers["chatglm-6b"]) == set(METHODS)
    assert "train-loss" not in numbers["chatglm-6b"]["none"]


def test_the_loss_table_holds_every_point(tree: Path) -> None:
    lines = loss_table(read(tree)).splitlines()
    assert lines[:2] == ["model,method,step,loss", "chatglm-6b,ptuning,10,2.8"]
    assert len(lines) == 1 + 4 * 10


def test_the_picture_draws_each_method_in_one_colour(tree: Path) -> None:
    picture = draw_losses(read(tree)).lower()
    assert picture.startswith("<?xml")
    assert COLOURS[0].lower() in picture
    assert COLOURS[1].lower() in picture
    assert COLOURS[2].lower() not in picture


def test_untuned_models_alone_make_a_report(tree: Path, tmp_path: Path) -> None:
    write_report(read(tree, [RUNS[0]], PARAMS | {"examples": []}), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No run was trained." in text
    assert "No example prompts were asked for." in text
    assert len(table_rows(text, "BLEU-4")) == 1


def test_without_the_untuned_model_there_is_nothing_to_compare(tree: Path) -> None:
    text = render_markdown(read(tree, RUNS[1:3]))
    assert "sample data, which this workflow's own grammar writes, after tuning with" in text
    assert "- **chatglm-6b**: no run of the untuned model to compare with." in text
    assert table_rows(text, "BLEU-4")[1][2] == "**55.00**"


def test_provenance_names_data_models_machine_commit_and_parameters(tree: Path) -> None:
    text = render_markdown(read(tree)).split("## What was run")[1]
    assert "| chatglm-6b | lora | finetune_model | 1 min 15 s | 812 MiB |" in text
    assert "All steps:" in text
    for fact in ("e" * 64, "f" * 64, "d" * 64, "CPU, 2 cores", "torch: 2.13.0", "abc1234"):
        assert fact in text
    assert '- chatglm-6b / lora: `{"lr": 0.02, "method": "lora"}`' in text


def test_different_machines_are_told_apart(copy: Path) -> None:
    facts = {"seconds": 1.0, "peak_memory_mib": None, "hardware": "GPU"}
    write_json(copy / "results/runtime/finetune_model/chatglm-6b/lora.json", facts)
    text = render_markdown(read(copy))
    assert "All steps:" not in text
    assert "chatglm-6b / lora finetune_model:\n\n````yaml\nhardware: GPU\n````" in text


def test_runs_on_different_rows_are_refused(copy: Path) -> None:
    path = copy / "results/predictions/chatglm2-6b/lora.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match="predictions of chatglm2-6b / lora: not the dev rows"):
        render_markdown(read(copy))


def test_a_missing_answer_names_run_and_prompt(tree: Path) -> None:
    with pytest.raises(DataError, match="examples of chatglm-6b / none: no answer to '新的'"):
        render_markdown(read(tree, params=PARAMS | {"examples": ["新的"]}))


@pytest.mark.parametrize(
    "name",
    [
        "models/chatglm-6b.json",
        "scores/chatglm-6b/none.json",
        "scores/chatglm-6b/none.rows.jsonl",
        "predictions/chatglm-6b/none.jsonl",
        "examples/chatglm-6b/none.jsonl",
        "training/chatglm-6b/lora.json",
        "curves/chatglm-6b/lora.csv",
        "runtime/finetune_model/chatglm-6b/lora.json",
        "runtime/generate_predictions/chatglm-6b/none.json",
    ],
)
def test_a_missing_or_broken_result_is_named(copy: Path, name: str) -> None:
    path = copy / "results" / name
    path.write_text("broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(name)):
        read(copy)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{name}: no such file")):
        read(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results/scores/chatglm-6b/lora.json", {"bleu-4": 1}, "no key 'rows'; found 'bleu-4'"),
        ("results/models/chatglm-6b.json", {"files": {}}, "no key 'generation'; found 'files'"),
        ("results/models/chatglm-6b.json", [], "found list where 'generation' should be"),
        ("results/training/chatglm-6b/lora.json", {}, "no key 'settings'; found nothing"),
        ("results/runtime/finetune_model/chatglm-6b/lora.json", {}, "no key 'seconds'"),
        ("results/examples/chatglm-6b/lora.jsonl", {"prompt": "a"}, "line 1: no key 'predict'"),
        ("results/predictions/chatglm-6b/lora.jsonl", {"predict": "a"}, "line 1: no key 'labels'"),
        ("results/scores/chatglm-6b/lora.rows.jsonl", {"bleu-4": 1}, "line 1: no key 'rouge-l'"),
        ("data/dataset/manifest.json", {"source": {}}, "no key 'source.kind'"),
        ("data/dataset/manifest.json", {"source": {"kind": "a"}}, "no key 'train.rows'"),
    ],
)
def test_a_missing_key_is_named(copy: Path, name: str, content: Any, message: str) -> None:
    (copy / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{name}: {message}")):
        read(copy)


@pytest.mark.parametrize("name", ["scores/chatglm-6b/lora.rows", "predictions/chatglm-6b/lora"])
def test_fewer_rows_than_were_scored_are_refused(copy: Path, name: str) -> None:
    path = copy / f"results/{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{name}.jsonl: 41 rows; expected 42")):
        read(copy)


def test_an_untrained_run_of_any_name_is_the_baseline(copy: Path) -> None:
    move_run(copy, "none", "as-it-came")
    methods = {"as-it-came": {"method": "none"}, "ptuning": {}, "lora": {}}
    runs = [*RUNS[1:3], RUNS[0] | {"method": "as-it-came"}]
    text = render_markdown(read(copy, runs, PARAMS | {"methods": methods}))
    rows = table_rows(text, "BLEU-4")
    assert [row[1] for row in rows] == ["as-it-came (untuned)", "ptuning", "lora"]
    assert rows[2][2] == "**55.00** (+20.00 … +20.00)"


def test_a_second_untrained_run_is_compared_with_the_first(copy: Path) -> None:
    move_run(copy, "none", "first")
    for path in list((copy / "results").rglob("chatglm-6b/first.*")):
        shutil.copy(path, path.with_name(path.name.replace("first", "second")))
    runs = [RUNS[0] | {"method": method} for method in ("second", "first")]
    text = render_markdown(read(copy, runs))
    assert [row[1] for row in table_rows(text, "BLEU-4")] == [
        "second (untuned)",
        "first (untuned)",
    ]
    assert "    - first (untuned): BLEU-4 shows no real difference (+0.00 … +0.00)" in text


def test_a_trained_run_may_have_any_name_and_shows_its_method(copy: Path) -> None:
    move_run(copy, "lora", "none-but-small")
    runs = [*RUNS[:2], RUNS[2] | {"method": "none-but-small"}]
    methods = {"none": {}, "ptuning": {}, "none-but-small": {"method": "lora"}}
    text = render_markdown(read(copy, runs, PARAMS | {"methods": methods}))
    assert table_rows(text, "BLEU-4")[2][1] == "none-but-small (lora)"
    assert "untuned and after tuning with ptuning, none-but-small (lora)." in text
    assert "    - none-but-small (lora): BLEU-4 is **higher** by 20.00" in text
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


def run_script(root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_script_writes_beside_the_results(copy: Path) -> None:
    values = json.dumps(PARAMS, ensure_ascii=False, sort_keys=True)
    done = run_script(copy, "--runs", json.dumps(RUNS), "--params", values)
    assert (done.returncode, done.stderr) == (0, "")
    assert (copy / "results/report.md").is_file()
    assert set(json.loads((copy / "results/metrics.json").read_text(encoding="utf-8"))) == set(
        MODELS
    )


GOOD_RUNS = json.dumps(RUNS)


@pytest.mark.parametrize(
    ("runs", "params", "message"),
    [
        ("[]", "{}", "error: --runs: found []; expected a JSON list like [{"),
        ("[{]", "{}", "error: --runs: found [{]; expected JSON ("),
        ('["chatglm-6b"]', "{}", 'error: --runs: found ["chatglm-6b"]; expected a JSON list'),
        ('[{"model": "a", "method": "b"}]', "{}", "error: --runs: found [{"),
        (GOOD_RUNS, "类型", "error: --params: found 类型; expected JSON ("),
        (GOOD_RUNS, "[]", "error: --params: found []; expected a JSON object"),
        (GOOD_RUNS, "{}", "error: --params: found {}; expected a JSON object"),
        (GOOD_RUNS, '{"examples": [1]}', 'error: --params: found {"examples": [1]}; expected'),
    ],
)
def test_wrong_flags_are_explained(tmp_path: Path, runs: str, params: str, message: str) -> None:
    done = run_script(tmp_path, "--runs", runs, "--params", params)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_importing_the_report_loads_no_heavy_package() -> None:
    heavy = {"matplotlib", "markdown_it", "jieba", "nltk", "torch", "transformers"}
    code = f"import sys, glmtune.report; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
