"""Real workspaces for the tests of the workflow: a copy of the project with little to do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from run_smoke import copy_project  # noqa: E402

MODEL = "chatglm2-6b"
# What another lr or pre_seq_len reruns.
ONLY_PTUNING = {
    f"finetune_model {MODEL} ptuning",
    f"generate_predictions {MODEL} ptuning",
    f"score_predictions {MODEL} ptuning",
    "render_report",
}


@dataclass(frozen=True)
class Workspace:
    """A folder with the project in it, in which commands are run as a user runs them."""

    path: Path

    def run(self, *command: str, ok: bool = True, **environment: str) -> str:
        """Run a command; its whole output. With `ok` a failure fails the test."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=user_environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        if ok:
            assert done.returncode == 0, f"{' '.join(command)}\n{_readable(done.stdout)}"
        else:
            assert done.returncode != 0, f"{' '.join(command)} succeeded\n{_readable(done.stdout)}"
        return done.stdout

    def snakemake(self, *flags: str, **keywords: Any) -> set[str]:
        """Run Snakemake; the jobs that ran (with -n: that would run)."""
        return jobs_in(self.run("snakemake", *flags, **keywords))

    def snakemake_of(self, *command: str) -> set[str]:
        """Run a command that runs Snakemake; the jobs that ran."""
        return jobs_in(self.run(*command))

    def would_run(self) -> set[str]:
        """The jobs that Snakemake would run now."""
        return self.snakemake("-n")

    def params(self) -> dict[str, Any]:
        """params.yaml as it is."""
        return yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))

    def edit(self, key: str, value: Any) -> None:
        """Set a dotted key of params.yaml; None for the value `...` removes the key."""
        values = self.params()
        section = values
        *sections, last = key.split(".")
        for name in sections:
            section = section[name]
        if value is ...:
            del section[last]
        else:
            section[last] = value
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
        (self.path / "params.yaml").write_text(text, encoding="utf-8")

    def commit(self, message: str = "state") -> None:
        """Commit everything to git."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def trainings(self) -> set[str]:
        """The finished trainings in the store: a new one is a training that was computed."""
        store = self.path / ".glmtune" / "store" / "finetune_model"
        return {path.parent.name for path in store.glob("*/contents.json")}

    def files(self) -> dict[str, bytes]:
        """Every result by name, without what differs from run to run: times and machines."""
        found = {}
        for folder in ("data", "results"):
            for path in sorted((self.path / folder).rglob("*")):
                name = path.relative_to(self.path).as_posix()
                if path.is_file() and not _is_volatile(name):
                    found[name] = path.read_bytes()
        report = self.path / "results" / "report.md"
        if report.is_file():
            found["results/report.md"] = _without_times(report.read_text(encoding="utf-8"))
        return found

    def copy_to(self, folder: Path) -> Workspace:
        """The same workspace elsewhere, with its times, as if it had been moved."""
        shutil.copytree(self.path, folder, symlinks=True)
        return Workspace(folder)


def _readable(output: str) -> str:
    """The end of an output, each line as a terminal leaves it: a progress bar's last state."""
    return "\n".join(line.rpartition("\r")[2] for line in output.split("\n"))[-6000:]


def _is_volatile(name: str) -> bool:
    volatile = ("results/runtime/", "results/report.", "results/figures/cost.svg")
    return name.startswith(volatile) or ".snakemake" in name


def _without_times(report: str) -> bytes:
    """The report up to its account of what was run, without times, dates and commits."""
    text, _, _ = report.partition("\n## What was run")
    text = re.sub(r"Computed [^.]*\.", "…", text)
    return re.sub(r"[\d.]+\s(s|min|h)\b", "…", text).encode()


def jobs_in(output: str) -> set[str]:
    """The jobs in Snakemake's output, as `rule model method`."""
    jobs = set()
    for line in output.splitlines():
        for rule, message in _messages():
            found = message.search(line)  # perhaps behind another step's progress bar
            if found:
                jobs.add(" ".join([rule, *found.groups()]))
    return jobs


@cache
def _messages() -> list[tuple[str, re.Pattern[str]]]:
    """Each rule, and what Snakemake prints as a job of it starts, its wildcards in groups."""
    _, *rules = (ROOT / "Snakefile").read_text(encoding="utf-8").split("\nrule ")
    found = []
    for rule in rules:
        if message := re.search(r'message:\s+"([^"]+)"', rule):
            pattern = re.sub(r"\\{wildcards.*?\\}", r"(\\S+)", re.escape(message[1]))
            found.append((rule.partition(":")[0], re.compile("▶ " + pattern)))
    return found


def new_workspace(
    folder: Path, models: tuple[str, ...] = ("chatglm2-6b",), *, in_git: bool = True
) -> Workspace:
    """A fresh copy of the project with the smallest parameters, committed to git."""
    copy_project(folder, preset="smoke")
    dvc = folder / ".dvc"
    dvc.mkdir(exist_ok=True)
    for name in ("config", ".gitignore"):
        shutil.copyfile(ROOT / ".dvc" / name, dvc / name)
    shutil.copytree(ROOT / ".dvc" / "plots", dvc / "plots")
    workspace = Workspace(folder)
    workspace.edit("models", {model: {"source": "miniature"} for model in models})
    if in_git:
        workspace.run("git", "init", "-q", "-b", "main")
        workspace.commit("the project")
    return workspace


def user_environment() -> dict[str, str]:
    not_a_user_s = ("DVC_", "GLMTUNE_", "GIT_", "PYTHONUNBUFFERED", "TQDM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(not_a_user_s)}
    identity = {
        f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME",)
    }
    identity |= {f"GIT_{who}_EMAIL": "test@example.invalid" for who in ("AUTHOR", "COMMITTER")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | identity | {"PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}


def processes_in(folder: Path) -> list[int]:
    """Every process that works in a folder of a test, workers of DVC's queue too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


def kill_everything_in(folder: Path) -> None:
    """SIGKILL to every process that works in a folder of a test."""
    for process in processes_in(folder):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Return when the condition holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
