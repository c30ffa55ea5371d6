"""Put the scores of the default run, as a run measured them, into README.md.

    python tools/default_results.py --record DIR [DIR …]   read results folders, write the file
    python tools/default_results.py                        write README.md's table from the file
    python tools/default_results.py --check                is it that table, and is it stale?

The file is docs/default_run.json. The first folder is of a plain default run; further ones are of
the same run on other CPUs, or with their kernels (docs/benchmarks.md), and tell how far scores
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

from readme_marks import is_there, put

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.families.registry import FAMILIES  # noqa: E402
from glmtune.files import read_json, read_jsonl, write_json  # noqa: E402
from glmtune.workspace.code_inputs import hash_code  # noqa: E402

FILE = ROOT / "docs" / "default_run.json"
MARKS = ("<!-- results: written by `make results` -->", "<!-- end of results -->")
METHODS = {"none": "untuned", "ptuning": "P-Tuning v2", "lora": "LoRA", "full": "full"}
SHOWN = "chatglm2-6b"  # whose answers are quoted
STEPS = ("fetch_dataset", "prepare_model", "tokenize_dataset", "finetune_model")
STEPS += ("generate_predictions", "score_predictions")


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
        put(render(run), *MARKS)
        return 0
    if run["decided_by"] != decided_by():
        count = _git("rev-list", "--count", f"{run['commit']}..HEAD") or "some"
        print(
            f"README.md: its results are {count} commits old, and code or parameters that decide "
            "numbers changed since; `make results` measures them again"
        )
    if is_there(render(run), *MARKS):
        return 0
    print(f"README.md: its results are not those of {FILE.name}; tools/default_results.py does it")
    return 1


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


# --- From the file to README.md --------------------------------------------------------------


def render(run: dict[str, Any]) -> str:
    """The part of README.md between the marks."""
    lines = [
        f"| BLEU-4 / ROUGE-L | {' | '.join(METHODS.values())} |",
        "|---|" + "---:|" * len(METHODS),
    ]
    for model, methods in run["scores"].items():
        cells = [f"{methods[m]['bleu-4']:.1f} / {methods[m]['rouge-l']:.1f}" for m in METHODS]
        lines.append(f"| {FAMILIES[model].title}, miniature | {' | '.join(cells)} |")
    where = run["machine"]
    lines += [
        "",
        f"Measured on {run['date']} at commit {run['commit']}: {where['hardware']}, "
        f"{where['cpu_capability']} kernels, {where['torch_threads']} thread, "
        f"torch {where['torch']}. {_elsewhere(run)}".strip(),
        "",
        f"Asked for `{run['prompt']}`, {FAMILIES[SHOWN].title}'s miniature answers",
        "",
        f"> untuned: {run['answers']['none']}",
        ">",
        f"> P-Tuning v2: {run['answers']['ptuning']}",
        "",
        _forgotten(run),
    ]
    return "\n".join(lines)


def _elsewhere(run: dict[str, Any]) -> str:
    """How far the scores of the same run move on other CPUs; nothing if it was not measured."""
    if not run["elsewhere"]:
        return ""
    kernels = (each["machine"]["cpu_capability"] for each in run["elsewhere"])
    names = " and ".join("SSE" if name == "DEFAULT" else name for name in kernels)
    bleu, general = (_largest_move(run, name) for name in ("bleu-4", "general-questions"))
    return (
        f"The same run with {names} kernels moves BLEU-4 by up to {bleu[0]:.1f} ({bleu[1]}) and "
        f"right answers to general questions by up to {general[0]:.0f} points ({general[1]}): "
        "another CPU adds products in another order, and training amplifies it."
    )


def _largest_move(run: dict[str, Any], metric: str) -> tuple[float, str]:
    return max(
        (abs(each["scores"][model][method][metric] - value[metric]), f"{model}, {method}")
        for each in run["elsewhere"]
        for model, methods in run["scores"].items()
        for method, value in methods.items()
    )


def _forgotten(run: dict[str, Any]) -> str:
    parts = [
        f"{FAMILIES[model].title}'s "
        + ", ".join(f"{methods[m]['general-questions']:.0f} % {METHODS[m]}" for m in METHODS)
        for model, methods in run["scores"].items()
    ]
    return (
        "Tuning has a price. Right answers to general questions (“请问英国的首都。”): "
        + "; ".join(parts)
        + "."
    )


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
