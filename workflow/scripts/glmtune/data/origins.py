"""Sources of data sets: the project's own sample, ADGEN, or a user's two files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmtune.data.reading import ReadOptions, UserFile, check_file
from glmtune.data.rows import Rows
from glmtune.data.splits import FILES
from glmtune.errors import ParamsError
from glmtune.synthetic.grammar import sample_rows


@dataclass(frozen=True)
class Origin:
    """The rows of both splits, with their source and license."""

    train: Rows
    dev: Rows
    # For the manifest: depends on the content only.
    source: dict[str, Any]
    licence: str | None = None


def from_sample(train_rows: int, dev_rows: int, seed: int) -> Origin:
    """The project's own sample."""
    train, dev = sample_rows(train_rows, dev_rows, seed)
    return Origin(train, dev, {"kind": "sample", "seed": seed})


def from_files(train: Path, dev: Path, options: ReadOptions, out_dir: Path) -> Origin:
    """A user's files, which may differ in format; DataError for any mistake in them."""
    _refuse_to_overwrite(out_dir, (train, dev))
    files = _check_both(train, dev, options)
    described, described_dev = map(_format_and_columns, files)
    source = {"kind": "files", **described}
    if described_dev != described:
        source["dev"] = described_dev
    return Origin(*files, source)


def from_adgen(folder: Path, sources: Sequence[str], options: ReadOptions) -> Origin:
    """ADGEN, stored in `folder` and downloaded if missing; `sources` are tried first."""
    # Imported here: only ADGEN needs network packages.
    from glmtune.data.adgen.fetching import LICENCE, fetch_adgen

    files = fetch_adgen(folder, sources=sources)
    train, dev = _check_both(files.train, files.dev, options)
    return Origin(train, dev, files.source, LICENCE)


def _check_both(train: Path, dev: Path, options: ReadOptions) -> tuple[UserFile, UserFile]:
    return (
        check_file(train, replace(options, split="train")),
        check_file(dev, replace(options, split="dev")),
    )


def _format_and_columns(file: UserFile) -> dict[str, Any]:
    return {"format": file.shape.format, "columns": file.columns}


def _refuse_to_overwrite(out_dir: Path, inputs: tuple[Path, ...]) -> None:
    """Raise ParamsError if a normalized file would overwrite a user's own."""
    for path in inputs:
        if path.resolve() in {(out_dir / name).resolve() for name in FILES}:
            raise ParamsError(
                f"--out-dir {out_dir}: would overwrite your file {path}; expected another folder; "
                "choose one that does not hold your data"
            )
