"""Read, write and hash files as every step does: in UTF-8, and written atomically.

Knows nothing about the content of the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from glmtune.errors import DataError

LFS_POINTER = b"version https://git-lfs"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, else it is removed.

    Works for files and for folders: the caller creates either at the yielded path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    workdir = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield workdir / path.name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(workdir / path.name, path)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder through `atomic_path`.

    Only for a folder in which no other process is writing.
    """
    for path in list(folder.rglob(".*.????????")):  # the names of tempfile.mkdtemp
        is_ours = path.is_dir() and not path.is_symlink()
        if is_ours and {child.name for child in path.iterdir()} <= {path.name[1:-9]}:
            shutil.rmtree(path)


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Lock a folder; the operating system releases it when the process ends, however it ends.

    Who holds the lock may remove the folder; who waited for it then makes another.
    """
    lock = None
    while lock is None:
        lock = _take_lock(folder, work)
    with lock:
        yield


def _take_lock(folder: Path, work: str) -> IO[str] | None:
    """The locked file; None if it has been removed meanwhile, which leaves nothing to lock."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with ExitStack() as stack, suppress(FileNotFoundError):
        lock = stack.enter_context(path.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process {work}; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            stack.pop_all()  # stays open
            return lock
    return None


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically as UTF-8, with its line endings unchanged."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any) -> None:
    """Write one JSON document with sorted keys, so that equal content means equal bytes."""
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines, one object per row."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read one JSON document written by this project."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON document ({error}); delete it and run again") from None


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Read JSON Lines written by this project (users' files: `glmtune.data`)."""
    rows = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                rows.append(json.loads(line))
    except FileNotFoundError:
        raise _missing(path) from None
    except ValueError as error:
        raise DataError(
            f"{path}: line {len(rows) + 1}: not JSON ({error}); delete the file and run again"
        ) from None
    return rows


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise _missing(path) from None


def hash_folder(folder: Path | str) -> dict[str, str]:
    """`{relative name: SHA-256}` of every file below `folder`, sorted by name."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _missing(path: Path | str) -> DataError:
    return DataError(f"{path}: no such file; run the step that writes it first")


def sha256_of_bytes(content: bytes) -> str:
    """The SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file that begins so is git-LFS's note of a large file, not the file itself."""
    return content.startswith(LFS_POINTER)
