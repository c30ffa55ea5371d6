"""Steps in forks of a process that has imported torch: like new processes, only sooner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from glmtune.workspace.code_inputs import SCRIPTS

T = TypeVar("T")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server is for Linux")

# A run of the workflow: it starts the server, and a step for each line that it reads.
RUN = """
import subprocess, sys
from glmtune.workspace.fork_server import start
start()
for command in sys.stdin:
    print(subprocess.run(command, shell=True).returncode, flush=True)
"""
# A step: it runs probe.py, which a test writes, where our steps train or generate.
STEP = """
from glmtune.errors import run_script
from glmtune.workspace.fork_server import call_in_fork
run_script(lambda: call_in_fork("runpy", "run_path", path_name="probe.py"))
"""
SCORE = STEP.replace('"run_path",', '"run_path", "scores",')
DESCRIBE = """
import json, os, pathlib, sys
facts = {
    "pid": os.getpid(),
    "parent": os.getppid(),
    "folder": os.getcwd(),
    "argv": sys.argv,
    "word": os.environ.get("WORD"),
    "known": sorted({"torch", "peft"} & set(sys.modules)),
    "threads of the server": len(os.listdir(f"/proc/{os.getppid()}/task")),
}
pathlib.Path("facts.json").write_text(json.dumps(facts))
print("to the log")
print("this, too", file=sys.stderr)
"""
WAIT = DESCRIBE + "import time; time.sleep(60)"


class Run:
    """A run of the workflow in a folder, with the library in `scripts`."""

    def __init__(self, folder: Path, scripts: Path = SCRIPTS, **environment: str) -> None:
        self.folder = folder
        (folder / "step.py").write_text(STEP)
        kept = {k: v for k, v in os.environ.items() if k != "GLMTUNE_FORK_SERVER"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=folder,
            env=kept | {"PYTHONPATH": str(scripts)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, probe: str, *, before: str = "WORD=red", after: str = "") -> None:
        """Start a step that runs `probe`."""
        (self.folder / "probe.py").write_text(probe)
        (self.folder / "facts.json").unlink(missing_ok=True)
        command = f"{before} {sys.executable} step.py --flag > log 2>&1 {after}\n"
        assert self.process.stdin is not None
        self.process.stdin.write(command)
        self.process.stdin.flush()

    def code(self) -> int:
        """Wait for the step; its exit code."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def step(self, probe: str = DESCRIBE, **shell: str) -> int:
        """Run a step to its end; its exit code."""
        self.begin(probe, **shell)
        return self.code()

    def facts(self) -> dict[str, Any]:
        """What the probe saw, once it has looked."""
        return json.loads(until(lambda: read(self.folder / "facts.json")))

    def log(self) -> str:
        """What the step printed."""
        return (self.folder / "log").read_text()

    def server(self, kind: str = "models") -> psutil.Process:
        """The process that forks."""
        [server] = [
            child
            for child in psutil.Process(self.process.pid).children()
            if f"'{kind}')" in " ".join(child.cmdline())
        ]
        return server

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the run end, as Snakemake does after its last step."""
        with self.process:
            self.process.communicate()


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def until(look: Callable[[], T]) -> T:
    """Wait for something true."""
    for _ in range(600):
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Run(tmp_path_factory.mktemp("run")) as run:
        yield run


def test_a_step_runs_in_a_fork_and_is_like_its_own_process(run: Run) -> None:
    assert run.step() == 0
    facts = run.facts()
    assert facts["parent"] == run.server().pid
    assert facts["known"] == ["peft", "torch"]
    assert facts["folder"] == str(run.folder)
    assert facts["argv"][1:] == ["--flag"]
    assert facts["word"] == "red"
    assert run.log().splitlines() == ["to the log", "this, too"]


def test_a_fork_finds_the_packages_of_the_user_s_own_path(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_package.py").touch()
    with Run(tmp_path, PYTHONPATH=f"{SCRIPTS}{os.pathsep}{tmp_path / 'own'}") as run:
        assert run.step(DESCRIBE + "import my_package") == 0, run.log()
        assert run.facts()["parent"] == run.server().pid


def test_the_server_has_one_thread_when_it_forks(run: Run) -> None:
    run.step()
    assert run.facts()["threads of the server"] == 1


def test_a_scoring_inherits_no_torch(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        run.step()
        (tmp_path / "step.py").write_text(SCORE)
        assert run.step() == 0
        facts = run.facts()
        assert facts["parent"] == run.server("scores").pid != run.server().pid
        assert facts["known"] == []
        assert facts["threads of the server"] == 1
        assert run.step("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 2
        assert "memory (RAM) ran out; run fewer jobs at once" in run.log()


def test_a_server_has_loaded_the_dictionary_before_it_forks() -> None:
    look = (
        "import glmtune.steps.scoring, jieba, sys, threading;"
        "print(jieba.dt.initialized, 'torch' in sys.modules, threading.active_count())"
    )
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False", "1"]


def test_a_user_s_mistake_is_one_message_and_exit_code_2(run: Run) -> None:
    assert run.step("from glmtune.errors import DataError; raise DataError('rows.jsonl: bad')") == 2
    assert run.log() == "error: rows.jsonl: bad\n"


def test_a_bug_keeps_its_traceback(run: Run) -> None:
    assert run.step("raise RuntimeError('a bug')") == 1
    assert "probe.py" in run.log()
    assert run.log().endswith("RuntimeError: a bug\n")


def test_a_killed_fork_is_one_message(run: Run) -> None:
    assert run.step("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 2
    assert "was killed, most likely because memory (RAM) ran out" in run.log()
    assert len(run.log().splitlines()) == 1


def test_a_fork_ends_with_the_step_that_asked(run: Run) -> None:
    run.begin(WAIT)
    fork = run.facts()["pid"]
    [step] = [
        child
        for child in psutil.Process(run.process.pid).children(recursive=True)
        if child.cmdline()[1:2] == ["step.py"]
    ]
    step.kill()
    assert run.code() != 0
    until(lambda: has_ended(fork))


@pytest.mark.parametrize(
    ("reason", "shell"),
    [
        ("another environment", {"before": "WORD=blue"}),
        ("no step of this run", {"before": "( WORD=red setsid", "after": "& )"}),
        ("switched off", {"before": "GLMTUNE_FORK_SERVER=off WORD=red"}),
    ],
)
def test_other_processes_compute_by_themselves(
    run: Run, reason: str, shell: dict[str, str]
) -> None:
    run.step()
    assert run.facts()["parent"] == run.server().pid
    assert run.step(**shell) == 0
    assert run.facts()["parent"] != run.server().pid, reason
    assert run.facts()["known"] == []


def test_a_step_of_edited_code_computes_by_itself(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    with Run(tmp_path, scripts) as run:
        run.step()
        assert run.facts()["parent"] == run.server().pid
        with (scripts / "glmtune" / "seeding.py").open("a") as file:
            file.write("# edited\n")
        run.step()
        assert run.facts()["parent"] != run.server().pid


@pytest.mark.parametrize("kill", [False, True])
def test_the_servers_end_with_the_run(tmp_path: Path, kill: bool) -> None:
    with Run(tmp_path) as run:
        run.step("")
        servers = [run.server(kind).pid for kind in ("models", "scores")]
        if kill:
            run.process.kill()
    until(lambda: all(map(has_ended, servers)))


def test_no_server_starts_where_there_is_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with Run(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}") as run:
        assert run.step() == 0
        assert run.facts()["known"] == []
