"""All scores and statistics of one predictions file, computed row by row in any order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from glmtune.metrics.pairs import TextPair, pair_rows
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS, get_protocol
from glmtune.metrics.scorings import METRICS, SCORINGS
from glmtune.metrics.statistics import STATISTICS

ROWS_AT_ONCE = 16  # sent to a process at a time
SILENT_SECONDS = 2  # delay before a progress bar appears


@dataclass(frozen=True)
class FileScores:
    """The output of score_predictions.py."""

    summary: dict[str, Any]  # headline, statistics, "rows", and under "protocols" all definitions
    rows: list[dict[str, float | None]]  # headline and statistics of each row


def score_predictions(
    rows: Sequence[Mapping[str, Any]], protocol: str = DEFAULT_PROTOCOL, *, workers: int = 1
) -> FileScores:
    """Score rows from `read_predictions` by every protocol.

    `protocol` selects the headline scores. The numbers do not depend on `workers`.
    """
    get_protocol(protocol)  # fails early if unknown
    pairs = pair_rows(rows)
    parts = _parts_of_all(pairs, workers)
    protocols = {name: _score_file(name, parts) for name in PROTOCOLS}
    summary = {
        **{name: protocols[protocol][name] for name in METRICS},
        **{
            name: each.of_file([part["statistics"][name] for part in parts])
            for name, each in STATISTICS.items()
        },
        "rows": len(pairs),
        "protocols": protocols,
    }
    return FileScores(summary, [_score_row(i, protocol, part) for i, part in enumerate(parts)])


def _score_file(name: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    protocol = PROTOCOLS[name]
    of_rows = (part["protocols"][name] for part in parts[: protocol.first_rows])
    counted = [row for row in of_rows if row is not None]
    return {"rows": len(counted), **SCORINGS[protocol.scoring].of_file(counted)}


def _score_row(index: int, name: str, part: Mapping[str, Any]) -> dict[str, float | None]:
    protocol, scores = PROTOCOLS[name], part["protocols"][name]
    left_out = protocol.first_rows is not None and index >= protocol.first_rows
    shown = {} if left_out or scores is None else SCORINGS[protocol.scoring].row_scores(scores)
    statistics = {
        name: part["statistics"][name] for name, each in STATISTICS.items() if each.has_row_value
    }
    return {**{name: shown.get(name) for name in METRICS}, **statistics}


def _parts_of(pairs: Mapping[str, TextPair]) -> dict[str, dict[str, Any]]:
    """The contribution of one row to every score and statistic; the slow part."""
    read = pairs[DEFAULT_PROTOCOL]
    return {
        "protocols": {
            name: SCORINGS[protocol.scoring].of_row(pairs[name])
            for name, protocol in PROTOCOLS.items()
        },
        "statistics": {name: each.of_row(read) for name, each in STATISTICS.items()},
    }


def _parts_of_all(pairs: Sequence[dict[str, TextPair]], workers: int) -> list[dict[str, Any]]:
    """Compute the parts of all rows, in order."""
    with (
        _parts_by_workers(pairs, min(workers, -(-len(pairs) // ROWS_AT_ONCE))) as parts,
        tqdm(parts, total=len(pairs), unit="rows", desc="scoring", delay=SILENT_SECONDS) as shown,
    ):
        return list(shown)


@contextmanager
def _parts_by_workers(
    pairs: Sequence[dict[str, TextPair]], workers: int
) -> Iterator[Iterator[dict[str, Any]]]:
    if workers <= 1:
        yield map(_parts_of, pairs)
        return
    # Spawned, not forked: works on every system and is safe with threads.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap(_parts_of, pairs, chunksize=ROWS_AT_ONCE)
