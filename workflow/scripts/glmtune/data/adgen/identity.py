"""What makes a copy of AdvertiseGen (ADGEN) the original one, and what another copy has instead.

Mirrors differ unnoticed: train.json a copy of dev.json, a part of the rows, other line ends. The
two files are therefore compared with hashes that independent copies of THUDM's archive share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from glmtune.errors import DataError


@dataclass(frozen=True)
class KnownFile:
    """What makes a file the original one."""

    name: str
    rows: int
    algorithm: str
    """`sha256`, or `git_blob`: the SHA-1 that `git hash-object` prints."""
    digest: str

    def is_in(self, content: bytes) -> bool:
        """Whether these bytes are the file."""
        if self.algorithm == "git_blob":
            # Git's choice, made before SHA-1 was broken; nobody is known to forge a given hash.
            blob = b"blob %d\0" % len(content) + content
            return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.digest
        return hashlib.new(self.algorithm, content).hexdigest() == self.digest


DEV_SHA256 = "96b63cfd9fd0faca122a5747597f46ff835f19d9b1d3634f4b71f8a5f9487cc1"
# Of train.json only the hash under which git keeps it is known from several places. The small file
# first: it tells a wrong mirror before the large one is fetched.
ADGEN = (
    KnownFile("dev.json", 1_070, "sha256", DEV_SHA256),
    KnownFile("train.json", 114_599, "git_blob", "45a137ea5034e4cd0ec37c25ce21a9cf2b4f396a"),
)


def make_original(content: bytes, file: KnownFile, files: Sequence[KnownFile]) -> bytes:
    """The file under the original names of the columns; DataError if it is another one."""
    if not file.is_in(content):
        content = _rename_columns(content)
        if not file.is_in(content):
            raise DataError(f"{file.name}: {_difference(content, file, files)}")
    return content


def _rename_columns(content: bytes) -> bytes:
    """PaddleNLP's src and tgt as content and summary, written as the original is."""
    try:
        rows = (json.loads(line) for line in content.split(b"\n") if line)
        renamed = ({"content": row["src"], "summary": row["tgt"]} for row in rows)
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in renamed)
    except (ValueError, LookupError, TypeError, RecursionError):
        return content
    return text.encode("utf-8", "surrogatepass")


def _difference(content: bytes, file: KnownFile, files: Sequence[KnownFile]) -> str:
    """In words, how another content differs from the file's."""
    for other in files:
        if other.is_in(content):
            return f"the content of {other.name}"
    if content.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer; expected the file it stands for"
    if file.is_in(content.replace(b"\r\n", b"\n")):
        return "line ends CR LF; expected LF"
    try:
        columns = ", ".join(json.loads(content.partition(b"\n")[0]))
    except (ValueError, TypeError, RecursionError):
        return "not JSON Lines"
    if columns != "content, summary":
        return f"columns {columns}; expected content, summary"
    rows = len([line for line in content.split(b"\n") if line.strip()])
    return f"{rows:,} rows{' of other text' if rows == file.rows else ''}; expected {file.rows:,}"
