"""The folder of a run: its lock, its records, its links to the user's files.

Called by the Snakefile; knows Snakemake's habits and nothing about models.
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
    """Let the Python that runs Snakemake run the steps and DVC, its environment active or not."""
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
    """Links of fixed names to the user's files, as {name: path relative to the workspace}.

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
    """Refuse to run the project's steps in another folder, where nothing of it is found."""
    if workspace.resolve() != project.resolve() and not (workspace / "params.yaml").exists():
        raise ParamsError(
            f"{workspace}: no params.yaml here; every step works in the project's folder: "
            f"`cd {project}`, or `snakemake --directory {project}`"
        )


def acquire_run_lock(workspace: Path) -> TextIO:
    """Clear the lock of a killed run, then mark this folder as in use while the file stays open.

    The mark is the operating system's: it goes when the process ends, however it ends.
    """
    clear_stale_lock(workspace)
    file = workspace / RUNNING
    try:
        file.parent.mkdir(exist_ok=True)
        mark = file.open("w", encoding="utf-8")
        with suppress(OSError):  # a disk without such marks: no lock counts as stale there
            fcntl.flock(mark, fcntl.LOCK_SH)
        mark.write(socket.gethostname())
        mark.flush()
    except OSError as error:
        raise ResourceError(
            f"{file}: cannot be written ({error.strerror}); a run needs a folder that it may "
            "write, and some free space"
        ) from None
    return mark


def is_alone(running: TextIO) -> bool:
    """Whether no other run of this folder lives; one that begins now waits for this one to end.

    `running` is what `acquire_run_lock` returned. On a disk without such marks the answer is yes.
    """
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def clear_stale_lock(workspace: Path) -> None:
    """Remove Snakemake's lock when no run of this folder lives; respect a live one.

    Every run marks the folder before it takes the lock. A network disk may show the marks of this
    machine only, so a lock stays when another machine was the last to run here.
    """
    try:
        with (workspace / RUNNING).open("r+", encoding="utf-8") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = list((workspace / ".snakemake" / "locks").glob("*.lock"))
            if locks and mark.read() == socket.gethostname():
                for lock in locks:
                    lock.unlink()
                print("clearing the lock of a killed run", file=sys.stderr)
    except OSError:
        return  # no mark yet, a live run, or a disk without such marks
