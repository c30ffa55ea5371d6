"""A real Slurm of two nodes, with daemons, keys and state in a folder of a test.

Both nodes are this machine, each with its own slurmd, folder for temporary files and one GPU.

Memory limits are those of `jobacct_gather/linux` with OverMemoryKill: it asks /proc, and so works
in a container, too, where cgroups are often out of reach.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workspaces import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
PLUGIN = "snakemake_executor_plugin_slurm"
NODES = ("node1", "node2")
# Where distributions put daemons, and users do not look.
DAEMONS = "/usr/local/sbin:/usr/sbin:/sbin"
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/own_tmpdir
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs=2 RealMemory=16000 Gres=gpu:1"
)
# What a script prints before each task is done by Slurm.
OWN_TMPDIR = """\
#!/bin/sh
mkdir -p {folder}/$SLURMD_NODENAME/tmp
echo export TMPDIR={folder}/$SLURMD_NODENAME/tmp
"""


def what_is_missing() -> str | None:
    """Why no Slurm can be started here, if none can."""
    path = os.pathsep.join([os.environ["PATH"], DAEMONS])
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    if importlib.util.find_spec(PLUGIN) is None:
        return f"no {PLUGIN} (pip install -e '.[slurm]')"
    return None


@contextmanager
def slurm_of_two_nodes(folder: Path, path: str) -> Iterator[dict[str, str]]:
    """Start a Slurm in `folder`; the environment in which its commands are used.

    `path` is the PATH of its users, and of its jobs. Skips the test where daemons cannot run.
    """
    _configure(folder)
    path = os.pathsep.join([_own_srun(folder), path, DAEMONS])
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    agents = (["slurmd", "-D", "-N", name] for name in NODES)
    commands = (_munged(folder), ["slurmctld", "-D"], *agents)
    daemons = [_start(command, folder, environment) for command in commands]
    try:
        try:
            wait_for(lambda: _is_idle(environment), seconds=60)
        except AssertionError:
            pytest.skip(f"Slurm does not start here:\n{_last_words(folder)}")
        yield environment
    finally:
        for daemon in reversed(daemons):
            _stop(daemon)


def _configure(folder: Path) -> None:
    """Write slurm.conf and gres.conf, and make the folders and the script that they name."""
    folder.chmod(0o755)
    for name in ("state", *NODES):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    nodes = [NODE.format(name=name, host=host, port=_free_port()) for name in NODES]
    text = CONFIGURATION.format(
        folder=folder,
        host=host,
        user=pwd.getpwuid(os.getuid()).pw_name,
        controller=_free_port(),
        nodes="\n".join(nodes),
    )
    (folder / "slurm.conf").write_text(text)
    program = folder / "own_tmpdir"
    program.write_text(OWN_TMPDIR.format(folder=shlex.quote(str(folder))))
    program.chmod(0o755)
    (folder / "gres.conf").write_text("Name=gpu Count=1 File=/dev/null\n")


def _start(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    name = f"{command[0]}.{Path(command[-1]).name}.out"  # each slurmd has its own
    with (folder / name).open("wb") as output:
        return subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT
        )


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()


def _munged(folder: Path) -> list[str]:
    """The command of a munged with a key, a socket and a seed of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"key": key.name, "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log"}
    flags = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    named = [f"--{flag}={folder / files[name]}" for flag, name in flags.items()]
    return ["munged", "--foreground", "--force", *named, f"--seed-file={folder / 'munge.seed'}"]


def _own_srun(folder: Path) -> str:
    """A folder with an srun that knows this Slurm: the plugin removes SLURM_CONF inside of jobs."""
    program = folder / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    )
    program.chmod(0o755)
    return str(program.parent)


def _last_words(folder: Path) -> str:
    """What each daemon said last."""
    outputs = [path.read_text(errors="replace").splitlines()[-2:] for path in folder.glob("*.out")]
    return "\n".join(line for lines in outputs for line in lines)


def _is_idle(environment: dict[str, str]) -> bool:
    command = ["sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "idle"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
