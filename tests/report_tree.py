"""A small made-up results tree, and helpers that read a rendered report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from glmtune.files import write_json, write_jsonl, write_text
from glmtune.metrics.protocols import PROTOCOLS
from glmtune.metrics.scorings import METRICS
from glmtune.report.contents import Report
from glmtune.report.reading import read_report
from glmtune.report.request import parse_params, parse_runs
from glmtune.synthetic.general_qa import probe_rows

MODELS = {"chatglm-6b": "miniature", "chatglm2-6b": "miniature"}
METHODS = ("none", "ptuning", "lora")
RUNS: list[dict[str, Any]] = [
    {
        "model": model,
        "method": method,
        "entry": method,
        "seed": 42,
        "is_trained": method != "none",
    }
    for model in MODELS
    for method in METHODS
]
PROMPTS = ["类型#裙*颜色#白色*裙型#百褶裙", "什么是 | `a*b`？"]
PARAMS: dict[str, Any] = {
    "lr": 0.01,
    "max_source_tokens": 96,
    "max_target_tokens": 128,
    "protocol": "glmtune",
    "examples": PROMPTS,
    "methods": {method: {} for method in METHODS},
}
ROWS = 42  # so that the means below are whole numbers
BASES = {"none": 4.0, "ptuning": 4.0, "lora": 24.0}
TRAINING_ANSWERS = ["这款裙子让人心动，面料柔软。", "好看的鞋很有新意，走路带风。"]
QUESTIONS = probe_rows()


def row_scores(base: float) -> list[dict[str, Any]]:
    return [{name: base + row % 3 + 10 * (row % 7) for name in METRICS} for row in range(ROWS)]


def write_scores(results: Path, model: str, method: str, base: float) -> None:
    rows = row_scores(base)
    means: dict[str, Any] = {name: sum(row[name] for row in rows) / ROWS for name in METRICS}
    protocols = {name: {"rows": ROWS, **means} for name in PROTOCOLS}
    protocols["finetune_demo"] = {"rows": 42, **means, "bleu-4": base / 1000}
    protocols["paddle"] = {"rows": ROWS, **dict.fromkeys(METRICS), "bleu-4": base / 100}
    means |= {f"{score}-{kind}": means[score] for score in METRICS for kind in ("no-unk", "multi")}
    means |= {"attribute-recall": 90.0 + base / 10, "distinct": 87.5, "empty": 2.5}
    means |= {"repetition": 5.0, "distinct-4": 33.3, "length": 41.25, "cut-off": None}
    scores = means | {"rows": ROWS, "protocols": protocols}
    write_json(results / f"scores/{model}/{method}.json", scores)
    write_jsonl(results / f"scores/{model}/{method}.rows.jsonl", rows)


def write_training(results: Path, model: str, method: str) -> None:
    manifest = {
        "method": method,
        "base": {"sha256": "b" * 64},
        "steps": 100,
        "best_step": None,
        "notes": [],
        "train_loss": 1.23456,
        "dev_loss": 1.5 if method == "lora" else 2.5,
        "trainable_parameters": 12_288,
        "total_parameters": 700_000,
        "settings": {"lr": 0.02, "method": method},
    }
    write_json(results / f"training/{model}/{method}.json", manifest)
    curve = "".join(f"{step},{3 - step / 50},0.01,\n" for step in range(10, 101, 10))
    head = "step,loss,learning_rate,dev_loss\n"
    write_text(results / f"curves/{model}/{method}.csv", head + curve)


def write_probe(results: Path, model: str, method: str, adverts: int) -> None:
    """Write correct answers, but ads for the first `adverts` questions."""
    answers = [
        {
            "prompt": row["content"],
            "labels": row["summary"],
            "predict": TRAINING_ANSWERS[0] if index < adverts else row["summary"],
            "finished": True,
        }
        for index, row in enumerate(QUESTIONS)
    ]
    write_jsonl(results / f"probe/{model}/{method}.jsonl", answers)


def write_run(results: Path, model: str, method: str) -> None:
    write_scores(results, model, method, BASES[method])
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
    write_probe(results, model, method, adverts=36 if method == "ptuning" else 0)
    facts = {"hardware": "CPU, 2 cores", "versions": {"torch": "2.13.0"}, "git_commit": "abc1234"}
    steps = ["generate_predictions"]
    if method != "none":
        write_training(results, model, method)
        steps.append("finetune_model")
    for step in steps:
        runtime = facts | {"seconds": 75.2, "peak_memory_mib": 812.5}
        write_json(results / f"runtime/{step}/{model}/{method}.json", runtime)


def spread(mean: float) -> dict[str, float]:
    return {"min": 1, "mean": mean, "median": 2, "p95": 50, "max": 60}


def write_data(data: Path) -> None:
    parts = {"train": {"rows": 6000, "sha256": "e" * 64}, "dev": {"rows": ROWS, "sha256": "f" * 64}}
    write_json(data / "dataset/manifest.json", {"source": {"kind": "sample", "seed": 42}} | parts)
    splits = {
        split: {
            "rows": facts["rows"],
            "prompt_characters": spread(28.97),
            "answer_characters": spread(65.6),
            "multi_turn_rows": 0,
            "repeated_rows": 3 if split == "train" else 0,
            "repeated_prompts": 60 if split == "train" else 0,
            "unk_answers": 0,
            "brand_answers": 0,
            "attributes": {"类型": 6000, "颜色": 3500},
        }
        for split, facts in parts.items()
    }
    leakage = {"pairs": 1, "prompts": 3, "answers": 1}
    card = {"splits": splits, "leakage": leakage, "licence": None}
    write_json(data / "dataset/card.json", card)
    rows = [{"content": "类型#裙", "summary": answer} for answer in TRAINING_ANSWERS]
    write_jsonl(data / "dataset/train.jsonl", rows)


def write_tokens(data: Path, model: str) -> None:
    splits = {
        split: {
            "rows": rows,
            "tokens": 100 * rows,
            "target_tokens": 50 * rows,
            "sha256": "a" * 64,
            "prompt_tokens": spread(21.08),
            "answer_tokens": spread(26.69),
            "cut_prompts": 0,
            "shortened_prompts": rows // 3,
            "cut_answers": rows // 6,
        }
        for split, rows in (("train", 6000), ("dev", ROWS))
    }
    facts = {"pad_token_id": 3, "template": "thudm-ptuning", "trains_on": "last answer"}
    write_json(data / f"tokenized/{model}/manifest.json", facts | {"splits": splits})


def write_tree(root: Path) -> Path:
    """Every file that a report of RUNS reads."""
    write_data(root / "data")
    for model, source in MODELS.items():
        files = {"config.json": "c" * 64, "model.safetensors": "d" * 64}
        manifest = {"family": model, "source": source, "parameters": 700_000, "files": files}
        write_json(root / f"results/models/{model}.json", manifest)
        write_tokens(root / "data", model)
        for method in METHODS:
            write_run(root / "results", model, method)
    return root


def read(
    root: Path, runs: Sequence[dict[str, Any]] = RUNS, params: Mapping[str, Any] = PARAMS
) -> Report:
    return read_report(
        parse_runs(list(runs), "runs.json"),
        parse_params(dict(params), "params.json"),
        results_dir=root / "results",
        data_dir=root / "data",
    )


def renamed(run: Mapping[str, Any], method: str) -> dict[str, Any]:
    return {**run, "method": method, "entry": method}


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
        if line.startswith("|") and first_column in line:
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", spaced(line))
        rows.append([cell.strip() for cell in cells[1:-1]])
    return rows


def spaced(text: str) -> str:
    """Replace no-break spaces with ordinary ones."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def section(markdown: str, title: str) -> str:
    """A section of the report without insignificant line breaks."""
    body = spaced(markdown).split(f"## {title}\n", 1)[1].split("\n## ")[0]
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|-])", " ", body)


class Page(HTMLParser):
    """The content a browser would find: table rows, outgoing links, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.text = 0, ""
        self.sources: list[str | None] = []
        self.links: list[str | None] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.rows += tag == "tr"
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data
