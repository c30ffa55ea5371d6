"""One file over HTTP: resumed where an earlier try stopped, tried again where that can help.

What has arrived stands in `<name>.part`, with what the server said about it in `<name>.part.json`;
a killed program therefore goes on where it was. Proxies and certificates are those of the
environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`). Knows nothing about what the file
means: whoever asked for it compares its hash.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from glmtune.data.adgen.patience import Pace, Patience
from glmtune.data.adgen.transport_errors import explain, never_connected
from glmtune.errors import DataError
from glmtune.files import read_json, write_json

# What is read at a time at most, and what the title of a web page stands in.
PIECE_BYTES, PAGE_BYTES = 1 << 14, 1 << 11
# Answers that may be another one in a moment (RFC 9110, section 15; RFC 6585, section 4).
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)
WEB_PAGE_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title", re.IGNORECASE | re.DOTALL)
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _PassingTrouble(Exception):
    """What may go better in a moment; `pause_s` is what the server asked to wait."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


@dataclass(frozen=True)
class _Part:
    """The beginning of a file, and where the server is asked to go on."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def notes(self) -> Path:
        """The file with what the server said about the whole one."""
        return self.path.with_name(self.path.name + ".json")

    def begin(self, url: str, response: requests.Response) -> None:
        """Start anew with what this answer is about to send."""
        self.discard()
        tag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified")
        # RFC 9110, section 13.1.5: a weak tag does not promise the same bytes.
        validator = date if tag.startswith("W/") or not tag else tag
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        write_json(self.notes, {"url": url, "validator": validator, "total": total})

    def about(self, url: str) -> dict[str, Any]:
        """The notes, if the bytes that are here came from this URL; otherwise {}."""
        if not self.size or not self.notes.is_file():
            return {}
        notes = read_json(self.notes)
        return notes if notes["url"] == url else {}

    def request_headers(self, url: str) -> dict[str, str]:
        """Ask for the rest, provided that the file is still the one that was begun."""
        # Compressed on the way, a range would count other bytes than those on the disk.
        headers = {"Accept-Encoding": "identity"}
        notes = self.about(url)
        if notes:
            headers["Range"] = f"bytes={self.size}-"
            if notes["validator"]:
                headers["If-Range"] = notes["validator"]
        return headers

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def download(url: str, target: Path, *, most_bytes: int, patience: Patience | None = None) -> None:
    """Write the file at `url` (http or https) to `target`, whole or not at all.

    Raises DataError "URL: what went wrong" for a server that cannot be reached, refuses, sends a
    web page or more than `most_bytes`, or stops or crawls again and again. A full disk is an
    OSError.
    """
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target.with_name(target.name + ".part"))
    most_received, failures, last = part.size, 0, time.monotonic()
    while True:
        try:
            _receive(url, part, most_bytes, patience)
            break
        except _PassingTrouble as trouble:
            received, now = part.size - most_received, time.monotonic()
            failures = 0 if patience.is_enough(received, now - last) else failures + 1
            most_received, last = max(most_received, part.size), now
            if failures >= patience.tries:
                raise DataError(f"{url}: {trouble}, {failures} times in a row") from None
            pause = max(trouble.pause_s, patience.pause_s * 2 ** max(failures - 1, 0))
            print(f"{url}: {trouble}; trying again", file=sys.stderr)
            time.sleep(min(pause, patience.longest_pause_s))
    os.replace(part.path, target)
    part.discard()


def _receive(url: str, part: _Part, most_bytes: int, patience: Patience) -> None:
    """Add to `part` what one request brings; returns when the file is whole."""
    try:
        with _ask(url, part.request_headers(url), patience) as response:
            if not _is_complete(response, part):
                _check_status(url, response)
                _place_in_file(url, response, part)
                _save(url, response, part, most_bytes, patience)
                _check_length(url, part)
    except (requests.RequestException, HTTPError) as error:
        reason = explain(error, patience)
        if never_connected(error) and not part.size:
            raise DataError(f"{url}: {reason}") from None
        if isinstance(error, ValueError | requests.TooManyRedirects):  # an unusable address
            raise DataError(f"{url}: {reason}") from None
        raise _PassingTrouble(reason) from None


def _ask(url: str, headers: dict[str, str], patience: Patience) -> requests.Response:
    """The answer, of which the body is still to be read.

    Asked in a thread of its own: no time-out bounds how long headers, and bodies of redirects, may
    drip. One that is left behind ends with its connection or with the program.
    """
    waits = (patience.connect_s, patience.read_s)
    asked: Future[requests.Response] = Future()

    def ask() -> None:
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=waits)
        except Exception as error:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)
            return
        if asked.set_running_or_notify_cancel():
            asked.set_result(response)
        else:
            response.close()

    Thread(target=ask, daemon=True).start()
    try:
        return asked.result(patience.answer_s)
    except TimeoutError:
        if asked.cancel():
            raise _PassingTrouble(f"no answer within {patience.answer_s:g} s") from None
        return asked.result()


def _is_complete(response: requests.Response, part: _Part) -> bool:
    """Whether the server says that nothing follows what is here already."""
    whole = response.headers.get("Content-Range") == f"bytes */{part.size}"
    return response.status_code == 416 and part.size > 0 and whole


def _check_status(url: str, response: requests.Response) -> None:
    """Raise unless the answer carries the file or the rest of it."""
    status = response.status_code
    if status in (200, 206):
        return
    reason = f"HTTP {status} {response.reason or ''}".rstrip()
    if status in PASSING_STATUS:
        asked = response.headers.get("Retry-After", "")
        raise _PassingTrouble(reason, float(asked) if asked.isdigit() else 0.0)
    if status == 416:
        raise _PassingTrouble("another file than the one begun")
    raise DataError(f"{url}: {reason}")


def _place_in_file(url: str, response: requests.Response, part: _Part) -> None:
    """Keep what is here if the answer goes on from there; forget it if the answer starts anew."""
    if response.status_code == 200:
        part.begin(url, response)
        return
    sent = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    begun = part.about(url).get("total")
    fits = sent is not None and int(sent[1]) == part.size
    if not fits or (begun is not None and sent is not None and sent[2] != str(begun)):
        part.discard()
        raise _PassingTrouble("another part of the file than the one asked for")


def _save(
    url: str, response: requests.Response, part: _Part, most_bytes: int, patience: Patience
) -> None:
    """Append the body to the part, showing how far it is."""
    here = part.size
    length = response.headers.get("Content-Length", "")
    total = here + int(length) if length.isdigit() else None
    if total is not None and total > most_bytes:
        raise _too_large(url, part, most_bytes)
    bar = tqdm(total=total, initial=here, unit="B", unit_scale=True, desc=part.path.stem)
    with bar, part.path.open("ab") as file:
        for piece in _pieces(response, PAGE_BYTES if here == 0 else 1, patience):
            if here == 0:
                _refuse_web_page(url, response, piece, part)
            here += len(piece)
            if here > most_bytes:
                raise _too_large(url, part, most_bytes)
            file.write(piece)
            bar.update(len(piece))


def _pieces(response: requests.Response, first_bytes: int, patience: Patience) -> Iterator[bytes]:
    """The body as it arrives, the first piece of at least `first_bytes` if there are so many.

    What arrived before the connection is cut, or is left for being too slow, comes out as well.
    """
    pace, held, least = Pace(patience), b"", first_bytes
    try:
        # Not `stream`, which waits for whole chunks: of a line that drips, for hours.
        while piece := response.raw.read1(PIECE_BYTES, decode_content=False):
            held += piece
            if len(held) >= least:
                yield held
                held, least = b"", 1
            if pace.is_too_slow(len(piece)):
                slowest, window = patience.least_bytes_s, patience.window_s
                raise _PassingTrouble(f"slower than {slowest:g} bytes a second for {window:g} s")
    except (HTTPError, _PassingTrouble):
        if held:
            yield held
        raise
    if held:
        yield held


def _check_length(url: str, part: _Part) -> None:
    """Raise unless all has arrived: a server may send less of a range than it was asked for."""
    total = part.about(url).get("total")
    if total is None or part.size == total:
        return
    received = part.size
    if received > total:
        part.discard()
    raise _PassingTrouble(f"{received} bytes instead of {total}")


def _too_large(url: str, part: _Part, most_bytes: int) -> DataError:
    part.discard()
    return DataError(f"{url}: larger than {most_bytes} bytes, so it is another file")


def _refuse_web_page(url: str, response: requests.Response, start: bytes, part: _Part) -> None:
    """Raise DataError for the page of a login, a captcha or an expired link, sent as a success."""
    start = start.removeprefix(b"\xef\xbb\xbf")
    is_html = response.headers.get("Content-Type", "").startswith("text/html")
    if not (WEB_PAGE.match(start) or (is_html and start.lstrip().startswith(b"<"))):
        return
    part.discard()
    title = WEB_PAGE_TITLE.search(start)
    name = " ".join(title[1].decode("utf-8", "replace").split())[:60] if title else "without title"
    raise DataError(f"{url}: a web page ({name}) instead of the file")
