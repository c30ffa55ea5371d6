"""The scores of a predictions file with "labels", by the flags of score_predictions.py.

glmtune score --predictions results/predictions/chatglm2-6b/ptuning.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glmtune.commands.flags import parser, whole


def main(arguments: Sequence[str]) -> None:
    """Score, write, show."""
    from glmtune.files import write_json, write_jsonl
    from glmtune.metrics.predictions import read_predictions
    from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS
    from glmtune.metrics.summary import score_predictions
    from glmtune.metrics.table import describe_scores

    flags = parser("score", __doc__)
    flags.add_argument("--predictions", type=Path, required=True, help="JSON Lines to score")
    flags.add_argument("--metrics", type=Path, help="file for the means (JSON)")
    flags.add_argument("--rows", type=Path, help="file for the scores of each row (JSON Lines)")
    flags.add_argument("--protocol", choices=tuple(PROTOCOLS), default=DEFAULT_PROTOCOL)
    flags.add_argument("--workers", type=whole(1), default=1, help="processes; default: 1")
    given = flags.parse_args(arguments)
    rows = read_predictions(given.predictions)
    scores = score_predictions(rows, given.protocol, workers=given.workers)
    if given.rows is not None:
        write_jsonl(given.rows, scores.rows)
    if given.metrics is not None:
        write_json(given.metrics, scores.summary)
    print(describe_scores(scores.summary))
