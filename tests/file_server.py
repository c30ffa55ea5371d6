"""A small HTTP server on this machine whose answers, good and bad, a test writes down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server's answer for its path."""

    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        answers = self.server.answers.get(self.path, [status(404)])
        # Each answer but the last is given once.
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def send_head(self, code: int, headers: dict[str, object]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class FileServer(ThreadingHTTPServer):
    """`answers[path]` are given in turn, the last one for ever; `asked` is what was requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str | None]:
        """What part of the file each request asked for."""
        return [headers.get("Range") for _, headers in self.asked]

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


# --- answers -------------------------------------------------------------------------------------


def whole(content: bytes, **headers: object) -> Answer:
    """All of it, whatever part was asked for."""

    def answer(request: Handler) -> None:
        request.send_head(200, {"Content-Length": len(content), **_named(headers)})
        request.wfile.write(content)

    return answer


def resumable(content: bytes, *, etag: str = '"1"', stop_at: int | None = None) -> Answer:
    """What is asked for, or all if the file is another one by now; cut off before `stop_at`."""

    def answer(request: Handler) -> None:
        start = 0
        if request.headers.get("If-Range", etag) == etag:
            start = int(request.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        head: dict[str, object] = {"Content-Length": len(content) - start, "ETag": etag}
        if start:
            head["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.send_head(206 if start else 200, head)
        request.wfile.write(content[start:stop_at])

    return answer


def status(code: int, **headers: object) -> Answer:
    """No file, for a reason."""
    return lambda request: request.send_head(code, {"Content-Length": 0, **_named(headers)})


def hanging(beginning: bytes = b"") -> Answer:
    """A few bytes, then nothing until the server stops."""

    def answer(request: Handler) -> None:
        request.send_head(200, {"Content-Length": 10**5})
        request.wfile.write(beginning)
        request.wfile.flush()
        request.server.stopping.wait(timeout=10)

    return answer


def dripping(seconds_a_byte: float = 0.01) -> Answer:
    """A byte at a time until the server stops or nobody listens any more."""

    def answer(request: Handler) -> None:
        request.send_head(200, {"Content-Length": 10**5})
        while not request.server.stopping.wait(seconds_a_byte):
            request.wfile.write(b"x")

    return answer


def _named(headers: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
