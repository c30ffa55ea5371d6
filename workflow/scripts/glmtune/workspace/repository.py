"""The git repository around a workspace: DVC versions nothing without one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from glmtune.errors import ResourceError
from glmtune.locations import main_repository

# What makes a downloaded archive a repository.
INITIALISE = "git init && git add -A && git commit -m start"


def is_in_git(folder: Path) -> bool:
    """Whether a folder lies in a git repository."""
    folder = folder.resolve()
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def is_shallow(folder: Path) -> bool:
    """Whether a folder lies in a clone without its whole history (`git clone --depth`)."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return False
    return done.stdout.strip() == "true"


def check_queued(workspace: Path) -> None:
    """Refuse an experiment whose results DVC would lose after everything has run.

    `dvc exp run --queue` and `--temp` work in a copy, and DVC cannot fetch results into a shallow
    clone. Raises ResourceError before the first step.
    """
    repository = main_repository(workspace)
    if repository != workspace.resolve() and is_shallow(repository):
        raise ResourceError(
            f"{repository}: a shallow clone, in which DVC loses the results of `--queue` and "
            "`--temp`; run `git fetch --unshallow` first, or `dvc exp run` without them"
        )
