"""Bytes from strangers, in memory only and never too many: files over HTTP, members of archives.

Proxies and certificates are the environment's (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`).
"""

from __future__ import annotations

import gzip
import io
import multiprocessing
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from glmtune.errors import DataError

# Of a download, and of what is unpacked; some two and a half times the real size.
MOST_BYTES = 1 << 27
# To connect, short so that a machine without a network hears about it soon; for the next bytes;
# for all: the larger file, 54 MB, at 50 kB a second.
CONNECT_S, READ_S, ALL_S = 5.0, 30.0, 1080.0
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
# Not to connect, since another place is a better try; and a server may ask to wait for hours.
RETRY = Retry(3, connect=0, other=0, status_forcelist=PASSING_STATUS, backoff_factor=1)
RETRY = RETRY.new(raise_on_status=False, respect_retry_after_header=False)


def download(url: str) -> bytes:
    """The file at `url` (http or https); DataError with the reason if it cannot be had."""
    try:
        with ThreadPool(1) as pool:  # no time-out of requests bounds headers that drip
            return pool.apply_async(_receive, (url,)).get(ALL_S)
    except multiprocessing.TimeoutError:
        raise DataError(f"not here after {ALL_S:,g} s; given up") from None
    except (requests.RequestException, HTTPError) as error:
        # The end of the library's message: before it are the addresses of objects in memory.
        reason = re.split(r": |, ['\"]", str(error))[-1].strip("'\")( ")
        raise DataError(f"{type(error).__name__}: {reason}") from None


def _receive(url: str) -> bytes:
    content = bytearray()
    with requests.Session() as session, tqdm(unit="B", unit_scale=True) as bar:
        session.mount("http://", HTTPAdapter(max_retries=RETRY))
        session.mount("https://", HTTPAdapter(max_retries=RETRY))
        # A .gz file is wanted as it is, also from a server that calls it gzip-encoded.
        session.headers["Accept-Encoding"] = "identity"
        with session.get(url, stream=True, timeout=(CONNECT_S, READ_S)) as response:
            if response.status_code != 200:
                raise DataError(f"HTTP {response.status_code} {response.reason}")
            for piece in response.raw.stream(1 << 14, decode_content=False):
                content += piece
                bar.update(len(piece))
                if len(content) > MOST_BYTES:
                    raise DataError(f"more than {MOST_BYTES:,} bytes, so it is another file")
    return bytes(content)


def read_members(archive: bytes, names: Collection[str]) -> dict[str, bytes]:
    """The contents of the files called `names`, from whatever folder of a tar or zip archive."""
    found: dict[str, bytes] = {}
    try:
        for path, open_member in _members(archive):
            name = path.replace("\\", "/").rpartition("/")[2]
            if name in names and name not in found:
                found[name] = _read(open_member())
    except DataError:
        raise
    except Exception as error:  # the standard library raises nearly anything for forged bytes
        raise DataError(f"damaged or incomplete ({error}); expected a whole archive") from None
    if missing := sorted(set(names) - set(found)):
        raise DataError(f"no {', '.join(missing)} in it; expected {', '.join(sorted(names))}")
    return found


def _members(archive: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The path of each plain file, and what opens it."""
    if archive.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            yield from ((info.filename, partial(packed.open, info)) for info in packed.infolist())
        return
    if archive.startswith(b"\x1f\x8b"):  # not by tarfile, which believes a header of any length
        archive = _read(gzip.GzipFile(fileobj=io.BytesIO(archive)))
    if archive[257:262] != b"ustar":
        kind = "a web page" if archive.lstrip().startswith(b"<") else "not an archive"
        raise DataError(f"{kind}; expected a .tar.gz, .tar or .zip file")
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        yield from ((info.name, partial(tar.extractfile, info)) for info in tar if info.isreg())


def _read(stream: Any) -> bytes:
    content: bytes = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"unpacks to more than {MOST_BYTES:,} bytes; expected the data set alone")
    return content
