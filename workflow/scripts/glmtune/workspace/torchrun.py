"""Runs the long part of a step in several processes, on one machine or several, by torchrun.

torchrun's agent starts the processes of its machine, numbers them and ends all as soon as one
fails. On several machines a command such as srun starts an agent on each:

    finetune_model.py ── agent ──> process 0 … n-1                   one machine
    finetune_model.py ── srun ──> agent on each ──> its processes    several

A process reports its error in a file, so that the step ends with one message, whoever failed.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import importlib.util
import json
import logging
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from glmtune.errors import ResourceError, UserError, explain, run_script
from glmtune.files import read_json, write_json
from glmtune.workspace.code_inputs import SCRIPTS
from glmtune.workspace.gpus import lease_gpus

# The environment variables of the call, which every machine inherits, and of torchrun's files.
CALL, ERROR_FILE = "GLMTUNE_CALL", "TORCHELASTIC_ERROR_FILE"
# The values of `launcher.sharding`.
SHARDINGS = ("none", "zero2", "zero3")
PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True)
class _Failure:
    """How one process ended, other than well."""

    rank: int
    exit_code: int
    """Negative: the signal that killed it."""
    message: str = ""
    """For the user; empty for a bug."""
    trace: str = ""

    @property
    def was_killed(self) -> bool:
        """By anything but its agent, which ends the others by SIGTERM."""
        return self.exit_code < 0 and self.exit_code != -signal.SIGTERM


def number_or_all(text: str) -> int | Literal["all"]:
    """The type of a flag with the number of processes; `all`: one for each GPU."""
    return "all" if text == "all" else int(text)


def require_sharding(sharding: str) -> None:
    """Raise ResourceError if DeepSpeed, which shares weights out, is not installed."""
    if sharding != "none" and importlib.util.find_spec("deepspeed") is None:
        raise ResourceError(
            f"params.yaml: training.launcher.sharding: found {sharding}, which needs DeepSpeed; "
            "install it (pip install -e '.[deepspeed]') or set sharding to none"
        )


def call_in_processes(
    module: str,
    function: str,
    /,
    *,
    processes: int | Literal["all"],
    nodes: int,
    starter: str,
    folder: Path,
    **arguments: Any,
) -> None:
    """Call a function of the library in several processes at once, for its effects.

    Each of `nodes` machines has `processes` of them, or one for each GPU if that is "all". With
    more than one machine, `starter` is a command that runs another on each, and `folder` is one
    that all of them see. Raises ResourceError with the message of the process that failed.
    """
    call = pickle.dumps((module, function, arguments))
    os.environ[CALL] = base64.b64encode(call).decode()
    if nodes == 1:
        failures = _run_agent(processes, nodes, endpoint=None)
    else:
        failures = _run_agents(processes, nodes, starter, folder / "failures")
    if failures:
        _raise(failures)


def _run_agents(
    processes: int | Literal["all"], nodes: int, starter: str, folder: Path
) -> list[_Failure]:
    """Start an agent on each machine; the failures that they report."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    with socket.socket() as free:
        free.bind(("", 0))
        endpoint = f"{socket.gethostname()}:{free.getsockname()[1]}"
    flags = [f"--processes={processes}", f"--nodes={nodes}", f"--endpoint={endpoint}"]
    command = [*shlex.split(starter), sys.executable, "-m", __name__, *flags, f"--folder={folder}"]
    code = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": _python_path()}, check=False
    ).returncode
    failures = [_Failure(**each) for file in folder.iterdir() for each in read_json(file)]
    if code and not failures:
        raise ResourceError(
            f"`{shlex.join(command[:-5])}` ended with exit code {code} and started no training on "
            f"{nodes} machines; its own message is above"
        )
    return failures


def _run_agent(processes: int | Literal["all"], nodes: int, endpoint: str | None) -> list[_Failure]:
    """Start this machine's processes and wait for them; how those ended that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    gpus = lease_gpus(processes)
    count = len(gpus) or (1 if processes == "all" else processes)
    meeting = ["--standalone"]
    if endpoint:
        meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
        meeting.append(f"--rdzv-id={endpoint}")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= {"PYTHONPATH": _python_path()}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # until the step sets its own number
    try:
        run(parse_args([*meeting, f"--nproc-per-node={count}", "--module", __name__, "--work"]))
    except ChildFailedError as failed:
        return [_failure(rank, each) for rank, each in failed.failures.items()]
    except SignalException as received:
        sys.exit(128 + received.sigval)
    return []


def _failure(rank: int, found: Any) -> _Failure:
    """What torchrun knows of a process that failed."""
    report = found.error_file_data.get("message")
    if not isinstance(report, dict):
        return _Failure(rank, found.exitcode)
    return _Failure(rank, found.exitcode, report["message"], report["extraInfo"]["py_callstack"])


def _raise(failures: Sequence[_Failure]) -> NoReturn:
    """Raise the failure that is the cause: a process whose peer has gone fails as well."""
    if killed := [each for each in failures if each.was_killed]:
        number = -killed[0].exit_code
        cause = ", most likely because memory (RAM) ran out" if number == signal.SIGKILL else ""
        raise ResourceError(
            f"process {killed[0].rank} was ended by {signal.Signals(number).name}{cause}; run the "
            "same command again, which goes on from the last checkpoint; if it happens again, in "
            "params.yaml lower training.batch_size or training.launcher.processes"
        )
    if explained := [each for each in failures if each.message]:
        raise ResourceError(explained[0].message)
    for each in failures[:1]:
        print(f"process {each.rank}:\n{each.trace}", end="", file=sys.stderr)
    sys.exit(1)


def _python_path() -> str:
    """PYTHONPATH with this library first."""
    return os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))


def main() -> None:
    """Be one of the processes, or the agent of this machine."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--work", action="store_true")
    parser.add_argument("--processes", type=number_or_all)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--endpoint")
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    if flags.work:
        _work()
        return
    if failures := _run_agent(flags.processes, flags.nodes, flags.endpoint):
        file = flags.folder / f"{socket.gethostname()}-{os.getpid()}.json"
        write_json(file, [asdict(each) for each in failures])
        sys.exit(1)


def _work() -> None:
    """Make the call, as one of the processes; only the first one's output is shown."""
    if sys.platform == "linux":  # else it would go on after a kill of its agent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ["RANK"] != "0":
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    # DeepSpeed's calls of torch.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    module, function, arguments = pickle.loads(base64.b64decode(os.environ[CALL]))
    try:
        getattr(importlib.import_module(module), function)(**arguments)
    except Exception as error:
        _report(error)
        _exit(1)  # at once: an orderly end would wait for the others
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
    _exit(0)  # its destructors may abort a process whose peers have gone


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(error: Exception) -> None:
    """Write an error where torchrun looks for it, in its form."""
    message = str(error) if isinstance(error, UserError) else explain(error) or ""
    extra = {"timestamp": str(int(time.time())), "py_callstack": traceback.format_exc()}
    report = {"message": {"message": message, "extraInfo": extra}}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
