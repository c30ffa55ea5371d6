"""Checkpoints on disk: sealed when complete, verified, found again, removed when superseded.

A seal holds the name, size and CRC-32 of every file of a checkpoint. It is written after all of
them, so that neither a kill, nor a power cut, nor a byte that the disk corrupted leaves a
checkpoint that only looks complete.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

from glmtune.errors import ResourceError
from glmtune.files import write_json

SEAL = "files.json"
BYTES_AT_ONCE = 2**20


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, read it back from disk, and remove the others beside it.

    If it reads back differently than written, it is removed and the others stay: until here the
    disk holds two checkpoints.
    """
    contents = _contents(checkpoint)
    write_json(checkpoint / SEAL, contents)
    for path in (*checkpoint.rglob("*"), checkpoint, checkpoint.parent):
        _flush_to_disk(path)
    if _contents(checkpoint) != contents:
        print(
            f"{checkpoint.name} is corrupt (it reads back differently than written): removed it "
            "and kept the previous one; check the disk and the memory of this machine",
            file=sys.stderr,
        )
        shutil.rmtree(checkpoint)
        return
    for other in checkpoints_in(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def last_checkpoint(work: Path) -> Path | None:
    """Find the newest complete checkpoint in `work`; remove newer ones, incomplete or corrupt.

    Raises ResourceError for one that cannot be read at the moment, and keeps it.
    """
    broken: list[Path] = []
    found = None
    for checkpoint in reversed(checkpoints_in(work)):
        if _is_complete(checkpoint):
            found = checkpoint
            break
        broken.append(checkpoint)
    if broken:
        names = ", ".join(checkpoint.name for checkpoint in broken)
        instead = f"resuming from {found.name}" if found else "starting over"
        print(f"removing incomplete or corrupt {names}; {instead}", file=sys.stderr)
    for checkpoint in broken:
        shutil.rmtree(checkpoint)
    return found


def checkpoints_in(work: Path) -> list[Path]:
    """All checkpoints in order of their steps: file times mislead if a clock was set back."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _is_complete(checkpoint: Path) -> bool:
    file = checkpoint / SEAL
    try:
        sealed = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        raise _unreadable(file, error) from None
    return sealed == _contents(checkpoint)


def _contents(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """`{name: {"bytes", "crc32"}}` of a checkpoint's files, as the disk holds them."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    return {
        path.relative_to(checkpoint).as_posix(): {
            "bytes": path.stat().st_size,
            "crc32": f"{_crc32_of(path):08x}",
        }
        for path in files
    }


def _crc32_of(path: Path) -> int:
    checksum, buffer = 0, memoryview(bytearray(BYTES_AT_ONCE))
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                checksum = zlib.crc32(buffer[:count], checksum)
    except OSError as error:
        raise _unreadable(path, error) from None
    return checksum


def _unreadable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{path}: cannot be read ({error.strerror}); if the disk is faulty, delete {path.parent}: "
        "the training then resumes from the previous checkpoint, or starts over"
    )


def _flush_to_disk(path: Path) -> None:
    """Flush a file or folder to disk and drop its copy in memory: it is read back next."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if path.is_file() and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
