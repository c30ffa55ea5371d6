"""What a command costs: CPU time and peak memory, for the tables that tools/bench_*.py print."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"

# Between this process and the command, because a process's peak starts at the memory of the one
# that started it. Its last line of output is the cost: CPU seconds and KiB.
MEASURE = """
import os, sys
started = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(started, 0)
print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}", end="")
sys.exit(status != 0)
"""


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu: float  # seconds, user and system, of the process and its children
    peak: float  # MiB, of the largest of these processes

    def __str__(self) -> str:
        return f"{self.cpu:,.1f} s, {self.peak:,.0f} MiB"


def cost_of(command: Sequence[object], folder: Path) -> Cost:
    """Run a command in a folder, `python` being this one, and measure it.

    Ends the tool with the command's output if it fails.
    """
    arguments = list(map(str, command))
    done = subprocess.run(
        ["python", "-I", "-S", "-c", MEASURE, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said, _, figures = done.stdout.decode(errors="replace").rpartition("\n")
    if done.returncode:
        sys.exit(f"{shlex.join(arguments)} failed:\n{said}")
    seconds, kibibytes = map(float, figures.split())
    return Cost(seconds, kibibytes / 1024)


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
