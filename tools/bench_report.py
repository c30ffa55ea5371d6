"""What rendering a report costs, as the number of runs grows.

    python tools/bench_report.py [--runs 12 100 1000] [--models 4] [--rows 200]

For each size: a results tree of models with equally many methods, the untuned model first. The data
set is the project's sample; answers are its references in another order, scored once by the real
step, and each run moves these scores by chance. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_costs import SCRIPTS, cheapest, cost_of, print_head, print_row

from glmtune.errors import run_script
from glmtune.files import read_json, read_jsonl, write_json, write_jsonl, write_text

TRAIN_ROWS, QUESTIONS, STEPS = 4000, 46, 300  # those of the default run
COMPARED = ("bleu-4", "rouge-l")


def main() -> None:
    """Read the flags, measure each size, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[12, 100, 1000])
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200, help="dev rows")
    parser.add_argument("--repeats", type=int, default=1)
    flags = parser.parse_args()
    print_head(["runs", "CPU s", "CPU s a run", "peak MiB", "report.html MB", "report.md MB"])
    for count in flags.runs:
        with tempfile.TemporaryDirectory() as folder:
            runs = write_tree(Path(folder), count, flags.models, flags.rows)
            command = ["python", SCRIPTS / "render_report.py", "--runs", "runs.json"]
            cost = cheapest(flags.repeats, [*command, "--params", "params.json"], Path(folder))
            reports = (Path(folder) / "results" / f"report.{kind}" for kind in ("html", "md"))
            sizes = [report.stat().st_size for report in reports]
        figures = [f"{cost.cpu:.1f}", f"{cost.cpu / runs:.2f}", f"{cost.peak:,.0f}"]
        print_row([runs, *figures, *(f"{size / 1e6:.2f}" for size in sizes)])


def write_tree(root: Path, count: int, models: int, rows: int) -> int:
    """Everything that a report of about `count` runs reads; returns their exact number."""
    sample = ["--sample", "--train-rows", TRAIN_ROWS, "--dev-rows", rows, "--seed", 42]
    script = SCRIPTS / "fetch_dataset.py"
    cost_of(["python", script, *sample, "--out-dir", "data/dataset"], root)
    writer = TreeWriter.of(root)
    methods = ["none", *(f"lora-{index}" for index in range(1, max(2, round(count / models))))]
    runs: list[dict[str, Any]] = [
        {"model": f"model-{index}", "method": method, "is_trained": method != "none"}
        for index in range(models)
        for method in methods
    ]
    for model in dict.fromkeys(run["model"] for run in runs):
        writer.write_model(model)
    for seed, run in enumerate(runs):
        writer.write_run(run["model"], run["method"], random.Random(seed))
    write_json(root / "runs.json", runs)
    entries = {name: {"method": name.partition("-")[0]} for name in methods}
    write_json(root / "params.json", {"examples": [], "protocol": "glmtune", "methods": entries})
    return len(runs)


@dataclass(frozen=True)
class TreeWriter:
    """Writes the results of models and runs that answered the same rows."""

    root: Path
    dev: list[dict[str, Any]]
    scores: dict[str, Any]
    row_scores: list[dict[str, Any]]

    @classmethod
    def of(cls, root: Path) -> TreeWriter:
        """Score one answer to each dev row of `data/dataset` for all runs."""
        dev = read_jsonl(root / "data/dataset/dev.jsonl")
        write_jsonl(root / "answers.jsonl", answers(dev, random.Random(0)))
        files = ["--predictions", "answers.jsonl", "--metrics", "m.json", "--rows", "rows.jsonl"]
        cost_of(["python", SCRIPTS / "score_predictions.py", *files], root)
        return cls(root, dev, read_json(root / "m.json"), read_jsonl(root / "rows.jsonl"))

    def write_model(self, model: str) -> None:
        """Write the manifests of a model and of its tokenized data."""
        manifest = {"family": "chatglm2-6b", "source": "miniature", "parameters": 700_000}
        write_json(self.root / f"results/models/{model}.json", manifest)
        lengths = {"mean": 20.0, "p95": 40, "max": 60}
        counts = dict.fromkeys(("cut_prompts", "cut_answers", "shortened_prompts"), 0)
        tokens = {"tokens": 100_000, "prompt_tokens": lengths, "answer_tokens": lengths, **counts}
        splits = {"train": {"rows": TRAIN_ROWS, **tokens}, "dev": {"rows": len(self.dev), **tokens}}
        facts = {"template": "chat", "trains_on": "last answer", "splits": splits}
        write_json(self.root / f"data/tokenized/{model}/manifest.json", facts)

    def write_run(self, model: str, method: str, chance: random.Random) -> None:
        """Write what the steps of a run write, with scores and answers of its own."""
        gain = chance.gauss(0, 3)
        rows = [
            row | {name: row[name] + gain + chance.gauss(0, 5) for name in COMPARED}
            for row in self.row_scores
        ]
        means = {name: statistics.fmean(row[name] for row in rows) for name in COMPARED}
        self._write("scores", model, f"{method}.json", self.scores | means)
        self._write("scores", model, f"{method}.rows.jsonl", rows)
        self._write("predictions", model, f"{method}.jsonl", answers(self.dev, chance))
        self._write("examples", model, f"{method}.jsonl", [])
        self._write("probe", model, f"{method}.jsonl", probe(chance))
        self._write("runtime/generate_predictions", model, f"{method}.json", {"seconds": 60})
        if method != "none":
            self._write_training(model, method, chance)

    def _write_training(self, model: str, method: str, chance: random.Random) -> None:
        losses = {"train_loss": chance.uniform(1, 2), "dev_loss": chance.uniform(1, 2)}
        counts = {"trainable_parameters": 12_288, "total_parameters": 700_000}
        facts = {"settings": {"lr": 0.01}, "steps": STEPS, "best_step": None, "notes": []}
        self._write("training", model, f"{method}.json", facts | losses | counts)
        runtime = {"seconds": 60 + chance.random(), "peak_memory_mib": 800 + chance.random()}
        self._write("runtime/finetune_model", model, f"{method}.json", runtime)
        steps = range(10, STEPS + 1, 10)
        curve = [f"{step},{3 - step / STEPS + chance.random() / 10},0.01," for step in steps]
        path = self.root / f"results/curves/{model}/{method}.csv"
        write_text(path, "\n".join(["step,loss,learning_rate,dev_loss", *curve, ""]))

    def _write(self, folder: str, model: str, name: str, value: Any) -> None:
        write = write_jsonl if name.endswith("l") else write_json
        write(self.root / "results" / folder / model / name, value)


def answers(dev: Sequence[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """Predictions: the references in another order."""
    texts = [row["summary"] for row in dev]
    chance.shuffle(texts)
    return [
        {"prompt": row["content"], "labels": row["summary"], "predict": text, "finished": True}
        for row, text in zip(dev, texts, strict=True)
    ]


def probe(chance: random.Random) -> list[dict[str, Any]]:
    """Answers to general questions, three of four correct."""
    return [
        {"prompt": f"第{index}题？", "labels": f"答案{index}", "predict": f"答案{answer}"}
        for index in range(QUESTIONS)
        for answer in [index if chance.random() < 0.75 else "未知"]
    ]


if __name__ == "__main__":
    run_script(main)
