"""Reads predictions files of this and other projects: JSON Lines, checked line by line.

Supports the files of this project (docs/formats.md), THUDM's generated_predictions.txt ({"labels",
"predict"}) and LLaMA-Factory's generated_predictions.jsonl ({"prompt", "predict", "label"}).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glmtune.errors import DataError

PredictionRow = dict[str, Any]
OPTIONAL_TEXTS = ("prompt", "decoded", "decoded_labels")


def read_predictions(path: Path | str) -> list[PredictionRow]:
    """Rows {"labels", "predict"} of a file, in order, with OPTIONAL_TEXTS, finished and history.

    Optional keys are present only if the file has them; other keys are dropped. The reference may
    be called `label`. DataError names the file and the first invalid line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON Lines with 'labels' and 'predict'")
    # Not splitlines(): texts may contain other line separators, such as U+2028.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: no rows; expected one JSON object per line")
    rows = [_read_row(line, f"{path}: line {number}") for number, line in numbered]
    has_decoded = ["decoded" in row for row in rows]
    if any(has_decoded) and not all(has_decoded):
        with_, without = (numbered[has_decoded.index(found)][0] for found in (True, False))
        raise DataError(
            f"{path}: line {without}: no 'decoded', unlike line {with_}; expected it in every row, "
            "as this project writes it, or in none"
        )
    return rows


def _read_row(line: bytes, where: str) -> PredictionRow:
    row = _parse_object(line, where)
    label_key = "labels" if "labels" in row or "label" not in row else "label"
    known = {"labels": _text_of(row, label_key, where), "predict": _text_of(row, "predict", where)}
    known |= {key: _text_of(row, key, where) for key in OPTIONAL_TEXTS if row.get(key) is not None}
    finished = row.get("finished")
    if finished not in (None, True, False):
        found = json.dumps(finished)[:40]
        raise DataError(f"{where}: 'finished' is {found}; expected true, false or no such key")
    optional = {key: row[key] for key in ("finished", "history") if row.get(key) is not None}
    return known | optional


def _parse_object(line: bytes, where: str) -> PredictionRow:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; expected one JSON object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {type(row).__name__}; expected one JSON object per line")
    return row


def _text_of(row: PredictionRow, key: str, where: str) -> str:
    if key not in row:
        found = ", ".join(f"'{name}'" for name in row) or "no keys"
        raise DataError(f"{where}: no '{key}'; found {found}; expected 'labels' and 'predict'")
    if not isinstance(row[key], str):
        raise DataError(f"{where}: '{key}' is {json.dumps(row[key])[:40]}; expected a text")
    return row[key]
