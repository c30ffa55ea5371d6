"""What the processes of a test do instead of a training, and machines to start them on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

START = """\
for machine in $(seq {machines}); do "$@" & agents="$agents $!"; done
for agent in $agents; do wait $agent || code=$?; done
exit ${{code:-0}}
"""


def starter_on(machines: int, folder: Path) -> str:
    """A command that starts another as often as there are machines, all of them this one."""
    script = folder / f"start-on-{machines}"
    script.write_text(START.format(machines=machines))
    return f"sh {script}"


def note(folder: Path) -> None:
    """Leave a file named after this process, with what it knows of the others."""
    known = [os.environ[name] for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")]
    (folder / os.environ["RANK"]).write_text(" ".join(known))


def kill_agent(rank: int) -> None:
    """Kill the agent of one of the processes; the others go on for a while, and fail."""
    if os.environ["RANK"] == str(rank):
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3)
    raise ConnectionError("a peer has gone")


def have_a_bug(rank: int, patience: float) -> None:
    """Fail in one of the processes, and some seconds later in the others because of it."""
    if os.environ["RANK"] != str(rank):
        time.sleep(patience)
        raise ConnectionError("a peer has gone")
    {}["a bug"]


def work_on(folder: Path) -> None:
    """Leave files with the numbers of this process and its agent, and do not end."""
    for pid in (os.getpid(), os.getppid()):
        (folder / str(pid)).touch()
    time.sleep(600)
