"""The folder of a run: its lock, its records, its links to the user's files.

Called by the Snakefile; depends on how Snakemake works, not on models.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from glmtune.errors import ParamsError, ResourceError
from glmtune.files import atomic_path

RUNNING = Path(".snakemake/running")


def use_this_python() -> None:
    """Run the steps and DVC with the Python that runs Snakemake, even without `activate`."""
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def detach_metadata_from_cache(workspace: Path) -> None:
    """Make Snakemake's records private copies: it rewrites them in place, and a record that DVC
    linked to its cache would change there too.
    """
    for record in _records(workspace):
        if record.is_symlink() or record.stat().st_nlink > 1:
            copy = workspace / ".snakemake" / "record.copy"  # DVC versions the folder of records
            shutil.copyfile(record, copy)
            os.replace(copy, record)


def _records(workspace: Path) -> Iterator[Path]:
    folder = workspace / ".snakemake" / "metadata"
    return (path for path in folder.rglob("*") if path.is_file())


def link_user_files(workspace: Path, files: Mapping[str, Path]) -> dict[str, str]:
    """Links with fixed names to the user's files, as {name: path relative to the workspace}.

    Snakemake compares inputs by name first: a file that was only moved reruns nothing.
    """
    links = {}
    for name, path in files.items():
        link = workspace / ".glmtune" / "data" / name
        if not link.is_symlink() or link.readlink() != path.resolve():
            with atomic_path(link) as temporary:
                temporary.symlink_to(path.resolve())
        links[name] = link.relative_to(workspace).as_posix()
    return links


def check_folder(workspace: Path, project: Path) -> None:
    """Refuse to run in a folder without the project's files."""
    if workspace.resolve() != project.resolve() and not (workspace / "params.yaml").exists():
        raise ParamsError(
            f"{workspace}: no params.yaml here; steps run in the project's folder: use "
            f"`cd {project}`, or `snakemake --directory {project}`"
        )


def acquire_run_lock(workspace: Path) -> TextIO:
    """Remove a stale lock, then mark this folder as in use while the returned file is open.

    The operating system removes the mark when the process ends, even if it is killed.
    """
    clear_stale_lock(workspace)
    file = workspace / RUNNING
    try:
        file.parent.mkdir(exist_ok=True)
        mark = file.open("w", encoding="utf-8")
        with suppress(OSError):  # a disk without file locks: no lock counts as stale there
            fcntl.flock(mark, fcntl.LOCK_SH)
        mark.write(socket.gethostname())
        mark.flush()
    except OSError as error:
        raise ResourceError(
            f"{file}: cannot be written ({error.strerror}); make the folder writable, or free "
            "some space on the disk"
        ) from None
    return mark


def is_alone(running: TextIO) -> bool:
    """Whether no other run uses this folder; one that starts now waits for this one to end.

    `running` is what `acquire_run_lock` returned. True on a disk without file locks.
    """
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_in_use(workspace: Path) -> bool:
    """Whether a run of this machine uses the folder now; False on a disk without file locks."""
    try:
        with (workspace / RUNNING).open("r+", encoding="utf-8") as mark:
            return not is_alone(mark)
    except OSError:
        return False  # no mark yet


def clear_stale_lock(workspace: Path) -> None:
    """Remove Snakemake's lock unless a run uses this folder.

    Every run marks the folder before it takes the lock. A network disk may show only the marks of
    this machine, so a lock stays if another machine was the last to run here.
    """
    try:
        with (workspace / RUNNING).open("r+", encoding="utf-8") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = list((workspace / ".snakemake" / "locks").glob("*.lock"))
            if locks and mark.read() == socket.gethostname():
                for lock in locks:
                    lock.unlink()
                print("removing the stale lock of a killed run", file=sys.stderr)
    except OSError:
        return  # no mark yet, a running run, or a disk without file locks
