"""A small HTTP server on this machine whose answers, good and bad, a test writes down."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server's answer for its path."""

    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, [status(404)])
        # Each answer but the last is given once.
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def send_head(self, code: int, headers: dict[str, object]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class FileServer(ThreadingHTTPServer):
    """`answers[path]` are given in turn, the last one for ever; `asked` is what was requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what the tests are about."""


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def whole(content: bytes, **headers: object) -> Answer:
    """All of it."""

    def answer(request: Handler) -> None:
        request.send_head(200, {"Content_Length": len(content), **headers})
        request.wfile.write(content)

    return answer


def ranged(content: bytes, stops_after: int | None = None, code: int = 206) -> Answer:
    """All of it, or from the byte on that is asked for; hangs up early after some bytes.

    `code` is the status of a part: 206, or 200 as ModelScope has it.
    """

    def answer(request: Handler) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        if start >= len(content) > 0:
            return status(416)(request)
        wanted = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers: dict[str, object] = {"Content_Length": len(content) - start}
        if start:
            headers["Content_Range"] = wanted
        request.send_head(code if start else 200, headers)
        request.wfile.write(content[start:][:stops_after])

    return answer


def status(code: int, **headers: object) -> Answer:
    """No file, for a reason."""
    return lambda request: request.send_head(code, {"Content_Length": 0, **headers})


def dripping(beginning: bytes) -> Answer:
    """A beginning, then a byte at a time until the server stops or nobody listens any more."""

    def answer(request: Handler) -> None:
        request.wfile.write(beginning)
        while not request.server.stopping.wait(0.01):
            request.wfile.write(b"x")

    return answer


def publish_on_modelscope(
    server: FileServer, repository: str, revision: str, files: Mapping[str, bytes]
) -> None:
    """As ModelScope does: SHA-256 of every file, folders in the list, parts with status 200."""
    entries: list[dict[str, object]] = [
        {"Path": name, "Name": name, "Type": "blob", "Size": len(text), "Sha256": sha256(text)}
        for name, text in files.items()
    ]
    entries.append({"Path": "model.safetensors.d", "Name": "", "Type": "tree", "Size": 0})
    about = f"/api/v1/models/{repository}/repo"
    answer = json.dumps({"Code": 200, "Data": {"Files": entries}}).encode()
    server.answers[f"{about}/files?Revision={revision}"] = [whole(answer)]
    for name, content in files.items():
        path = f"{about}?Revision={revision}&FilePath={name}"
        server.answers[path] = [ranged(content, code=200)]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
