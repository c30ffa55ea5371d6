"""Runs the long part of a step in several processes, on one machine or several, by torchrun.

torchrun's agent starts the processes of its machine, numbers them and ends all as soon as one
fails. On several machines a command such as srun starts an agent on each:

    finetune_model.py ── agent ──> process 0 … n-1                   one machine
    finetune_model.py ── srun ──> agent on each ──> its processes    several

The agents meet at a store of the step's own process, and there report how they ended: a shared disk
may show a file late. A process reports its error to its agent in a file. So the step ends with one
message, whoever failed, and no agent outlives the step.
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
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from glmtune.errors import EXIT_USER_ERROR, ResourceError, UserError, explain, run_script
from glmtune.workspace.code_inputs import python_path
from glmtune.workspace.gpus import lease_gpus

if TYPE_CHECKING:
    from torch.distributed import TCPStore
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

THIS = "glmtune.workspace.torchrun"  # __name__ is "__main__" in an agent
# The environment variables of the call, which every machine inherits, and of torchrun's files.
CALL, ERROR_FILE = "GLMTUNE_CALL", "TORCHELASTIC_ERROR_FILE"
NANO = 10**9
PR_SET_PDEATHSIG = 1  # of prctl(2)
# How long an agent waits for those of the other machines, which may have to wait for GPUs.
SECONDS_TO_MEET = 600
SECONDS_TO_CONNECT = 60
# How long they may take to fail after another has.
SECONDS_TO_END = 10
ONE_EACH = "expected one on each machine; correct the starter of finetune_model, or its nodes"
# Of the store where agents meet: how many have come and have ended, and the reports of these.
COME, ENDED, REPORT = "agents come", "agents ended", "report {}"
# Of RFC 5737: in no network, so a route to it is the default route.
ANYWHERE = "192.0.2.1"


@dataclass(frozen=True)
class _Failure:
    """How a process or an agent ended, other than well."""

    name: str
    exit_code: int
    """Negative: the signal that killed it."""
    time: int
    """In nanoseconds, by the clock of its machine."""
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
    """Raise ResourceError if DeepSpeed, which shards them, is not installed."""
    if sharding != "none" and importlib.util.find_spec("deepspeed") is None:
        raise ResourceError(
            f"params.yaml: launcher.sharding: found {sharding}, which needs DeepSpeed; "
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
    **arguments: Any,
) -> None:
    """Call a function of the library in several processes at once, for its effects.

    Each of `nodes` machines has `processes` of them, or one for each GPU if that is "all". With
    more than one machine, `starter` is a command that runs another on each, in this folder and with
    this environment. Raises ResourceError with the message of the process that failed.
    """
    call = pickle.dumps((module, function, arguments))
    os.environ[CALL] = base64.b64encode(call).decode()
    os.environ["PYTHONPATH"] = python_path()
    # torch warns of addresses without a name, and each agent of a step that has ended.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if nodes == 1:
        if failures := _run_agent(processes, ["--standalone"]):
            _raise(failures)
    else:
        _run_agents(processes, nodes, starter)


def _run_agents(processes: int | Literal["all"], nodes: int, starter: str) -> None:
    """Start an agent on each machine and wait for them; raise what they report."""
    from torch.distributed import TCPStore

    if not starter:
        raise ResourceError(
            f"finetune_model: resources: found nodes={nodes} without a starter; expected a command "
            "that runs another on each machine, such as srun; set it as profiles/slurm shows, or "
            "set nodes to 1"
        )
    address = _own_address()
    store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
    agent = [sys.executable, "-m", THIS, f"--processes={processes}", f"--nodes={nodes}"]
    agent += [f"--meeting={address}:{store.port}", f"--seconds-to-meet={SECONDS_TO_MEET}"]
    try:
        with subprocess.Popen([*shlex.split(starter), *agent], stdin=subprocess.DEVNULL) as started:
            code = _end_of(started, store)
    except (OSError, ValueError) as error:  # no such program; a quote that is not closed
        raise ResourceError(
            f"finetune_model: resources: found starter={starter!r}, which cannot be run ({error}); "
            "correct it"
        ) from None
    failures, silent = _failures(store), nodes - store.add(ENDED, 0)
    is_explained = any(each.message or each.was_killed for each in failures)
    if code is not None and silent > 0 and not is_explained:
        raise ResourceError(
            f"`{starter}` ended with exit code {code}, and {silent} of {nodes} machines did not "
            "say how their part of the training ended: they did not start it, or were shut down, "
            "or killed it for its memory; look for their own messages above, then run the same "
            "command again, which resumes from the last checkpoint"
        )
    if failures:
        _raise(failures)


def _end_of(started: subprocess.Popen[bytes], store: TCPStore) -> int | None:
    """Wait for the starter's exit code; end it, and return None, if some machine has failed.

    The others could wait for that one for long. Their agents end with the store.
    """
    seconds_left = SECONDS_TO_END
    while seconds_left:
        with suppress(subprocess.TimeoutExpired):
            return started.wait(1)
        if _failures(store):
            seconds_left -= 1
    started.terminate()
    return None


def _failures(store: TCPStore) -> list[_Failure]:
    """What agents have reported."""
    reports = [json.loads(store.get(REPORT.format(i + 1))) for i in range(store.add(ENDED, 0))]
    return [_Failure(**each) for report in reports for each in report]


def _be_agent(
    processes: int | Literal["all"], nodes: int, meeting: str, seconds_to_meet: int
) -> None:
    """Be the agent of this machine: meet the others, run its processes, report how they ended."""
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import (
        RendezvousConnectionError,
        RendezvousTimeoutError,
    )

    host, _, port = meeting.rpartition(":")
    try:
        store = TCPStore(host, int(port), timeout=timedelta(seconds=SECONDS_TO_CONNECT))
    except RuntimeError:
        raise ResourceError(
            f"{socket.gethostname()} cannot reach {meeting}, where the machines of this training "
            "meet; let the nodes of the cluster connect to each other on all ports"
        ) from None
    agents = store.add(COME, 1)
    address = _address_towards(host)
    _let_gloo_use(address)
    flags = [f"--nnodes={nodes}", f"--local-addr={address}", "--rdzv-backend=c10d"]
    flags += [f"--rdzv-endpoint={meeting}", f"--rdzv-id={meeting}"]
    flags.append(f"--rdzv-conf=is_host=false,join_timeout={seconds_to_meet}")
    failures: list[_Failure] = []
    try:
        if agents > nodes:
            raise ResourceError(f"is agent {agents} of {nodes}; {ONE_EACH}")
        failures = _run_agent(processes, flags, machine=socket.gethostname())
    except RendezvousConnectionError:
        sys.exit(1)  # the step itself has ended, and its store with it
    except RendezvousTimeoutError:
        found = f"only {store.add(COME, 0)} of {nodes} agents came in {seconds_to_meet} s"
        failures = [_own_failure(f"{found}; {ONE_EACH}")]
    except UserError as error:
        failures = [_own_failure(str(error))]
    finally:
        with suppress(RuntimeError):
            report = json.dumps([asdict(each) for each in failures])
            store.set(REPORT.format(store.add(ENDED, 1)), report)
    sys.exit(1 if failures else 0)


def _run_agent(
    processes: int | Literal["all"], meeting: Sequence[str], machine: str = ""
) -> list[_Failure]:
    """Start this machine's processes and wait for them; how those ended that failed.

    `meeting` are the flags of torchrun for where its agents meet.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    gpus = lease_gpus(processes)
    count = len(gpus) or (1 if processes == "all" else processes)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # until the step sets its own number
    with TemporaryDirectory() as reports:
        flags = [*meeting, f"--nproc-per-node={count}", f"--log-dir={reports}"]
        try:
            run(parse_args([*flags, "--module", THIS, "--work"]))
        except ChildFailedError as failed:
            return [_failure(rank, machine, each) for rank, each in failed.failures.items()]
        except SignalException as received:
            sys.exit(128 + received.sigval)
    return []


def _own_address() -> str:
    """An address of this machine for the others: of its name, its default route, or any other."""
    found = []
    with suppress(OSError):
        found += socket.gethostbyname_ex(socket.gethostname())[2]
    with suppress(OSError):
        found.append(_address_towards(ANYWHERE))
    found += [address for addresses in _networks().values() for address in addresses]
    # Of 127.*, which are for the machine itself, Debian gives its name one.
    return next((each for each in found if not each.startswith("127.")), "127.0.0.1")


def _address_towards(host: str) -> str:
    """The address that this machine has for another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((host, 9))  # sends nothing
        return str(datagrams.getsockname()[0])


def _let_gloo_use(address: str) -> None:
    """Let torch's GLOO, by which CPUs exchange tensors, use the network of an address.

    By itself it takes the address of this machine's name, which others may not reach.
    """
    for name, addresses in _networks().items():
        if address in addresses:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _networks() -> dict[str, list[str]]:
    """The IPv4 addresses of this machine by the names of its interfaces."""
    import psutil

    return {
        name: [each.address for each in addresses if each.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
    }


def _failure(rank: int, machine: str, found: ProcessFailure) -> _Failure:
    """What torchrun knows of a process that failed."""
    name = f"process {rank} on {machine}" if machine else f"process {rank}"
    report = found.error_file_data.get("message")
    if not isinstance(report, dict):
        return _Failure(name, found.exitcode, found.timestamp * NANO)
    extra = report["extraInfo"]
    return _Failure(
        name, found.exitcode, extra["time"], report["message"], trace=extra["py_callstack"]
    )


def _own_failure(message: str) -> _Failure:
    """That of an agent."""
    name = socket.gethostname()
    return _Failure(name, EXIT_USER_ERROR, time.time_ns(), f"{name}: {message}")


def _raise(failures: Sequence[_Failure]) -> NoReturn:
    """Raise the failure that is the cause: a process whose peer has gone fails as well.

    It then has no message of its own, and may be aborted.
    """
    failures = sorted(failures, key=lambda each: each.time)
    if explained := [each for each in failures if each.message]:
        raise ResourceError(explained[0].message)
    if killed := [each for each in failures if each.was_killed]:
        number = -killed[0].exit_code
        cause = ", most likely because memory (RAM) ran out" if number == signal.SIGKILL else ""
        raise ResourceError(
            f"{killed[0].name} was killed by {signal.Signals(number).name}{cause}; run the "
            "same command again, which resumes from the last checkpoint; if it happens again, in "
            "params.yaml lower batch_size or launcher.processes"
        )
    print(f"{failures[0].name}:\n{failures[0].trace}", end="", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """Be one of the processes, or the agent of this machine."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--work", action="store_true")
    parser.add_argument("--processes", type=number_or_all)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--meeting", metavar="HOST:PORT")
    parser.add_argument("--seconds-to-meet", type=int)
    flags = parser.parse_args()
    if flags.work:
        _work()
    else:
        _be_agent(flags.processes, flags.nodes, flags.meeting, flags.seconds_to_meet)


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
    now = time.time_ns()  # processes fail within a second; torchrun's own stamp has seconds
    extra = {"time": now, "timestamp": str(now // NANO), "py_callstack": traceback.format_exc()}
    report = {"message": {"message": message, "extraInfo": extra}}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
