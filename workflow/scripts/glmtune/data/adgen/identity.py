"""What makes a copy of AdvertiseGen (ADGEN) the original one, and what another copy has instead.

Mirrors differ unnoticed: train.json a copy of dev.json, a part of the rows, other line ends. The
two files are therefore compared with hashes that independent copies of THUDM's archive share.
The archive's own bytes do not matter. Knows nothing about where a copy came from.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from glmtune.errors import DataError
from glmtune.files import atomic_path

CHUNK_BYTES = 1 << 20
# PaddleNLP's names of the columns. The original is written as `json.dumps` writes, one row a line,
# so that with its own names such a file has the original's very bytes, or is another text.
RENAMED_COLUMNS = {"src": "content", "tgt": "summary"}
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class FileIdentity:
    """What makes a file the original one."""

    name: str
    rows: int
    algorithm: str
    """`sha256`, or `git_blob`: the SHA-1 that `git hash-object` prints."""
    digest: str


@dataclass(frozen=True)
class Identity:
    """What makes a copy of the data set the original one, whatever archive it came in."""

    train: FileIdentity
    dev: FileIdentity

    @property
    def files(self) -> tuple[FileIdentity, FileIdentity]:
        """Both, the small one first: it tells a wrong mirror before the large one is fetched."""
        return self.dev, self.train


# For train.json only the hash under which git keeps it is known from several places.
ADGEN = Identity(
    train=FileIdentity(
        name="train.json",
        rows=114_599,
        algorithm="git_blob",
        digest="45a137ea5034e4cd0ec37c25ce21a9cf2b4f396a",
    ),
    dev=FileIdentity(
        name="dev.json",
        rows=1_070,
        algorithm="sha256",
        digest="96b63cfd9fd0faca122a5747597f46ff835f19d9b1d3634f4b71f8a5f9487cc1",
    ),
)


def digest_of(path: Path, algorithm: str) -> str:
    """The hash of a file in hexadecimal digits; `algorithm` as in `FileIdentity`."""
    with path.open("rb") as stream:
        return _digest(stream, path.stat().st_size, algorithm)


def _digest(stream: IO[bytes], size: int, algorithm: str) -> str:
    if algorithm == "git_blob":
        # Git's choice, made before SHA-1 was broken; nobody is known to forge a given hash.
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm)
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def is_original(path: Path, file: FileIdentity) -> bool:
    """Whether the file is there and the original one."""
    return path.is_file() and digest_of(path, file.algorithm) == file.digest


def make_original(path: Path, file: FileIdentity, identity: Identity) -> None:
    """Give the columns their original names if they have PaddleNLP's, and verify the result.

    Raises DataError "train.json: found; expected" for a file that is not the original.
    """
    if is_original(path, file):
        return
    content = path.read_bytes()
    renamed = _rename_columns(content)
    if renamed is not None and _has_digest(renamed, file):
        with atomic_path(path) as temporary:
            temporary.write_bytes(renamed)
        return
    found = _difference(content if renamed is None else renamed, file, identity)
    if renamed is not None:
        found = f"columns src and tgt, and with the original names {found}"
    raise DataError(f"{file.name}: {found}")


def _has_digest(content: bytes, file: FileIdentity) -> bool:
    return _digest(io.BytesIO(content), len(content), file.algorithm) == file.digest


def _rename_columns(content: bytes) -> bytes | None:
    """The rows with the original names, written as the original is; None for other columns."""
    # On bytes, since the line ends that str knows (U+2028, …) may stand inside a text.
    try:
        rows = [json.loads(line) for line in content.split(b"\n") if line]
    except ValueError:
        return None
    if not rows or any(
        not isinstance(row, dict) or set(row) != set(RENAMED_COLUMNS) for row in rows
    ):
        return None
    lines = (
        json.dumps({new: row[old] for old, new in RENAMED_COLUMNS.items()}, ensure_ascii=False)
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def _difference(content: bytes, file: FileIdentity, identity: Identity) -> str:
    """In words, how a file that is not the original differs from it."""
    for other in identity.files:
        if other is not file and _has_digest(content, other):
            return f"the content of {other.name}"
    if content.startswith(LFS_POINTER):
        return "a git-LFS pointer; expected the file it stands for"
    if b"\r\n" in content and _has_digest(content.replace(b"\r\n", b"\n"), file):
        return "line ends CR LF; expected LF"
    columns = _columns(content)
    if columns is None:
        return "not JSON Lines"
    if columns != list(RENAMED_COLUMNS.values()):
        return f"columns {', '.join(columns)}; expected content, summary"
    rows = sum(1 for line in content.split(b"\n") if line.strip())
    if rows != file.rows:
        return f"{rows:,} rows; expected {file.rows:,}"
    digest = _digest(io.BytesIO(content), len(content), file.algorithm)
    return f"{rows:,} rows of other text ({file.algorithm} {digest}; expected {file.digest})"


def _columns(content: bytes) -> list[str] | None:
    """The keys of the first row, None if there is none."""
    try:
        row = json.loads(content.split(b"\n", 1)[0])
    except ValueError:
        return None
    return list(row) if isinstance(row, dict) else None
