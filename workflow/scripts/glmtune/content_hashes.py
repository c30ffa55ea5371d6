"""SHA-256 of large files, remembered: a file is read again only when its inode or times change.

    <store>/hashes/<SHA-256 of the path>.json
        {"path": …, "status": [inode, bytes, mtime_ns, ctime_ns], "sha256": …}

A change of content changes ctime, which no program can set back. As in git's index, a hash is not
remembered while the file's times are so recent that a change in the same tick would not show.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from glmtune.errors import WeightsError
from glmtune.files import sha256_of, write_json
from glmtune.locations import store_folder

# The coarsest clocks of file systems in use tick every two seconds.
TICK_NS = 2_000_000_000
# Reading this many bytes takes long enough for a message.
LARGE = 2**30


def hash_files(files: Iterable[Path], store: Path | None = None) -> dict[Path, str]:
    """`{file: SHA-256}`; only files that changed since they were last hashed are read.

    `store` is where hashes are remembered; None: in this workspace's store. Raises WeightsError for
    a file that changes while it is read.
    """
    folder = (store_folder(Path.cwd()) if store is None else store) / "hashes"
    known = {path: _remembered(path, folder) for path in files}
    size = sum(path.stat().st_size for path, digest in known.items() if digest is None)
    if size > LARGE:
        print(f"hashing {size / 1e9:.1f} GB of weights, once until they change", file=sys.stderr)
    return {path: digest or _hash(path, folder) for path, digest in known.items()}


def _remembered(path: Path, folder: Path) -> str | None:
    """The hash of a file that is as it was when it was hashed; None if it must be read."""
    try:
        record = json.loads(_record_of(path, folder).read_text(encoding="utf-8"))
        if record["status"] == _status(path) and record["path"] == str(path.resolve()):
            return str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no record, or a damaged one
    return None


def _hash(path: Path, folder: Path) -> str:
    """Read the file; remember its hash unless a later change might not show."""
    began, before = time.time_ns(), _status(path)
    digest = sha256_of(path)
    if _status(path) != before:
        raise WeightsError(f"{path}: changed while it was read; run again when it is complete")
    if max(before[2:]) < began - TICK_NS:
        with suppress(OSError):  # a store that cannot be written costs time, nothing else
            record = {"path": str(path.resolve()), "status": before, "sha256": digest}
            write_json(_record_of(path, folder), record)
    return digest


def _status(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _record_of(path: Path, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
