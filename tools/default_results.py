"""Put the scores of the default run, as a run measured them, into README.md and README.zh-CN.md.

    python tools/default_results.py --record DIR [DIR …]   read results folders, write the file
    python tools/default_results.py                        write the tables from the file
    python tools/default_results.py --check                are they those tables, and stale?

The file is docs/default_run.json. The first folder is of a plain default run; further ones are of
the same run on other CPUs, or with their kernels (docs/benchmarks.md), and show how far scores
move. The table is stale when params.yaml or code that decides a number changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from readme_marks import READMES, is_there, put

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.families.registry import FAMILIES  # noqa: E402
from glmtune.files import read_json, read_jsonl, write_json  # noqa: E402
from glmtune.workspace.code_inputs import hash_code  # noqa: E402

FILE = ROOT / "docs" / "default_run.json"
MARKS = ("<!-- results: written by `make results` -->", "<!-- end of results -->")
SHOWN = "chatglm2-6b"  # whose answers are quoted
STEPS = ["fetch_dataset", "prepare_model", "tokenize_dataset", "finetune_model"]
STEPS += ["generate_predictions", "score_predictions"]


def main() -> int:
    """Record, write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    if flags.record:
        write_json(FILE, record(flags.record))
    run = read_json(FILE)
    if not flags.check:
        for language in READMES:
            put(render(run, language), *MARKS, language)
        return 0
    if run["decided_by"] != decided_by():
        count = _git("rev-list", "--count", f"{run['commit']}..HEAD") or "some"
        age = "1 commit" if count == "1" else f"{count} commits"
        print(
            f"README.md: its results are {age} old, and code or parameters that decide "
            "numbers changed since; `make results` measures them again"
        )
    stale = [
        f
        for language, f in READMES.items()
        if not is_there(render(run, language), *MARKS, language)
    ]
    for file in stale:
        print(f"{file}: its results are not those of {FILE.name}; run tools/default_results.py")
    return int(bool(stale))


# --- From results folders to the file --------------------------------------------------------


def record(folders: list[Path]) -> dict[str, Any]:
    """What docs/default_run.json holds."""
    first = folders[0]
    examples = {
        method: read_jsonl(first / "examples" / SHOWN / f"{method}.jsonl")[0]
        for method in ("none", "ptuning")
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "decided_by": decided_by(),
        "machine": machine(first),
        "scores": scores(first),
        "prompt": examples["none"]["prompt"],
        "answers": {method: row["predict"] for method, row in examples.items()},
        "elsewhere": [{"machine": machine(each), "scores": scores(each)} for each in folders[1:]],
    }


def machine(results: Path) -> dict[str, Any]:
    """The CPU that a run's numbers are of."""
    facts = read_json(results / "runtime" / "finetune_model" / SHOWN / "ptuning.json")
    kept = ("hardware", "cpu_capability", "blas", "torch_threads", "kernel_variables")
    torch = {"torch": facts["versions"]["torch"]}
    return {key: facts[key] for key in kept if key in facts} | torch


def scores(results: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {method: {metric: value}}} of the metrics that README shows."""
    shown = ("bleu-4", "rouge-l", "general-questions")
    return {
        model: {method: {name: found[name] for name in shown} for method, found in methods.items()}
        for model, methods in read_json(results / "metrics.json").items()
    }


def decided_by() -> str:
    """One SHA-256 over the parameters and the code of the steps that make numbers."""
    digest = hashlib.sha256((ROOT / "params.yaml").read_bytes())
    for step in STEPS:
        digest.update(hash_code(f"{step}.py").encode())
    return digest.hexdigest()


# --- From the file to the READMEs ------------------------------------------------------------

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "methods": {"none": "untuned", "ptuning": "P-Tuning v2", "lora": "LoRA", "full": "full"},
        "model": "{}, miniature",
        "measured": "Measured on {date} at commit {commit}: {hardware}, {kernels} kernels, "
        "{threads} thread, torch {torch}. {elsewhere}",
        "and": " and ",
        "elsewhere": "The same run with {kernels} kernels moves BLEU-4 by up to {bleu:.1f} "
        "({bleu_run}) and correct answers to general questions by up to {general:.0f} points "
        "({general_run}): another CPU sums floating-point numbers in another "
        "order, and training amplifies the difference.",
        "asked": "Asked for `{prompt}`, {title}'s miniature answers",
        "answer": "> {method}: {answer}",
        "forgotten": "Tuning has a price. Correct answers to general questions "
        "(“请问英国的首都。”), in percent:",
    },
    "zh": {
        "methods": {"none": "未微调", "ptuning": "P-Tuning v2", "lora": "LoRA", "full": "全参数"},
        "model": "{}（微型）",
        "measured": "测量于 {date}，提交 {commit}：{hardware}，{kernels} 指令集，{threads} 线程，"
        "torch {torch}。{elsewhere}",
        "and": "、",
        "elsewhere": "同样的配置换成 {kernels} 指令集，BLEU-4 最多相差 {bleu:.1f}（{bleu_run}），"
        "常识问答正确率最多相差 {general:.0f} 个百分点（{general_run}）："
        "不同 CPU 的浮点累加顺序不同，训练又会把差异放大。",
        "asked": "提示词为 `{prompt}` 时，{title} 微型模型的回答：",
        "answer": "> {method}：{answer}",
        "forgotten": "微调是有代价的，即灾难性遗忘。常识问答（“请问英国的首都。”）的正确率（%）：",
    },
}


def render(run: dict[str, Any], language: str = "en") -> str:
    """The part of a README between the marks."""
    words, where = WORDS[language], run["machine"]
    measured = words["measured"].format(
        date=run["date"],
        commit=run["commit"],
        hardware=where["hardware"],
        kernels=where["cpu_capability"],
        threads=where["torch_threads"],
        torch=where["torch"],
        elsewhere=_elsewhere(run, language),
    )
    lines = [
        *_table(run, language, "BLEU-4 / ROUGE-L", "{bleu-4:.1f} / {rouge-l:.1f}"),
        "",
        measured.strip(),
        "",
        words["asked"].format(prompt=run["prompt"], title=FAMILIES[SHOWN].title),
        "",
        words["answer"].format(method=words["methods"]["none"], answer=run["answers"]["none"]),
        ">",
        words["answer"].format(
            method=words["methods"]["ptuning"], answer=run["answers"]["ptuning"]
        ),
        "",
        words["forgotten"],
        "",
        *_table(run, language, "", "{general-questions:.0f}"),
    ]
    return "\n".join(lines)


def _table(run: dict[str, Any], language: str, corner: str, cell: str) -> list[str]:
    """A row for each model, a column for each method."""
    methods, model = WORDS[language]["methods"], WORDS[language]["model"]
    lines = [f"| {corner} | {' | '.join(methods.values())} |", "|---|" + "---:|" * len(methods)]
    for name, found in run["scores"].items():
        cells = [cell.format(**found[method]) for method in methods]
        lines.append(f"| {model.format(FAMILIES[name].title)} | {' | '.join(cells)} |")
    return lines


def _elsewhere(run: dict[str, Any], language: str) -> str:
    """How far the scores of the same run move on other CPUs; nothing if it was not measured."""
    if not run["elsewhere"]:
        return ""
    words = WORDS[language]
    kernels = (each["machine"]["cpu_capability"] for each in run["elsewhere"])
    bleu, general = (_largest_move(run, name) for name in ("bleu-4", "general-questions"))
    sentence: str = words["elsewhere"].format(
        kernels=words["and"].join("SSE" if name == "DEFAULT" else name for name in kernels),
        bleu=bleu[0],
        bleu_run=bleu[1],
        general=general[0],
        general_run=general[1],
    )
    return sentence


def _largest_move(run: dict[str, Any], metric: str) -> tuple[float, str]:
    return max(
        (abs(each["scores"][model][method][metric] - value[metric]), f"{model}, {method}")
        for each in run["elsewhere"]
        for model, methods in run["scores"].items()
        for method, value in methods.items()
    )


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
