r"""Score predictions against their references with Chinese ROUGE and BLEU-4.

Reads   a predictions file: JSON Lines with `predict`, `labels` (or `label`) and maybe `prompt`
Writes  the means, one JSON object; with --rows also the scores of each row, JSON Lines

    python workflow/scripts/score_predictions.py \
        --predictions results/predictions/chatglm2-6b/lora.jsonl \
        --metrics results/scores/chatglm2-6b/lora.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.errors import run_script
from glmtune.files import write_json, write_jsonl
from glmtune.metrics import (
    DEFAULT_PROTOCOL,
    PROTOCOLS,
    read_predictions,
    score_rows,
    summarise,
)


def main() -> None:
    """Read the flags, score, write."""
    flags = _parser().parse_args()
    rows = read_predictions(flags.predictions)
    scores = score_rows(rows, flags.protocol)
    if flags.rows is not None:
        write_jsonl(flags.rows, scores)
    write_json(flags.metrics, summarise(rows, scores))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=Path, required=True, help="JSON Lines to score")
    parser.add_argument("--metrics", type=Path, required=True, help="where the means go (JSON)")
    parser.add_argument("--rows", type=Path, help="where the scores of each row go (JSON Lines)")
    parser.add_argument(
        "--protocol",
        choices=sorted(PROTOCOLS),
        default=DEFAULT_PROTOCOL,
        help="whose definition of the scores (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    run_script(main)
