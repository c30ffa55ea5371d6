"""What a command costs: CPU time and peak memory, for the tables that tools/bench_*.py print."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu: float  # seconds, user and system, of the process and its children
    peak: float  # MiB, of the largest of these processes

    def __str__(self) -> str:
        return f"{self.cpu:,.1f} s, {self.peak:,.0f} MiB"


def cost_of(command: Sequence[object], folder: Path) -> Cost:
    """Run a command in a folder, `python` being this one, and measure it.

    Linux counts what this process holds in memory when it starts the command as the command's, too:
    a tool that measures must be smaller than what it measures. Ends the tool if the command fails.
    """
    arguments = list(map(str, command))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")
            sys.exit(f"{shlex.join(arguments)} failed:\n{said}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def cheapest(repeats: int, command: Sequence[object], folder: Path) -> Cost:
    """The cost of the repeat with the least CPU time."""
    costs = (cost_of(command, folder) for _ in range(repeats))
    return min(costs, key=lambda cost: cost.cpu)


def environment() -> dict[str, str]:
    """The environment of this process, with this Python's commands and this folder's library."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(SCRIPTS)}


def print_row(cells: Sequence[object]) -> None:
    """Print a row of a Markdown table at once: the next one may take minutes."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_head(titles: Sequence[str]) -> None:
    """Print the head of a Markdown table of numbers."""
    print_row(titles)
    print(f"|{'---:|' * len(titles)}", flush=True)
