"""GET over HTTP from sites that may be slow, broken or hostile: pieces, or a whole small file.

The environment sets proxies and certificates (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from glmtune.errors import DataError

# For a whole file in memory; two and a half times AdvertiseGen, the largest.
MOST_BYTES = 1 << 27
# Of a list; the Hugging Face Hub's pages have 1000 entries.
MOST_PAGES = 100
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
    """The file at `url` (http or https), up to MOST_BYTES; DataError with the reason on failure."""
    with open_url(url) as response:
        return _content(response)


def download_pages(url: str) -> Iterator[bytes]:
    """Each page of a list whose `Link` header names the next one (RFC 8288).

    All pages are asked of the first one's site, since a mirror may name the original. Raises
    DataError as `download` does, and for more than MOST_PAGES.
    """
    for _ in range(MOST_PAGES):
        with open_url(url) as response:
            yield _content(response)
            after = response.links.get("next", {}).get("url")
        if after is None:
            return
        url = urljoin(url, urlsplit(after)._replace(scheme="", netloc="").geturl())
    raise DataError(f"more than {MOST_PAGES} pages, so it is a different list")


def _content(response: requests.Response) -> bytes:
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
