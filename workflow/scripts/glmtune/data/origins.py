"""Sources of data sets: the project's own sample, ADGEN, or parts that a user names.

A part is a user's file or one of OWN_DATA. Parts without a share are used in full, and dev rows
may be held out of them; the others are mixed in (`glmtune.data.mixtures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from glmtune.data.held_out import TRAIN, hold_out
from glmtune.data.mixtures import Mixture, Part
from glmtune.data.reading import ReadOptions, check_file
from glmtune.data.rows import Rows
from glmtune.data.splits import FILES
from glmtune.errors import ParamsError
from glmtune.locations import ADGEN, GENERAL, SAMPLE
from glmtune.synthetic.general_part import general_rows
from glmtune.synthetic.grammar import sample_rows

# A user's file, or one of OWN_DATA.
Source = Path | str


@dataclass(frozen=True)
class Origin:
    """The rows of all splits, with their source and license."""

    train: Rows
    dev: Rows
    # For the manifest: depends on the content only.
    source: dict[str, Any]
    licence: str | None = None
    # Rows that choose the best step; None: the dev rows do.
    valid: Rows | None = None


@dataclass(frozen=True)
class Request:
    """What a data set is to be made of; a number holds out that share of the own rows."""

    train: Sequence[Source]
    dev: Source | float
    valid: Source | float | None = None
    # The parts to mix in, with their shares of the training rows.
    mixed: Sequence[tuple[Source, float]] = ()


class _Opened(NamedTuple):
    rows: Rows
    about: dict[str, Any]
    licence: str | None = None


@dataclass(frozen=True)
class Opener:
    """Opens sources, each by its kind."""

    options: ReadOptions = field(default_factory=ReadOptions)
    seed: int = 0
    # The sizes of the project's own sample.
    train_rows: int = 0
    dev_rows: int = 0
    # Where ADGEN is kept, and what to try before the known mirrors.
    adgen_folder: Path = Path()
    adgen_sources: Sequence[str] = ()

    def open(self, source: Source, split: str, *, own: bool = True) -> _Opened:
        """The rows of a source for a split; DataError for any mistake in a file.

        Named columns and formats are those of the user's `own` files.
        """
        options = replace(self.options, split=split)
        if not own:
            options = replace(options, columns=ReadOptions().columns, data_format=None)
        if source == SAMPLE:
            train, dev = sample_rows(self.train_rows, self.dev_rows, self.seed)
            rows = train if split == TRAIN else dev
            return _Opened(rows, {"kind": SAMPLE, "seed": self.seed})
        if source == GENERAL:
            return _Opened(general_rows(), {"kind": GENERAL})
        if source == ADGEN:
            files, licence = self._adgen
            path = files.train if split == TRAIN else files.dev
            return _Opened(check_file(path, options), files.source, licence)
        file = check_file(source, options)
        about = {"kind": "files", "format": file.shape.format, "columns": file.columns}
        return _Opened(file, about)

    @cached_property
    def _adgen(self) -> tuple[Any, str]:
        """ADGEN's files, downloaded if missing, and its licence."""
        # Imported here: only ADGEN needs network packages.
        from glmtune.data.adgen.fetching import LICENCE, fetch_adgen

        return fetch_adgen(self.adgen_folder, sources=self.adgen_sources), LICENCE


def from_parts(request: Request, opener: Opener, out_dir: Path) -> Origin:
    """The rows that a request asks for; DataError for any mistake in the user's files."""
    _refuse_to_overwrite(out_dir, request)
    own = [opener.open(source, TRAIN) for source in request.train]
    splits = {"dev": request.dev} | ({} if request.valid is None else {"valid": request.valid})
    shares = {name: each for name, each in splits.items() if isinstance(each, float)}
    sides: Mapping[str, Sequence[Rows]] = {TRAIN: [each.rows for each in own]}
    if shares:
        sides = hold_out(sides[TRAIN], shares, opener.seed)
    rows = {name: _joined([Part(each) for each in sides[name]]) for name in shares}
    source = dict(own[0].about)
    for name, each in splits.items():
        if not isinstance(each, float):
            opened = opener.open(each, name)
            rows[name] = opened.rows
            if opened.about != own[0].about:
                source[name] = _without_equal_kind(opened.about, own[0].about)
    if shares:
        source["held_out"] = {**shares, "seed": opener.seed}
    mixed = [(opener.open(each, TRAIN, own=False), share) for each, share in request.mixed]
    licences = dict.fromkeys(part.licence for part in (*own, *(each for each, _ in mixed)))
    parts = [
        *(Part(side, None, each.about) for side, each in zip(sides[TRAIN], own, strict=True)),
        *(Part(each.rows, share, each.about) for each, share in mixed),
    ]
    return Origin(
        _joined(parts),
        rows["dev"],
        source,
        " ".join(filter(None, licences)) or None,
        rows.get("valid"),
    )


def _joined(parts: Sequence[Part]) -> Rows:
    """The rows of parts; those of a single one as they are."""
    return parts[0].rows if len(parts) == 1 else Mixture(parts)


def _without_equal_kind(about: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key != "kind" or value != first["kind"]}


def _refuse_to_overwrite(out_dir: Path, request: Request) -> None:
    """Raise ParamsError if a normalized file would overwrite a user's own."""
    named = (*request.train, *(each for each, _ in request.mixed), request.dev, request.valid)
    written = {(out_dir / name).resolve() for name in FILES}
    for path in named:
        if isinstance(path, Path) and path.resolve() in written:
            raise ParamsError(
                f"--out-dir {out_dir}: would overwrite your file {path}; expected another folder; "
                "choose one that does not hold your data"
            )
