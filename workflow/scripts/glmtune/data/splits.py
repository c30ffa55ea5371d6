"""Writes the normalized folder that all later steps read.

    train.jsonl, dev.jsonl   the rows, one JSON object per line
    card.json                statistics of the rows (`glmtune.data.card`)
    left_out.jsonl           rows of the user's files that were left out, and why
    manifest.json            sources and hashes, which depend on the content only

Either all files are written or none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TextIO

from glmtune.data.card import SplitFacts
from glmtune.data.leakage import Leakage, find_leakage
from glmtune.data.reading import MOST_LINES_NAMED, UserFile
from glmtune.data.rows import Row, Rows, error_at
from glmtune.files import sha256_of, write_json, write_jsonl, write_text

# In the order of their replacement: once the manifest is visible, so are its files.
FILES = ("train.jsonl", "dev.jsonl", "card.json", "left_out.jsonl", "manifest.json")


@dataclass(frozen=True)
class Subset:
    """The maximum number of rows to keep per split; the seed decides which."""

    train: int | None = None
    dev: int | None = None
    seed: int = 0

    def choose(self, split: str, rows: int) -> set[int] | None:
        """The indices of the rows to keep; None for all."""
        most = {"train": self.train, "dev": self.dev}[split]
        if most is None or most >= rows:
            return None
        return set(Random(f"{split} {self.seed}").sample(range(rows), most))


@dataclass
class Split:
    """A written split."""

    name: str
    file: Path
    # The unit of the user's row numbers: line or row.
    unit: str = "line"
    facts: SplitFacts = field(default_factory=SplitFacts)
    # The number of each row in the user's file.
    numbers: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True)
class DataSet:
    """A written data set: the contents of its manifest and card."""

    manifest: dict[str, Any]
    card: dict[str, Any]


def write_dataset(
    folder: Path | str,
    train: Rows,
    dev: Rows,
    source: Mapping[str, Any],
    *,
    subset: Subset | None = None,
    max_leakage: float = 1.0,
    licence: str | None = None,
) -> DataSet:
    """Write a data set into `folder`, with its manifest and card.

    Raises DataError if more than a share `max_leakage` of the dev rows also appears in train.
    """
    subset, rows = subset or Subset(), {"train": train, "dev": dev}
    with _replaced_when_complete(Path(folder)) as stage:
        with (stage / "left_out.jsonl").open("w", encoding="utf-8", newline="\n") as left_out:
            splits = {
                split: _write_split(stage, split, rows[split], subset, left_out) for split in rows
            }
        leakage = find_leakage(splits["train"].facts.fingerprints, splits["dev"].facts.fingerprints)
        _refuse_leakage(leakage, splits["train"], splits["dev"], max_leakage)
        described = {split: _manifest_entry(splits[split], rows[split], subset) for split in rows}
        manifest = {"source": dict(source), **described}
        card = {
            "splits": {split: splits[split].facts.describe() for split in rows},
            "leakage": leakage.counts(),
            "licence": licence,
        }
        # Not sorted by key: attributes are ordered by frequency.
        write_text(stage / "card.json", json.dumps(card, ensure_ascii=False, indent=2) + "\n")
        write_json(stage / "manifest.json", manifest)
    return DataSet(manifest, card)


@contextmanager
def _replaced_when_complete(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; on success its files replace those of `folder`, else it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield stage
        folder.mkdir(exist_ok=True)
        for name in FILES:
            os.replace(stage / name, folder / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_split(stage: Path, split: str, rows: Rows, subset: Subset, left_out: TextIO) -> Split:
    """Write the chosen rows in file order, collecting their statistics."""

    def leave_out(number: int, reason: str) -> None:
        line = {"split": split, written.unit: number, "reason": reason}
        left_out.write(json.dumps(line, ensure_ascii=False) + "\n")

    written = Split(split, stage / f"{split}.jsonl")
    numbered: Iterable[tuple[int, Row]] = enumerate(rows, start=1)
    if isinstance(rows, UserFile):
        written.name, written.unit, numbered = str(rows.path), rows.unit, rows.numbered(leave_out)
    chosen = subset.choose(split, len(rows))

    def passing() -> Iterator[Row]:
        for index, (number, row) in enumerate(numbered):
            if chosen is None or index in chosen:
                written.numbers.append(number)
                written.facts.add(row)
                yield row

    write_jsonl(written.file, passing())
    return written


def _manifest_entry(split: Split, rows: Rows, subset: Subset) -> dict[str, Any]:
    """The manifest's entry of a split."""
    entry: dict[str, Any] = {
        "file": split.file.name,
        "rows": len(split.numbers),
        "sha256": sha256_of(split.file),
    }
    if len(split.numbers) < len(rows):
        entry["chosen_from"] = {"rows": len(rows), "seed": subset.seed}
    if isinstance(rows, UserFile) and rows.skipped.rows:
        first = rows.skipped.numbers(rows.unit)[:MOST_LINES_NAMED]
        entry["skipped"] = {"rows": rows.skipped.rows, "unit": rows.unit, "first": first}
    if isinstance(rows, UserFile) and rows.notes:
        entry["notes"] = dict(rows.notes)
    return entry


def _refuse_leakage(leakage: Leakage, train: Split, dev: Split, max_leakage: float) -> None:
    rows = len(dev.numbers)
    if not rows or leakage.pairs / rows <= max_leakage:
        return
    examples = ", ".join(
        f"{dev.unit} {dev.numbers[in_dev]} = {train.unit} {train.numbers[in_train]}"
        for in_dev, in_train in leakage.examples
    )
    more = ", …" if leakage.pairs > len(leakage.examples) else ""
    raise error_at(
        Path(dev.name),
        dev.numbers[leakage.examples[0][0]],
        f"{leakage.pairs} of {rows} rows ({leakage.pairs / rows:.0%}) also appear in {train.name} "
        f"({examples}{more}); expected at most {max_leakage:.0%}, since scores on them measure "
        "memorization; remove them from one of the files, or raise --max-leakage (params.yaml: "
        "data.max_leakage)",
        dev.unit,
    )
