"""`glmtune serve` as a process of its own, and a client for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from glmtune.workspace.code_inputs import SCRIPTS

PROMPT = "类型#裙*颜色#白色"


def as_from_a_terminal() -> None:
    """Take Ctrl-C as in a terminal; a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Server:
    """`glmtune serve` as a process of its own."""

    def __init__(self, results: Path, *flags: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "glmtune.commands", "serve", "--threads", "1"]
        self.command += ["--results", str(results), "--port", str(self.port), *flags]
        self.log = results / f"{self.port}.log"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=as_from_a_terminal,
            )
        for _ in range(600):
            try:
                httpx.get(f"{self.url}/health").raise_for_status()
                return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def post(self, path: str, **options: Any) -> Any:
        return httpx.post(self.url + path, timeout=120, **options)

    def chat(self, model: str = "chatglm2-6b", **body: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], **body}
        return self.post("/v1/chat/completions", json=body)

    def load(self) -> dict[str, int]:
        return httpx.get(f"{self.url}/health").json()

    def until_idle(self) -> None:
        for _ in range(600):
            if self.load()["running"] + self.load()["waiting"] == 0:
                return
            time.sleep(0.05)
        raise AssertionError(self.load())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)
