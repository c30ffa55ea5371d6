"""Records finished results in dvc.lock, even if the run that made them was killed before it did.

A mark is in the workspace from the first step of a run until DVC has recorded the results, so it
survives a kill at any moment in between. Called by the Snakefile; depends on how DVC works.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glmtune.errors import ParamsError
from glmtune.files import write_text
from glmtune.workspace.repository import INITIALISE, is_in_git

# Holds the `digest` of the inputs of the last run that had something to do.
MARK = Path(".snakemake/unrecorded")
EDITED = (
    "not recorded: params.yaml or code changed during the run. Run the same command "
    "again; only what the change affects is recomputed"
)
LEFT_OVER = "the last run ended before it was recorded in dvc.lock: recording it now"
EDITED_SINCE = (
    "not recorded: the last run ended before it was recorded in dvc.lock, and params.yaml or "
    "code changed since. `dvc commit -f` records the results as they are; `dvc checkout --force` "
    "restores those of dvc.lock"
)
CUT_SHORT = "dvc.lock is incomplete, because DVC was killed: rewriting it"
NO_REPOSITORY = (
    "not recorded: DVC needs a git repository, and this folder is not in one (a downloaded archive "
    f"has none); run {INITIALISE}, then `dvc commit -f`"
)
FAILED = (
    "not recorded: DVC failed. Fix the error above, then run snakemake again or `dvc commit -f`"
)


def snapshot_inputs(workspace: Path) -> dict[Path, bytes]:
    """The parameters and the code, which DVC records with the results."""
    files = [workspace / name for name in ("params.yaml", "Snakefile", "requirements.lock")]
    for kind in ("*.py", "*.yaml"):
        files += (workspace / "workflow").rglob(kind)
    return {path: path.read_bytes() for path in files if path.is_file()}


def mark_unrecorded(workspace: Path, inputs: Mapping[Path, bytes]) -> None:
    """Note, before the first step, that the results are about to differ from dvc.lock."""
    if (workspace / ".dvc").is_dir():
        write_text(workspace / MARK, _digest(workspace, inputs))


def record_in_dvc(workspace: Path, made_from: Mapping[Path, bytes]) -> None:
    """Record the finished state, as `dvc exp run` would otherwise discard it and start over.

    `made_from` is `snapshot_inputs` from the start of the run; DVC records the present ones.
    Inside DVC (`DVC_STAGE` is set) DVC itself records; ParamsError keeps it from recording an edit.
    """
    edited = snapshot_inputs(workspace) != made_from
    if edited and "DVC_STAGE" in os.environ:  # else DVC would record these results under the edit
        raise ParamsError(EDITED)
    if "DVC_STAGE" in os.environ or not (workspace / ".dvc").is_dir():
        return
    if edited:
        print(EDITED, file=sys.stderr)
        return
    if shutil.which("dvc") is None:
        print("not recorded: dvc is not on the PATH; activate the environment", file=sys.stderr)
        return
    if not is_in_git(workspace) and not _works_without_git(workspace):
        print(NO_REPOSITORY, file=sys.stderr)
        return
    _remove_if_cut_short(workspace / "dvc.lock")
    # Shows its progress and errors, but not its advice about git: ours follows.
    command = ["dvc", "commit", "-f"]
    done = subprocess.run(command, cwd=workspace, stdout=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        (workspace / MARK).unlink(missing_ok=True)
        print("recorded in dvc.lock; `git commit` it to compare later runs with this one")
    else:
        print(FAILED, file=sys.stderr)


def record_left_over(workspace: Path, inputs: Mapping[Path, bytes]) -> None:
    """Record what an earlier run left unrecorded, now that nothing is left to do.

    Results of other inputs are reported instead: a checkout that was itself killed can leave a
    mixture that Snakemake considers up to date.
    """
    mark = workspace / MARK
    if not mark.is_file() or "DVC_STAGE" in os.environ:
        return
    if _is_recorded(workspace):  # by DVC itself, after a run inside it, or checked out since
        mark.unlink()
    elif mark.read_text(encoding="utf-8") == _digest(workspace, inputs):
        print(LEFT_OVER, file=sys.stderr)
        record_in_dvc(workspace, inputs)
    else:
        print(EDITED_SINCE, file=sys.stderr)


def when_nothing_ran(workflow: Any, call: Callable[[], None]) -> None:
    """Call a function after a run without a step, for which Snakemake has no hook."""
    execute = workflow.execute

    def execute_and_call(*arguments: Any, **keywords: Any) -> Any:
        result = execute(*arguments, **keywords)
        if workflow.dag is not None and len(workflow.dag) == 0 and not workflow.dryrun:
            call()
        return result

    workflow.execute = execute_and_call


def _digest(workspace: Path, inputs: Mapping[Path, bytes]) -> str:
    digest = hashlib.sha256()
    for path, content in sorted(inputs.items()):
        digest.update(path.relative_to(workspace).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _is_recorded(workspace: Path) -> bool:
    """Whether every output matches dvc.lock."""
    lock = workspace / "dvc.lock"
    if _is_cut_short(lock) or shutil.which("dvc") is None:
        return False
    command = ["dvc", "status", "--json"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, check=False)
    return done.returncode == 0 and not any(
        "changed outs" in change for stage in json.loads(done.stdout).values() for change in stage
    )


def _works_without_git(workspace: Path) -> bool:
    """Whether DVC is configured to: `dvc config core.no_scm true`."""
    files = [workspace / ".dvc" / name for name in ("config", "config.local")]
    return any("no_scm" in file.read_text(encoding="utf-8") for file in files if file.is_file())


def _is_cut_short(lock: Path) -> bool:
    """Whether DVC was killed while it wrote its lock, which is not an atomic write."""
    return lock.is_file() and not lock.read_bytes().endswith(b"\n")


def _remove_if_cut_short(lock: Path) -> None:
    if _is_cut_short(lock):
        print(CUT_SHORT, file=sys.stderr)
        lock.unlink()
