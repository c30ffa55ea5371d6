"""Runs the long part of a step in a fork of a process that has imported its packages already.

Importing torch, transformers and PEFT takes seconds of CPU, more than many a step of miniatures
computes, and the default run has 24 such steps; jieba reads its dictionary for half of the time of
a scoring. So a run of the workflow starts servers, one for models and one for scores, so that
neither's memory counts as the other's. A server imports what its first step asks for and then forks
for each. A fork computes what a new process would: it has the step's environment, folder and
output, and the server only imports, so that no thread and no tensor is inherited.

    Snakemake ── start() ──> servers ──fork──> finetune(…)
        └── python finetune_model.py ── call_in_fork() ──┘

Whoever gets no fork computes by itself: on a GPU (CUDA does not outlive a fork), on systems other
than Linux, in a job of a cluster, after the library was edited, with GLMTUNE_FORK_SERVER=off.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import importlib
import os
import pickle
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from glmtune.errors import ResourceError, run_script
from glmtune.workspace.code_inputs import SCRIPTS, python_path

ADDRESS = "GLMTUNE_FORK_SERVER"
# The servers, and what their steps import besides the library, some of it only inside functions.
PRELOADED = {"models": ("transformers.trainer", "peft"), "scores": ()}
ADVICE = {
    "models": (
        "in params.yaml, lower training.batch_size and generation.batch_size, or run fewer jobs at "
        "once (--cores 1)"
    ),
    "scores": "run fewer jobs at once (--cores 1)",
}
# Variables that differ between the steps of one run and that no package reads when imported.
OF_THE_STEP = {"_", "OLDPWD", "PWD", "SHLVL"}
ACCEPTED = b"+"


@dataclass(frozen=True)
class _Request:
    """What a fork needs to be like the process that asks."""

    module: str
    function: str
    arguments: Mapping[str, Any]
    library: Path
    argv: list[str]
    folder: str
    environment: dict[str, str]


def start() -> None:
    """Start the servers of this run, which end with it. Steps find them by the environment."""
    if ADDRESS in os.environ or sys.platform != "linux" or shutil.which("nvidia-smi"):
        return
    name = f"glmtune-{os.getpid()}-{os.urandom(8).hex()}"
    end, open_to_the_end = os.pipe()
    servers = [_start(f"{name}-{kind}", kind, end) for kind in PRELOADED]
    os.close(end)
    os.environ[ADDRESS] = name

    def end_servers() -> None:
        os.close(open_to_the_end)
        for server in servers:
            server.wait()

    atexit.register(end_servers)


def _start(name: str, kind: str, end: int) -> subprocess.Popen[bytes]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")  # a name without a file: nothing to remove
        listener.listen()
        serving = f"serve({listener.fileno()}, {kind!r})"
        return subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; {serving}"],
            stdin=end,
            pass_fds=[listener.fileno()],
            env=os.environ | {"PYTHONPATH": python_path()},
        )


def call_in_fork(module: str, function: str, kind: str = "models", /, **arguments: Any) -> None:
    """Call a function of the library for its effects: in a fork of a server, else here.

    A fork reports its errors itself and this process ends with its exit code, as `run_script` does.
    Raises ResourceError if the fork was killed.
    """
    request = _Request(
        module,
        function,
        arguments,
        library=SCRIPTS,
        argv=sys.argv,
        folder=os.getcwd(),
        environment=dict(os.environ),
    )
    reply = _ask(f"{os.environ.get(ADDRESS, '')}-{kind}", request)
    if not reply:
        getattr(importlib.import_module(module), function)(**arguments)
    elif reply == ACCEPTED:
        raise ResourceError(
            "the process of this step was killed, most likely because memory (RAM) ran out; "
            + ADVICE[kind]
        )
    elif code := int(reply.removeprefix(ACCEPTED)):
        sys.exit(code)


def _ask(name: str, request: _Request) -> bytes:
    """The server's reply: nothing, or ACCEPTED and in the end the fork's exit code."""
    reply = b""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{name}")
        socket.send_fds(connection, [ACCEPTED], [1, 2])
        with connection.makefile("wb") as stream:
            pickle.dump(request, stream)
        while received := connection.recv(16):
            reply += received
    return reply


def serve(listener: int, kind: str) -> None:
    """Fork for each step that asks on this socket, until the process that called `start` ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the forks, too
    server = _Server(os.getppid(), _hash_library(), PRELOADED[kind])
    with socket.socket(fileno=listener) as waiting:
        while waiting.fileno() in select.select([waiting.fileno(), 0], [], [])[0]:
            connection, _ = waiting.accept()
            # What fails here fails in the step as well, which then says so.
            with connection, suppress(Exception):
                server.answer(connection)
            _reap(os.WNOHANG)
    _reap(0)


@dataclass
class _Server:
    run: int
    """The process that it serves: steps are its descendants."""
    code: str
    """The hash of the library that it imports."""
    preloaded: tuple[str, ...]
    environment: dict[str, str] | None = None
    """Of the first step; packages read it when they are imported."""

    def answer(self, connection: socket.socket) -> None:
        """Fork for a step, or leave it without a reply."""
        if not self._is_step(connection):
            return
        _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
        try:
            with connection.makefile("rb") as stream:
                request: _Request = pickle.load(stream)  # from this user's own run
            if self._fits(request):
                for name in (request.module, *self.preloaded):
                    importlib.import_module(name)
                gc.freeze()  # so that a fork's garbage collection leaves the memory shared
                if os.fork() == 0:
                    _become(request, connection, outputs)
        finally:
            for descriptor in outputs:
                os.close(descriptor)

    def _is_step(self, connection: socket.socket) -> bool:
        import psutil  # not at the top: every step imports this module

        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, user, _ = struct.unpack("3i", peer)
        descends = any(parent.pid == self.run for parent in psutil.Process(pid).parents())
        return descends and user == os.getuid() and os.getppid() == self.run

    def _fits(self, request: _Request) -> bool:
        """Whether a fork would have the environment and the code of the step."""
        environment = {k: v for k, v in request.environment.items() if k not in OF_THE_STEP}
        if self.environment is None:
            self.environment = environment
            os.environ |= environment
        is_same = environment == self.environment and request.library == SCRIPTS
        return is_same and _hash_library() == self.code


def _become(request: _Request, connection: socket.socket, outputs: Sequence[int]) -> NoReturn:
    """Be like the process that asked, call the function, and end with its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, target in zip(outputs, (1, 2), strict=True):
        os.dup2(descriptor, target)
    os.environ.clear()
    os.environ |= request.environment
    os.chdir(request.folder)
    sys.argv = request.argv
    connection.sendall(ACCEPTED)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    function = getattr(sys.modules[request.module], request.function)
    code = _exit_code(partial(function, **request.arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(code)


def _exit_code(work: Callable[[], None]) -> int:
    """Do the work of a script; errors are shown as a script shows them."""
    try:
        run_script(work)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _end_with(connection: socket.socket) -> None:
    """End this process as soon as the one that asked has ended, however it did."""
    connection.recv(1)
    os._exit(1)


def _reap(options: int) -> None:
    """Wait for the forks that have ended; with options 0 for all of them."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _hash_library() -> str:
    """A SHA-256 over the files of the library as they are now."""
    digest = hashlib.sha256()
    for path in sorted(Path(SCRIPTS, "glmtune").rglob("*.py")):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
