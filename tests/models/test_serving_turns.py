"""Who is answered when: methods share rows, models share memory, connections end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_results import write_results

for needed in ("fastapi", "uvicorn"):
    pytest.importorskip(needed, reason="the server needs the extra `serve`")

import uvicorn  # noqa: E402

from glmtune.devices import choose_device  # noqa: E402
from glmtune.generation.engine import Event, Request  # noqa: E402
from glmtune.generation.sampling import Sampler  # noqa: E402
from glmtune.serving import connections  # noqa: E402
from glmtune.serving.catalog import Served, read_results  # noqa: E402
from glmtune.serving.library import Library, Limits  # noqa: E402
from glmtune.serving.scheduling import Job, Scheduler  # noqa: E402

pytestmark = pytest.mark.numeric

FAMILY = "chatglm2-6b"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("turns") / "results", FAMILY)


class Counting(Library):
    """Knows which weights were read from disk, in their order."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(choose_device(), limits)
        self.read: list[str] = []

    def _load(self, served: Served) -> Any:
        self.read.append(served.name)
        return super()._load(served)


def ended(results: Path, library: Library, names: list[str], tokens: int = 12) -> list[str]:
    """The order in which answers end that are asked for in this order, before any begins."""
    catalog, order = read_results(results), list[str]()
    scheduler = Scheduler(library, max_waiting=len(names))

    def telling(name: str) -> Callable[[Event | Exception], None]:
        def tell(event: Event | Exception) -> None:
            if isinstance(event, Exception):
                raise event
            if event.end is not None:
                order.append(name)

        return tell

    request = Request([1, 2, 3, 4], tokens, sampler=Sampler(1.0, 1.0, 0))
    scheduler.submit([Job(catalog[name], request, telling(name)) for name in names])
    scheduler.start()
    while len(order) < len(names):
        scheduler._thread.join(0.01)
        assert scheduler._thread.is_alive()
    scheduler.stop()
    return order


def test_a_long_queue_for_one_method_does_not_keep_another_waiting(results: Path) -> None:
    library = Library(choose_device(), Limits(max_rows=2))
    order = ended(results, library, [f"{FAMILY}/ptuning"] * 8 + [f"{FAMILY}/lora"])
    assert order.index(f"{FAMILY}/lora") <= 2


def test_one_loading_serves_all_that_waits_for_a_model(results: Path) -> None:
    # The base and the full model have about 0.18 MB each: one of them fits.
    library = Counting(Limits(max_memory=0.2e6))
    names = [FAMILY, f"{FAMILY}/full"] * 6
    assert sorted(ended(results, library, names)) == sorted(names)
    assert library.read == [FAMILY, f"{FAMILY}/full"]


async def _silent(scope: Any, receive: Any, send: Any) -> None:
    """An application that never answers."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_a_connection_that_waits_for_its_client_is_ended(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.1)
    monkeypatch.setattr(connections, "GRACE", 0.1)

    async def talk() -> bytes:
        config = uvicorn.Config(
            _silent, port=0, http=connections.limited(0.1), lifespan="off", log_level="critical"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        try:
            got = await asyncio.wait_for(reader.read(), 60)
        except ConnectionResetError:
            got = b""
        writer.close()
        server.should_exit = True
        await serving
        return got

    assert asyncio.run(talk()) == b""
