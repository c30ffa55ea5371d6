r"""Score a predictions file by every public definition of BLEU-4 and ROUGE (docs/metrics.md).

Reads   JSON Lines with `predict`, `labels` (or `label`), maybe `prompt`, `finished` and `history`:
        this project's files (which also have `decoded`), THUDM's generated_predictions.txt,
        LLaMA-Factory's .jsonl
Writes  the means, one JSON object; with --rows also the scores of each row, JSON Lines

    python workflow/scripts/score_predictions.py \
        --predictions results/predictions/chatglm2-6b/lora.jsonl \
        --metrics results/scores/chatglm2-6b/lora.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.errors import ParamsError, run_script
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from glmtune.workspace.fork_server import call_in_fork


def main() -> None:
    """Read the flags; score."""
    flags = _parser().parse_args()
    if flags.workers < 1:
        raise ParamsError(f"--workers: found {flags.workers}; expected 1 or more")
    call_in_fork("glmtune.steps.scoring", "score", "scores", **vars(flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=Path, required=True, help="JSON Lines to score")
    parser.add_argument("--metrics", type=Path, required=True, help="file for the means (JSON)")
    parser.add_argument("--rows", type=Path, help="file for the scores of each row (JSON Lines)")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default=DEFAULT_PROTOCOL,
        help="the definition to show first; all are computed (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, for thousands of rows; same scores (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="do not print the table")
    return parser


if __name__ == "__main__":
    run_script(main)
