"""The folder of a run: where its repository and store are, what is left over, what DVC records.

Called by the Snakefile; knows Snakemake's and DVC's habits and nothing about models.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from glmtune.files import atomic_path, read_json, write_json
from glmtune.params import Params

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
OWNER = Path(".snakemake/owner.json")


def use_this_python() -> None:
    """Let the Python that runs Snakemake run the steps and DVC, its environment active or not."""
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def own_provenance(workspace: Path) -> None:
    """Make Snakemake's records private copies: it rewrites them in place, and a record that DVC
    linked to its cache would change there too.
    """
    for record in _records(workspace):
        if record.is_symlink() or record.stat().st_nlink > 1:
            copy = record.with_name(record.name + ".copy")
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


def remember_owner(workspace: Path) -> None:
    """Note which process runs the workflow here, so that a later one can tell whether it lives."""
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    write_json(workspace / OWNER, owner)


def clear_stale_lock(workspace: Path) -> None:
    """Remove Snakemake's lock when the process that took it was killed; respect a live one."""
    owner_file = workspace / OWNER
    locks = list((workspace / ".snakemake" / "locks").glob("*.lock"))
    if not locks or not owner_file.is_file():
        return
    # The owner is noted a moment after the lock is taken: an older note speaks of an older lock.
    if owner_file.stat().st_mtime < max(lock.stat().st_mtime for lock in locks):
        return
    owner = read_json(owner_file)
    is_local = owner["host"] == socket.gethostname()
    if is_local and _started(owner["pid"]) != owner["started"]:
        print(f"clearing the lock of a killed run (process {owner['pid']})", file=sys.stderr)
        for lock in locks:
            lock.unlink()


def _started(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None for one that does not run."""
    try:
        process = psutil.Process(pid)
        # A killed process stays in the table until its parent looks; in containers nobody does.
        is_dead = process.status() == psutil.STATUS_ZOMBIE
        return None if is_dead else process.create_time()
    except psutil.NoSuchProcess:
        return None


def prune(workspace: Path, params: Params) -> list[Path]:
    """Remove outputs, and their provenance, of models and methods that params no longer name."""
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


def record_in_dvc(workspace: Path) -> None:
    """Record the finished state, as `dvc exp run` would otherwise discard it and start over.

    Inside DVC (`DVC_STAGE` is set) DVC itself records.
    """
    if os.environ.get("DVC_STAGE") or not (workspace / ".dvc").is_dir():
        return
    if shutil.which("dvc") is None:
        print("dvc is not on the PATH: this state is not recorded", file=sys.stderr)
        return
    done = subprocess.run(["dvc", "commit", "-q", "-f"], cwd=workspace, check=False)
    if done.returncode == 0:
        print("recorded in dvc.lock; `git commit` it to compare later runs with this one")
    else:
        print("dvc could not record this state: see above, then `dvc commit -f`", file=sys.stderr)
