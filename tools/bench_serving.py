"""How fast `glmtune serve` answers 64 clients at once, against the same requests one by one.

    python tools/bench_serving.py --results results --dev data/dataset/dev.jsonl

Prints one JSON object: tokens a second of both ways and their ratio, how many answers differ (and
how many of those had two tokens almost equally good at some step, so that rounding decides), and
the server's memory after the first requests and after all. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
sys.path.insert(0, str(SCRIPTS))

from glmtune.files import read_jsonl  # noqa: E402

Answer = tuple[str, int]  # text and its tokens


def main() -> None:
    """Start a server, ask it, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--dev", type=Path, default=Path("data/dataset/dev.jsonl"))
    parser.add_argument("--model", default="chatglm2-6b/ptuning")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000, help="for the memory")
    flags = parser.parse_args()
    prompts = [row["content"] for row in read_jsonl(flags.dev)][: flags.clients]
    prompts = (prompts * flags.clients)[: flags.clients]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "glmtune.commands", "serve", "--results", str(flags.results)]
    command += ["--port", str(port), "--threads", "1", "--max-rows", str(flags.clients)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        figures = asyncio.run(measure(port, server.pid, prompts, flags))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    figures["near_ties"] = near_ties(flags, [prompts[number] for number in figures["differing"]])
    print(json.dumps({"cpu": cpu_name(), **figures}, indent=2))


class Client:
    """A connection that stays open. As little as HTTP needs: the client takes a core's time too."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, model: str, prompt: str) -> Answer:
        """One greedy answer."""
        if self._streams is None or self._streams[1].is_closing() or self._streams[0].at_eof():
            # At first, and where the server has closed it for having been idle too long.
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps({"model": model, "messages": messages, "max_tokens": 128}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(h.partition(":")[2] for h in headers if h.startswith("content-length:"))
        answer = json.loads(await reader.readexactly(int(length)))
        if " 200 " not in status:
            raise RuntimeError(f"{status}: {answer}")
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


async def measure(
    port: int, pid: int, prompts: Sequence[str], flags: argparse.Namespace
) -> dict[str, Any]:
    """Both ways in turns, then many requests for the memory."""
    clients = [Client(port) for _ in prompts]
    rates: dict[str, list[float]] = {"alone": [], "together": []}
    await until_ready(clients[0], flags.model, prompts[0])
    alone, together = [], await at_once(clients, flags.model, prompts)  # connections are open
    for _ in range(3):
        start = time.perf_counter()
        alone = [await clients[0].ask(flags.model, prompt) for prompt in prompts]
        rates["alone"].append(tokens_of(alone) / (time.perf_counter() - start))
        start = time.perf_counter()
        together = await at_once(clients, flags.model, prompts)
        rates["together"].append(tokens_of(together) / (time.perf_counter() - start))
    process = psutil.Process(pid)
    before = process.memory_info().rss
    for _ in range(-(-flags.requests // flags.clients)):
        await at_once(clients, flags.model, prompts)
    after = process.memory_info().rss
    best = {way: max(values) for way, values in rates.items()}
    pairs = zip(alone, together, strict=True)
    return {
        "clients": flags.clients,
        "tokens_per_s_one_by_one": round(best["alone"]),
        "tokens_per_s_at_once": round(best["together"]),
        "ratio": round(best["together"] / best["alone"], 1),
        "differing": [number for number, (one, other) in enumerate(pairs) if one != other],
        "requests": flags.requests,
        "memory_mb_before": before >> 20,
        "memory_mb_after": after >> 20,
    }


async def until_ready(client: Client, model: str, prompt: str) -> None:
    """Wait for the server to start and to load the model."""
    for _ in range(600):
        try:
            await client.ask(model, prompt)
            return
        except ConnectionError:
            await asyncio.sleep(0.1)
    raise TimeoutError("the server did not start")


async def at_once(clients: Sequence[Client], model: str, prompts: Sequence[str]) -> list[Answer]:
    """A prompt by each client at the same time."""
    asking = (client.ask(model, prompt) for client, prompt in zip(clients, prompts, strict=True))
    return list(await asyncio.gather(*asking))


def tokens_of(answers: Sequence[Answer]) -> int:
    """All tokens of answers."""
    return sum(tokens for _, tokens in answers)


def near_ties(flags: argparse.Namespace, prompts: Sequence[str]) -> int:
    """How many of these prompts have two tokens almost equally good at some step."""
    from glmtune.checkpoints.prepared import ModelRef, open_prepared
    from glmtune.families.conversation import Message
    from glmtune.generation.batches import NEAR_TIE
    from glmtune.generation.engine import Engine, Request
    from glmtune.serving.answering import tokenizer_of
    from glmtune.serving.catalog import find, read_results
    from glmtune.serving.prompts import chat_prompt

    served = find(read_results(flags.results), flags.model)
    model = open_prepared(ModelRef(served.folder, served.prefix, served.adapter, served.family))
    tokenizer = tokenizer_of(served)
    found = 0
    for prompt in prompts:
        message: Message = {"role": "user", "content": prompt}
        engine = Engine(model, slots=1)
        ids = chat_prompt(tokenizer, served.family, [message])
        engine.add(Request(ids, 128, tokenizer.stop_token_ids))
        margins = []
        while engine.is_busy:
            margins += [event.margin for event in engine.step()]
        found += min(margins) < NEAR_TIE
    return found


def cpu_name() -> str:
    """The processor, as Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
