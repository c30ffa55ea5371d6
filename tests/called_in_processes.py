"""What the processes of a test do instead of a training, and machines to start them on.

Namespaces make two machines of one: each with a network, a name and a file of names of its own.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

START = """\
for machine in $(seq {machines}); do "$@" & agents="$agents $!"; done
for agent in $agents; do wait $agent || code=$?; done
exit ${{code:-0}}
"""

UNSHARE = "unshare --net --uts --mount" + (" --map-root-user" if os.getuid() else "")
# As on Debian, the address of a machine's own name is one of its own.
BE_MACHINE = """\
hostname machine-$1
printf '127.0.0.1 localhost\\n127.0.1.1 machine-%s\\n' $1 > hosts-$1
mount --bind hosts-$1 /etc/hosts
ip link set lo up
ip address add 10.77.0.$1/24 dev cable
ip link set cable up
"""
# Puts machine 2 at the other end of a cable, and runs a command on machine 1.
CONNECT = """\
set -e
cd {folder}
unshare --net --uts --mount sleep 600 &
trap "kill $!" EXIT
until [ "$(cat /proc/$!/comm)" = sleep ]; do sleep 0.1; done
ip link add cable type veth peer name cable netns $!
sh -e be-machine 1
nsenter --target $! --net --uts --mount --wd=. sh -e be-machine 2
echo $! > machine-2
"$@"
"""
START_ON_BOTH = """\
"$@" & agent=$!
nsenter --target $(cat {folder}/machine-2) --net --uts --mount --wd=. "$@" || code=$?
wait $agent || code=$?
exit ${{code:-0}}
"""


def starter_on(machines: int, folder: Path) -> str:
    """A command that starts another as often as there are machines, all of them this one."""
    script = folder / f"start-on-{machines}"
    script.write_text(START.format(machines=machines))
    return f"sh {script}"


def two_machines(folder: Path) -> tuple[list[str], str]:
    """The beginning of a command that then runs on the first of two machines, and a starter there.

    Where such machines cannot be made, `UNSHARE ip link` fails.
    """
    (folder / "be-machine").write_text(BE_MACHINE)
    connect, start = folder / "connect", folder / "start"
    for script, text in ((connect, CONNECT), (start, START_ON_BOTH)):
        script.write_text(text.format(folder=shlex.quote(str(folder))))
    return [*UNSHARE.split(), "sh", str(connect)], f"sh {start}"


def add_up(folder: Path) -> None:
    """Add the numbers of all processes, and leave the sum in a file named after the machine."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    total = torch.tensor(int(os.environ["RANK"]) + 1)
    distributed.all_reduce(total)
    (folder / os.uname().nodename).write_text(str(total.item()))


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
    raise KeyError("a bug")


def work_on(folder: Path) -> None:
    """Leave files with the numbers of this process and its agent, and do not end."""
    for pid in (os.getpid(), os.getppid()):
        (folder / str(pid)).touch()
    time.sleep(600)
