"""Serves trained models: an OpenAI-compatible API, and a page that compares methods.

Reads   a results folder (all of its models), or one model folder with a prefix or an adapter
Serves  / (the page), /v1 (OpenAI), POST / (THUDM's api.py), /health, /docs

    glmtune serve
    glmtune serve weights/chatglm2-6b --prefix results/checkpoints/chatglm2-6b/ptuning
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmtune.commands.flags import (
    add_memory,
    add_model,
    add_place,
    choose,
    device_of,
    parser,
    whole,
)
from glmtune.errors import ParamsError, ResourceError
from glmtune.files import read_jsonl

if TYPE_CHECKING:
    from glmtune.serving.catalog import Catalog

KEY_VARIABLE = "GLMTUNE_API_KEY"
DEV = Path("data/dataset/dev.jsonl")
PORTS = (1 << 16) - 1


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C; running answers are finished."""
    given = _parser().parse_args(arguments)
    catalog, first = choose(given)
    catalog = {first.name: first, **catalog}  # what a request without a name gets
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ResourceError(
            f"glmtune serve: {error.name} is not installed; it comes with the extra `serve`: "
            "pip install -e '.[serve]', or make serve"
        ) from None
    key, rows = _key(given), _rows(given.dev)
    with _listening(given.host, given.port) as listening:
        app = _app(given, catalog, rows, key)
        # Imported here, as it needs uvicorn.
        from glmtune.serving.connections import KEEP_ALIVE, limited

        config = uvicorn.Config(
            app,
            http=limited(given.timeout),
            timeout_graceful_shutdown=given.timeout + 1,
            timeout_keep_alive=KEEP_ALIVE,
            log_level="warning",
            h11_max_incomplete_event_size=1 << 16,
            ws="none",
        )
        print(f"{len(catalog)} models: {', '.join(catalog)}")
        host = f"[{given.host}]" if ":" in given.host else given.host
        print(f"listening on http://{host}:{given.port} (page: /, API: /v1, reference: /docs)")
        uvicorn.Server(config).run(sockets=[listening])


def _app(
    given: argparse.Namespace, catalog: Catalog, rows: list[dict[str, Any]], key: str | None
) -> Any:
    # Imported here: help and wrong flags are answered without waiting for torch.
    from glmtune.serving.app import create_app
    from glmtune.serving.guards import is_open
    from glmtune.serving.library import Library, Limits
    from glmtune.serving.scheduling import Scheduler
    from glmtune.serving.service import RequestLimits, Service

    device = device_of(given)
    print(f"device {device.name}, dtype {device.dtype}: {device.reason}")
    library = Library(
        device,
        Limits(
            given.max_memory,
            given.max_rows,
            given.max_prompt + given.max_tokens,
            given.quantization_bit,
        ),
    )
    scheduler = Scheduler(library, max_waiting=given.max_waiting)
    limits = RequestLimits(given.max_body, given.max_prompt, given.max_tokens, given.timeout)
    names = None if is_open(given.host) else (given.host, *given.allow_host)
    return create_app(Service(catalog, scheduler, limits, rows), api_key=key, host_names=names)


def _parser() -> argparse.ArgumentParser:
    flags = parser("serve", __doc__)
    add_model(flags, optional=True)
    add = flags.add_argument
    add("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    add("--port", type=whole(1, PORTS), default=8000, help="default: 8000")
    add("--api-key", help=f"the key of clients; default: environment variable {KEY_VARIABLE}")
    told = "a further name under which it is reached, e.g. that of a proxy; may be repeated"
    add("--allow-host", action="append", default=[], metavar="NAME", help=told)
    add("--dev", type=Path, help=f"example rows for the page; default: {DEV}, if it exists")
    add = flags.add_argument_group("limits").add_argument
    add("--max-rows", type=whole(1), default=64, help="answers at once; default: 64")
    add("--max-waiting", type=whole(1), default=256, help="answers in the queue; default: 256")
    add("--max-prompt", type=whole(4), default=2048, help="tokens of a prompt; default: 2048")
    add("--max-tokens", type=whole(1), default=512, help="tokens of an answer; default: 512")
    add("--max-body", type=whole(1), default=1 << 20, help="bytes of a request; default: 1048576")
    add("--timeout", type=whole(1), default=300, help="seconds for an answer; default: 300")
    add_memory(flags)
    add_place(flags)
    return flags


def _rows(path: Path | None) -> list[dict[str, Any]]:
    """The rows that the page shows: those of a file that is named, or of the usual one."""
    if path is None and not DEV.is_file():
        return []
    return [
        {key: row.get(key) for key in ("content", "summary")} for row in read_jsonl(path or DEV)
    ]


def _listening(host: str, port: int) -> socket.socket:
    """A socket there, before torch is imported: a wrong address is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ResourceError(
            f"--host {host} --port {port}: {error.strerror}; expected an address of this machine "
            "and a port that is free; choose another, or end what listens there"
        ) from None


def _key(given: argparse.Namespace) -> str | None:
    key = given.api_key if given.api_key is not None else os.environ.get(KEY_VARIABLE)
    if key is not None and (not key or not key.isascii() or not key.isprintable()):
        raise ParamsError(
            f"--api-key, {KEY_VARIABLE}: found a key that is empty or not printable ASCII, which "
            "an HTTP header cannot hold; choose another"
        )
    return key
