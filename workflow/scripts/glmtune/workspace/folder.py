"""The folder of a run: its lock, its links to the user's files, what is left over.

Called by the Snakefile; knows Snakemake's habits and nothing about models.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from glmtune.errors import ParamsError, ResourceError
from glmtune.files import atomic_path, remove_leftovers
from glmtune.params.values import Params

# Folders of outputs by run: results/<thing>/{model}/{method}… or results/<thing>/{model}….
BY_MODEL = ("data/tokenized", "results/models", "results/runtime/prepare_model")
BY_RUN = (
    "results/checkpoints",
    "results/training",
    "results/curves",
    "results/predictions",
    "results/examples",
    "results/probe",
    "results/scores",
    "results/runtime/finetune_model",
    "results/runtime/generate_predictions",
)
OUTPUTS = ("data/dataset", "data/tokenized", "results")
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


def make_folders(workspace: Path) -> None:
    """Make the folders of outputs: DVC records each, also one that stays empty.

    Without a method that trains, nothing is written below `results/checkpoints`.
    """
    for folder in (*BY_MODEL, *BY_RUN):
        (workspace / folder).mkdir(parents=True, exist_ok=True)


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


def prune(workspace: Path, params: Params) -> list[Path]:
    """Remove outputs, and their provenance, of models and methods that params no longer name.

    What a killed step had half written beside its outputs goes too: DVC would version it.
    """
    for folder in OUTPUTS:
        remove_leftovers(workspace / folder)
    removed = list(_leftovers(workspace, params))
    for path in removed:
        _forget(workspace, path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(f"pruned: {path.relative_to(workspace)}", file=sys.stderr)
    return removed


def _leftovers(workspace: Path, params: Params) -> Iterator[Path]:
    for folder in (*BY_MODEL, *BY_RUN):
        for path in sorted((workspace / folder).glob("[!.]*")):
            if _stem(path, params.models) is None:
                yield path
            elif folder in BY_RUN:
                yield from (
                    child
                    for child in sorted(path.glob("[!.]*"))
                    if _stem(child, params.methods) is None
                )


def _stem(path: Path, names: Sequence[str]) -> str | None:
    """The name of params that an output belongs to: itself, or what stands before a suffix."""
    suffixes = ("", ".json", ".jsonl", ".rows.jsonl", ".csv")
    return next((name for name in names if path.name in {name + s for s in suffixes}), None)


def _forget(workspace: Path, path: Path) -> None:
    """Delete Snakemake's records of an output and of everything below it."""
    outputs = [path, *path.rglob("*")] if path.is_dir() else [path]
    for output in outputs:
        name = output.relative_to(workspace).as_posix()
        record = urlsafe_b64encode(name.encode()).decode()
        (workspace / ".snakemake" / "metadata" / record).unlink(missing_ok=True)
