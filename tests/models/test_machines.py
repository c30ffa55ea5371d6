"""Several machines in one training: their agents meet, report, and end together.

All of them are this machine; how models are trained by them is in test_processes.py.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from called_in_processes import UNSHARE, starter_on, two_machines
from pretended_gpus import TWO_CARDS, machine_with
from trained_in_processes import START, path_of_tests
from workspaces import wait_for

from glmtune.workspace import torchrun

HOST = socket.gethostname()


def call(function: str, environment: dict[str, str] | None = None, **call: Any) -> dict[str, Any]:
    """How to start a process that calls a function of called_in_processes.py on two machines."""
    given = {"processes": 1, "nodes": 2, "seconds": 60} | call
    return {
        "args": [sys.executable, "-c", START, "called_in_processes", function],
        "env": os.environ | {"PYTHONPATH": path_of_tests()} | (environment or {}),
        "input": pickle.dumps(given),
    }


def end_of(function: str, **given: Any) -> tuple[int, str]:
    """The exit code of such a call, and what a user sees."""
    done = subprocess.run(
        **call(function, **given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize(
    ("starter", "expected"),
    [
        ("", "found nodes=2 without a starter; expected a command that runs another on each"),
        ("no-such-program -n 2", "found starter='no-such-program -n 2', which cannot be run"),
        ("srun 'open", "which cannot be run (No closing quotation)"),
        ("false", "`false` ended with exit code 1, and 2 of 2 machines did not say"),
    ],
)
def test_a_starter_that_starts_nothing_is_named(starter: str, expected: str) -> None:
    code, output = end_of("note", starter=starter)
    assert code == 2
    assert output.count("error: ") == 1
    assert expected in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_each_machine_starts_its_processes_which_know_of_the_others(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    noted.mkdir()
    starter = starter_on(2, tmp_path)
    code, output = end_of("note", starter=starter, processes=2, folder=noted)
    assert (code, output) == (0, "")
    assert {path.name: path.read_text() for path in noted.iterdir()} == {
        str(rank): "4 2 2" for rank in range(4)
    }


@pytest.mark.slow
def test_machines_with_networks_of_their_own_find_each_other(tmp_path: Path) -> None:
    tried = subprocess.run(["sh", "-c", f"{UNSHARE} ip link"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.decode()}")
    added = tmp_path / "added"
    added.mkdir()
    on_first, starter = two_machines(tmp_path)
    given = call("add_up", starter=starter, folder=added)
    done = subprocess.run(
        [*on_first, *given.pop("args")], **given, capture_output=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert {path.name: path.read_text() for path in added.iterdir()} == {
        "machine-1": "3",
        "machine-2": "3",
    }


@pytest.mark.slow
def test_a_machine_that_does_not_come_is_waited_for_only_so_long(tmp_path: Path) -> None:
    code, output = end_of("note", starter="env", folder=tmp_path, seconds=3)
    assert code == 2
    assert output.startswith(f"error: {HOST}: only 1 of 2 agents came in 3 s; expected one on each")
    assert output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_starter_that_starts_too_much_ends_all_of_it(tmp_path: Path) -> None:
    working = tmp_path / "working"
    working.mkdir()
    code, output = end_of("work_on", starter=starter_on(3, tmp_path), folder=working)
    assert code == 2
    assert output == (
        f"error: {HOST}: is agent 3 of 2; expected one on each machine; correct the starter of "
        "finetune_model, or its nodes\n"
    )
    pids = [int(path.name) for path in working.iterdir()]
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.slow
def test_a_machine_that_waits_for_a_failed_one_is_ended(tmp_path: Path) -> None:
    """As GPUs do, which would wait for half an hour."""
    code, output = end_of("have_a_bug", starter=starter_on(2, tmp_path), rank=1, patience=600)
    assert code == 1
    assert output.count("Traceback") == 1
    assert "KeyError: 'a bug'" in output


@pytest.mark.slow
def test_a_machine_with_too_few_gpus_is_named(tmp_path: Path) -> None:
    code, output = end_of(
        "note",
        starter=starter_on(2, tmp_path),
        processes=3,
        seconds=3,
        environment=machine_with(TWO_CARDS, tmp_path),
    )
    assert code == 2
    assert output.count("error: ") == 1
    assert f"error: {HOST}: params.yaml: launcher.processes: found 3" in output


@pytest.mark.slow
def test_a_machine_that_is_lost_is_not_taken_for_a_bug(tmp_path: Path) -> None:
    code, output = end_of("kill_agent", starter=starter_on(2, tmp_path), rank=1)
    assert code == 2
    assert output.count("error: ") == 1
    assert "ended with exit code 137, and 1 of 2 machines did not say how" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_of_a_bug_the_first_traceback_is_shown_whichever_machine_it_is_on(
    rank: int, tmp_path: Path
) -> None:
    code, output = end_of("have_a_bug", starter=starter_on(2, tmp_path), rank=rank, patience=2)
    assert code == 1
    assert output.count("Traceback") == 1
    assert f"process {rank} on {HOST}:" in output
    assert "KeyError: 'a bug'" in output


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_machine_goes_on_when_the_step_has_been_killed(
    signum: signal.Signals, tmp_path: Path
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    given = call("work_on", starter=starter_on(2, tmp_path), folder=working)
    text = given.pop("input")
    with subprocess.Popen(**given, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as step:
        assert step.stdin
        step.stdin.write(text)
        step.stdin.close()
        wait_for(lambda: len(list(working.iterdir())) == 4)
        step.send_signal(signum)
    assert step.returncode == -signum
    pids = [int(path.name) for path in working.iterdir()]
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_the_address_of_a_machine_is_one_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Debian gives a machine's own name the address 127.0.1.1."""

    def fail(name: str) -> None:
        raise OSError(name)

    networks = {"lo": ["127.0.0.1"], "eth0": [], "eth1": ["10.1.2.5"]}
    monkeypatch.setattr(torchrun, "_networks", lambda: networks)
    of_name = ["127.0.1.1", "10.1.2.3"]
    monkeypatch.setattr("socket.gethostbyname_ex", lambda name: (name, [], of_name))
    monkeypatch.setattr(torchrun, "_address_towards", {torchrun.ANYWHERE: "10.1.2.4"}.get)
    assert torchrun._own_address() == "10.1.2.3"
    of_name.pop()
    assert torchrun._own_address() == "10.1.2.4"
    monkeypatch.setattr("socket.gethostbyname_ex", fail)
    monkeypatch.setattr(torchrun, "_address_towards", fail)
    assert torchrun._own_address() == "10.1.2.5"
    del networks["eth1"]
    assert torchrun._own_address() == "127.0.0.1"
