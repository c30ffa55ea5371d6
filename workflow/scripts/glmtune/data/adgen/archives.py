"""Reads named members of untrusted archives into memory, up to a limit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from glmtune.downloading import MOST_BYTES
from glmtune.errors import DataError


def read_members(archive: bytes, names: Collection[str]) -> dict[str, bytes]:
    """The contents of the files called `names` in any folder of a tar or zip archive."""
    found: dict[str, bytes] = {}
    try:
        for path, open_member in _plain_files(archive):
            name = path.replace("\\", "/").rpartition("/")[2]
            if name in names and name not in found:
                found[name] = _read_limited(open_member())
    except DataError:
        raise
    except Exception as error:  # forged bytes can raise almost any exception
        raise DataError(f"damaged or incomplete ({error}); expected a complete archive") from None
    if missing := sorted(set(names) - set(found)):
        raise DataError(f"no {', '.join(missing)} in it; expected {', '.join(sorted(names))}")
    return found


def _plain_files(archive: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the path of each regular file and a function that opens it."""
    if archive.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            yield from ((info.filename, partial(packed.open, info)) for info in packed.infolist())
        return
    if archive.startswith(b"\x1f\x8b"):  # tarfile would trust headers of any length
        archive = _read_limited(gzip.GzipFile(fileobj=io.BytesIO(archive)))
    if archive[257:262] != b"ustar":
        kind = "a web page" if archive.lstrip().startswith(b"<") else "not an archive"
        raise DataError(f"{kind}; expected a .tar.gz, .tar or .zip file")
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        yield from ((info.name, partial(tar.extractfile, info)) for info in tar if info.isreg())


def _read_limited(stream: Any) -> bytes:
    content: bytes = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"unpacks to more than {MOST_BYTES:,} bytes; expected only the data set")
    return content
