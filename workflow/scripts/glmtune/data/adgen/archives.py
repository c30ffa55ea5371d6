"""Named files out of an archive that a stranger made.

A tar file, plain or gzipped, or a zip file, whatever its name. No path of the archive is ever
used to write: the bytes of a wanted file go to the caller's folder under the caller's name. An
archive with anything but plain files and folders below its own top is refused as a whole, and so
is one that unpacks to more than the limits. Knows nothing about what the files mean.
"""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from glmtune.errors import DataError
from glmtune.files import atomic_path

GZIP_START = b"\x1f\x8b"
ZIP_START = b"PK\x03\x04"
TAR_MARK, TAR_MARK_AT = b"ustar", 257
# What the standard library raises for bytes that are no such archive, not a whole one, or forged:
# numbers that are none, a seek to before the start (EINVAL), thousands of headers in a row.
DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, OSError, RecursionError, ValueError),
)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most, unpacked."""

    members: int = 100
    """Files and folders."""
    bytes: int = 1 << 28
    """All members together, with the archive's own headers."""


@dataclass(frozen=True)
class _Member:
    """One entry: `kind` is file, folder, or a word for what is refused; `open` gives its bytes."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def extract(
    archive: Path, names: Collection[str], folder: Path, limits: Limits | None = None
) -> None:
    """Write the files called `names`, from whatever folder of the archive, into `folder`.

    `folder` is replaced, or left as it was when DataError "ARCHIVE: found; expected; fix" is
    raised: not an archive, damaged, unsafe, too large, or a name missing or there twice.
    """
    try:
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for name, content in _wanted(archive, names, limits or Limits()):
                with (temporary / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
    except DAMAGES as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of this machine's disk
        raise DataError(
            f"{archive}: damaged or incomplete ({error}); expected a whole archive; fetch it again"
        ) from None


def _wanted(
    archive: Path, names: Collection[str], limits: Limits
) -> Iterator[tuple[str, IO[bytes]]]:
    """Each wanted file's name and bytes, to be read before the next one is asked for."""
    found: set[str] = set()
    for member in _within(archive, limits, _members(archive, limits)):
        name = _checked_path(archive, member).name
        if member.kind != "file" or name not in names:
            continue
        if name in found:
            raise DataError(f"{archive}: holds {name} twice; expected one; name another archive")
        found.add(name)
        content = member.open()
        assert content is not None, "a plain file has content"
        with content:
            yield name, content
    missing = ", ".join(sorted(set(names) - found))
    if missing:
        raise DataError(f"{archive}: no {missing} in it; expected {', '.join(sorted(names))}")


def _within(archive: Path, limits: Limits, members: Iterable[_Member]) -> Iterator[_Member]:
    """The members, up to the limits: sizes count as the archive states them, before reading."""
    size = 0
    for count, member in enumerate(members, start=1):
        size += member.size
        if count > limits.members:
            raise DataError(f"{archive}: more than {limits.members} members; refused")
        if size > limits.bytes:
            raise _too_large(archive, limits.bytes)
        yield member


def _checked_path(archive: Path, member: _Member) -> PurePosixPath:
    """A member's path inside the archive; DataError for one that no honest archive has."""
    # Some zip programs of Windows write its separators.
    path = PurePosixPath(member.name.replace("\\", "/"))
    if member.kind not in ("file", "folder"):
        raise DataError(f"{archive}: {member.name!r} is {member.kind}; expected plain files only")
    if path.is_absolute() or ".." in path.parts or ":" in member.name or "\0" in member.name:
        raise DataError(f"{archive}: {member.name!r} points outside the archive; refused")
    return path


def _too_large(archive: Path, most_bytes: int) -> DataError:
    return DataError(f"{archive}: unpacks to more than {most_bytes} bytes; refused")


# --- the kinds of archive ------------------------------------------------------------------------


def _kind_of(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(TAR_MARK_AT + len(TAR_MARK))
    if start.startswith(GZIP_START):
        return "gzip"
    if start.startswith(ZIP_START):
        return "zip"
    return "tar" if start[TAR_MARK_AT:] == TAR_MARK else None


def _members(archive: Path, limits: Limits) -> Iterator[_Member]:
    kind = _kind_of(archive)
    if kind == "zip":
        return _zip_members(archive)
    if kind is None:
        raise DataError(f"{archive}: not an archive; expected a .tar.gz, .tar or .zip file")
    return _tar_members(archive, kind, limits)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            # `open` gives no more bytes than `file_size`, whatever is packed.
            yield _Member(info.filename, _zip_kind(info), info.file_size, partial(file.open, info))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    # Zip programs of Unix put the file's mode here; others leave 0.
    mode = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 1:
        return "encrypted"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link" if mode == stat.S_IFLNK else "a device"
    if info.filename.endswith("/"):  # is_dir() fails on an empty name
        return "folder"
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return "file" if info.compress_type in known else "packed by a rare method"


def _tar_members(archive: Path, kind: str, limits: Limits) -> Iterator[_Member]:
    with gzip.open(archive) if kind == "gzip" else archive.open("rb") as stream:
        # One pass ("r|"): seeking back would unpack everything again.
        bounded = _Bounded(stream, archive, limits.bytes)
        with tarfile.open(fileobj=bounded, mode="r|") as tar:
            for info in tar:
                yield _Member(info.name, _tar_kind(info), info.size, partial(tar.extractfile, info))


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "a link"
    return "file" if info.isreg() and not info.issparse() else "a device or a sparse file"


class _Bounded(io.RawIOBase):
    """A stream that ends in DataError after so many bytes, before a bomb fills the memory.

    tarfile reads a header of any stated length at once, before it tells of a member.
    """

    def __init__(self, stream: io.BufferedIOBase, archive: Path, most_bytes: int) -> None:
        super().__init__()
        self._stream, self._archive = stream, archive
        self._most = self._left = most_bytes

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; in one pass tarfile calls nothing else, and always with a size."""
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise _too_large(self._archive, self._most)
        return content
