"""Reads untrusted bytes into memory, up to a limit: files over HTTP, members of archives.

The environment sets proxies and certificates (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`).
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from glmtune.errors import DataError

# For a download and for unpacked content; about two and a half times the real size.
MOST_BYTES = 1 << 27
# To connect, which is short so that offline machines fail fast, and to receive the next bytes.
TIMEOUTS_S = (5.0, 30.0)
# If a download is slower on average after the grace period, another source is more promising.
LEAST_BYTES_PER_S, GRACE_S = 20_000, 30.0
# Connections are not retried, since there are other sources; Retry-After may ask for hours.
RETRY = Retry(
    total=3,
    connect=0,
    other=0,
    status_forcelist=(408, 425, 429, 500, 502, 503, 504),
    backoff_factor=1,
    raise_on_status=False,
    respect_retry_after_header=False,
)


@contextmanager
def open_url(url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
    """The answer to a GET of `url` (http or https), its body to be read with `pieces_of`.

    Raises DataError with the reason for what fails, also while the body is read.
    """
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRY))
            # Keep .gz files compressed, even if a server declares them gzip-encoded.
            session.headers["Accept-Encoding"] = "identity"
            with session.get(url, stream=True, timeout=TIMEOUTS_S, headers=headers) as response:
                yield response
    except (requests.RequestException, HTTPError) as error:
        # The end of the library's message, which begins with memory addresses of objects.
        reason = re.split(r": |, ['\"]", str(error))[-1].strip("'\")( ")
        raise DataError(f"{type(error).__name__}: {reason}") from None


def pieces_of(body: BaseHTTPResponse) -> Iterator[bytes]:
    """The bytes of an answer as they come; DataError for a source that is too slow."""
    size, start = 0, time.monotonic()
    # read1 returns the available bytes; read would wait for all of them, however slow.
    while piece := body.read1(1 << 16, decode_content=False):
        size += len(piece)
        yield piece
        seconds = time.monotonic() - start
        if seconds > GRACE_S and size < LEAST_BYTES_PER_S * seconds:
            raise DataError(f"slower than {LEAST_BYTES_PER_S:,} bytes per second; gave up")


def download(url: str) -> bytes:
    """Download the file at `url` (http or https); DataError with the reason on failure."""
    with open_url(url) as response:
        if response.status_code != 200:
            raise DataError(f"HTTP {response.status_code} {response.reason}")
        content = bytearray()
        with tqdm(unit="B", unit_scale=True) as bar:
            for piece in pieces_of(response.raw):
                content += piece
                bar.update(len(piece))
                if len(content) > MOST_BYTES:
                    raise DataError(f"more than {MOST_BYTES:,} bytes, so it is a different file")
    return bytes(content)


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
