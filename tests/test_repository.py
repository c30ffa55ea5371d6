"""The git repository around a workspace: none, a shallow one, one with other line ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from workspaces import Workspace, new_workspace

from glmtune.errors import ResourceError
from glmtune.workspace.repository import check_queued, is_in_git, is_shallow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project with two commits."""
    workspace = new_workspace(tmp_path_factory.mktemp("repository") / "project")
    workspace.commit("another")
    return workspace


def clone(project: Workspace, folder: Path, *flags: str) -> Path:
    project.run("git", *flags, f"file://{project.path}", str(folder))
    return folder


def test_a_folder_of_a_repository_is_in_git(project: Workspace, tmp_path: Path) -> None:
    assert is_in_git(project.path)
    assert is_in_git(project.path / "workflow")
    assert not is_in_git(tmp_path)


def test_a_clone_without_its_history_is_shallow(project: Workspace, tmp_path: Path) -> None:
    assert is_shallow(clone(project, tmp_path / "shallow", "clone", "-q", "--depth", "1"))
    assert not is_shallow(clone(project, tmp_path / "whole", "clone", "-q"))
    assert not is_shallow(tmp_path)


def test_an_experiment_that_would_be_lost_is_refused_before_its_first_step(
    project: Workspace, tmp_path: Path
) -> None:
    """DVC runs `--queue` and `--temp` in copies below .dvc/tmp/exps."""
    for name, flags in {"shallow": ("--depth", "1"), "whole": ()}.items():
        folder = clone(project, tmp_path / name, "clone", "-q", *flags)
        copies = [folder / ".dvc/tmp/exps/standalone/a", folder / ".dvc/tmp/exps/b"]
        check_queued(folder)  # a run in the clone itself is safe
        for copy in copies:
            copy.mkdir(parents=True)
            if name == "shallow":
                with pytest.raises(ResourceError, match="git fetch --unshallow"):
                    check_queued(copy)
            else:
                check_queued(copy)


def test_a_clone_on_windows_has_the_same_bytes(project: Workspace, tmp_path: Path) -> None:
    """Git for Windows writes CRLF unless told otherwise; every hash of code would differ."""
    folder = clone(project, tmp_path / "crlf", "-c", "core.autocrlf=true", "clone", "-q")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    names = listed.rstrip("\0").split("\0")
    assert {"Snakefile", "params.yaml", "requirements.lock"} < set(names)
    changed = [n for n in names if (folder / n).read_bytes() != (project.path / n).read_bytes()]
    assert changed == []
