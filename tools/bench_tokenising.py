"""What tokenising a data set of AdvertiseGen's size costs.

    python tools/bench_tokenising.py --vocabulary chatglm2-6b=FILE.model [--rows 114599]
        [--workers 1] [--data train.jsonl]

Writes rows of the project's own grammar, two ads joined to one so that they are as long as ADGEN's,
or repeats the rows of `--data`, and runs the step; on a quarter of them first: the memory must not
grow with the rows. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench_costs import SCRIPTS, Cost, cost_of, print_head, print_row

from glmtune.errors import run_script
from glmtune.families.registry import get_family
from glmtune.files import hash_folder, read_json, read_jsonl, write_json, write_jsonl
from glmtune.synthetic.grammar import sample_rows

ADGEN_ROWS = 114_599  # the training rows of AdvertiseGen
# THUDM's train.sh for ChatGLM2-6B
LIMITS = ("--max-source-tokens", "64", "--max-target-tokens", "128", "--long-history", "official")
TITLES = ["family", "rows", "tokens", "CPU s", "rows per CPU s", "peak MiB"]


def main() -> None:
    """Read the flags, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", nargs="+", required=True, metavar="FAMILY=FILE")
    parser.add_argument("--rows", type=int, default=ADGEN_ROWS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path, help="JSON Lines with content and summary to repeat")
    flags = parser.parse_args()
    rows = read_jsonl(flags.data) if flags.data else joined_rows(4000)
    print_head(TITLES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (flags.rows // 4, flags.rows):
            write_jsonl(folder / "data/train.jsonl", islice(cycle(rows), count))
            write_jsonl(folder / "data/dev.jsonl", rows[:1])
            write_json(
                folder / "data/manifest.json", {"train": {"rows": count}, "dev": {"rows": 1}}
            )
            for entry in flags.vocabulary:
                family, _, file = entry.partition("=")
                write_model(folder, family, Path(file))
                cost = cost_of_step(folder, family, flags.workers)
                tokens = read_json(folder / "tokens/manifest.json")["splits"]["train"]["tokens"]
                speed = f"{count / cost.cpu:,.0f}"
                shown = [f"{count:,}", f"{tokens:,}", f"{cost.cpu:.1f}", speed, f"{cost.peak:.0f}"]
                print_row([family, *shown])


def write_model(folder: Path, family: str, vocabulary: Path) -> None:
    """Write a prepared model that has nothing but the vocabulary."""
    model = folder / family
    model.mkdir(exist_ok=True)
    shutil.copyfile(vocabulary, model / get_family(family).tokenizer_class.file_name)
    write_json(folder / f"{family}.json", {"files": hash_folder(model)})


def cost_of_step(folder: Path, family: str, workers: int) -> Cost:
    """What tokenize_dataset takes."""
    command = ["python", SCRIPTS / "tokenize_dataset.py", "--data", "data", "--out-dir", "tokens"]
    model = ["--model", family, "--model-manifest", f"{family}.json", "--family", family]
    return cost_of([*command, *model, *LIMITS, "--workers", workers], folder)


def joined_rows(count: int) -> list[dict[str, Any]]:
    """Rows of the grammar, each of two."""
    rows, _ = sample_rows(2 * count, 1, seed=1)
    return [
        {
            "content": one["content"] + "*" + two["content"],
            "summary": one["summary"] + two["summary"],
        }
        for one, two in zip(rows[:count], rows[count:], strict=True)
    ]


if __name__ == "__main__":
    run_script(main)
