"""What scoring costs per row, against the packages that the official evaluation calls.

    python tools/bench_scores.py [--rows 1070 10700] [--repeats 3]

Ours is the step: all definitions and statistics. The other side is what THUDM's evaluation computes
for a row, one definition, with jieba, rouge_chinese and nltk themselves. Rows are as long as
ADGEN's, answers are references in another order. A file of one row shows what starting takes, which
is not counted per row. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from bench_costs import SCRIPTS, Cost, cheapest, print_head, print_row
from bench_report import answers
from bench_tokenising import joined_rows

from glmtune.errors import run_script
from glmtune.files import write_jsonl

COLUMNS = [
    "rows",
    "ours, nine definitions",
    "ms a row",
    "the packages, one definition",
    "ms a row",
    "ratio",
]
OFFICIAL = """
import json, sys
import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

jieba.setLogLevel("CRITICAL")
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    response, reference = (" ".join(jieba.cut(row[key])) for key in ("predict", "labels"))
    Rouge().get_scores(response, reference)
    smooth = SmoothingFunction().method3
    sentence_bleu([list(row["labels"])], list(row["predict"]), smoothing_function=smooth)
"""


def main() -> None:
    """Read the flags, measure each number of rows, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1070, 10_700])
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        starting = costs_of(1, flags.repeats, Path(folder))
        print_head(COLUMNS)
        for rows in flags.rows:
            ours, official = costs_of(rows, flags.repeats, Path(folder))
            each = [
                1000 * (cost.cpu - start.cpu) / (rows - 1)
                for cost, start in zip((ours, official), starting, strict=True)
            ]
            shown = [ours, f"{each[0]:.2f}", official, f"{each[1]:.2f}"]
            print_row([rows, *shown, f"{each[0] / each[1]:.1f}"])


def costs_of(rows: int, repeats: int, folder: Path) -> tuple[Cost, Cost]:
    """The costs of both ways for as many rows."""
    write_jsonl(folder / "answers.jsonl", answers(joined_rows(rows), random.Random(rows)))
    script, files = SCRIPTS / "score_predictions.py", ["--metrics", "m.json", "--rows", "r.jsonl"]
    ours = ["python", script, "--quiet", "--predictions", "answers.jsonl", *files]
    official = ["python", "-W", "ignore", "-c", OFFICIAL, "answers.jsonl"]
    return cheapest(repeats, ours, folder), cheapest(repeats, official, folder)


if __name__ == "__main__":
    run_script(main)
