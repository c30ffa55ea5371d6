"""Writes the normalized folder that all later steps read.

    train.jsonl, dev.jsonl   the rows, one JSON object per line
    valid.jsonl              rows that choose the best step, if they were asked for
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
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from glmtune.data.card import SplitFacts
from glmtune.data.leakage import Leakage, find_leakage
from glmtune.data.mixtures import Mixture
from glmtune.data.rows import LeftOut, Piece, Row, Rows, error_at, pieces_of, reading_facts, sample
from glmtune.files import sha256_of, write_json, write_jsonl, write_text

# In the order of their replacement: once the manifest is visible, so are its files.
FILES = ("train.jsonl", "dev.jsonl", "valid.jsonl", "card.json", "left_out.jsonl", "manifest.json")


@dataclass(frozen=True)
class Subset:
    """The maximum number of rows to keep per split; the seed decides which."""

    train: int | None = None
    dev: int | None = None
    seed: int = 0

    def choose(self, split: str, rows: int) -> Set[int] | None:
        """The indices of the rows to keep; None for all."""
        most = {"train": self.train, "dev": self.dev}.get(split)
        return sample(rows, most, f"{split} {self.seed}")


@dataclass
class Split:
    """A split as it is written."""

    name: str
    file: Path
    facts: SplitFacts = field(default_factory=SplitFacts)
    # The number of each row in its file.
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    # Where its pieces begin: (index of the first row, file, unit).
    begins: list[tuple[int, str, str]] = field(default_factory=list)

    def begin(self, piece: Piece) -> None:
        """Note that the rows of a piece follow."""
        self.begins.append((len(self.numbers), piece.name or self.name, piece.unit))

    @property
    def source(self) -> str:
        """The file of the piece that is being written."""
        return self.begins[-1][1]

    @property
    def unit(self) -> str:
        """The unit of its numbers."""
        return self.begins[-1][2]

    def add(self, number: int, row: Row) -> None:
        """Add a row."""
        self.numbers.append(number)
        self.facts.add(row)

    def place(self, index: int) -> tuple[str, str, int]:
        """The file of a row, the unit of its numbers, and the row's number there."""
        file, unit = next((f, unit) for first, f, unit in reversed(self.begins) if first <= index)
        return file, unit, self.numbers[index]


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
    valid: Rows | None = None,
    subset: Subset | None = None,
    max_leakage: float = 1.0,
    licence: str | None = None,
) -> DataSet:
    """Write a data set into `folder`, with its manifest and card.

    Raises DataError if more than a share `max_leakage` of the dev or valid rows also appears in
    train, or of the dev rows in valid.
    """
    subset = subset or Subset()
    if isinstance(train, Mixture):  # a limit keeps its shares
        train = replace(train, seed=subset.seed, most=subset.train)
    rows = {"train": train, "dev": dev} | ({} if valid is None else {"valid": valid})
    with _replaced_when_complete(Path(folder)) as stage:
        with (stage / "left_out.jsonl").open("w", encoding="utf-8", newline="\n") as left_out:
            splits = {
                split: _write_split(stage, split, rows[split], subset, left_out) for split in rows
            }
        leakage = {
            (known, scored): find_leakage(
                *(splits[each].facts.fingerprints for each in (known, scored))
            )
            for known, scored in (("train", "dev"), ("train", "valid"), ("valid", "dev"))
            if {known, scored} <= splits.keys()
        }
        for (known, scored), found in leakage.items():
            _refuse_leakage(found, splits[known], splits[scored], max_leakage)
        described = {split: _manifest_entry(splits[split], rows[split], subset) for split in rows}
        manifest = {"source": dict(source), **described}
        card = {
            "splits": {split: splits[split].facts.describe() for split in rows},
            "leakage": leakage["train", "dev"].counts(),
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
            if (stage / name).exists():
                os.replace(stage / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_split(stage: Path, split: str, rows: Rows, subset: Subset, left_out: TextIO) -> Split:
    """Write the chosen rows in the order of their files, collecting their statistics."""

    def leave_out(number: int, reason: str) -> None:
        line = {"split": split, written.unit: number, "reason": reason}
        if isinstance(rows, Mixture):
            line["file"] = Path(written.source).name
        left_out.write(json.dumps(line, ensure_ascii=False) + "\n")

    written = Split(split, stage / f"{split}.jsonl")
    write_jsonl(written.file, _passing(written, rows, subset, leave_out))
    return written


def _passing(written: Split, rows: Rows, subset: Subset, left_out: LeftOut) -> Iterator[Row]:
    """The chosen rows, each added to what is known of the split."""
    chosen, indices = subset.choose(written.name, len(rows)), count()
    for piece in pieces_of(rows, left_out):
        written.begin(piece)
        for number, row in piece.rows:
            if chosen is None or next(indices) in chosen:
                written.add(number, row)
                yield row


def _manifest_entry(split: Split, rows: Rows, subset: Subset) -> dict[str, Any]:
    """The manifest's entry of a split."""
    entry: dict[str, Any] = {
        "file": split.file.name,
        "rows": len(split.numbers),
        "sha256": sha256_of(split.file),
    }
    if len(split.numbers) < len(rows):
        entry["chosen_from"] = {"rows": len(rows), "seed": subset.seed}
    entry |= reading_facts(rows)
    if isinstance(rows, Mixture):
        entry["parts"] = rows.describe()
    return entry


def _refuse_leakage(leakage: Leakage, train: Split, dev: Split, max_leakage: float) -> None:
    rows = len(dev.numbers)
    if not rows or leakage.pairs / rows <= max_leakage:
        return
    pairs = [(dev.place(in_dev), train.place(in_train)) for in_dev, in_train in leakage.examples]
    ((file, unit, number), (train_file, _, _)) = pairs[0]
    examples = ", ".join(
        f"{unit} {number} = {train_unit} {train_number}"
        for (_, unit, number), (_, train_unit, train_number) in pairs
    )
    more = ", …" if leakage.pairs > len(pairs) else ""
    raise error_at(
        Path(file),
        number,
        f"{leakage.pairs} of {rows} rows ({leakage.pairs / rows:.0%}) also appear in {train_file} "
        f"({examples}{more}); expected at most {max_leakage:.0%}, since scores on them measure "
        "memorization; remove them from one of the files, or raise --max-leakage (params.yaml: "
        "data.max_leakage)",
        unit,
    )
