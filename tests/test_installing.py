"""The library installed by pip, away from the repository: complete, and its command runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_results import METHODS, write_results
from workspaces import ROOT, copy_project

from glmtune import __version__

pytestmark = pytest.mark.slow

# Runs a command in a folder, as whoever installed the library does.
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the project as it is now, built beside the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_project(folder / "project")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    pip("wheel", *flags, str(folder / "project"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))

    def run(*command: str, folder: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(target)}
        name, *arguments = command
        program = str(target / "bin" / name) if name == "glmtune" else name
        done = subprocess.run(
            [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert (done.returncode == 0) is ok, done.stderr
        return done

    return run


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(wheel: Path) -> None:
    library = ROOT / "workflow" / "scripts"
    files = (path for path in (library / "glmtune").rglob("*") if path.is_file())
    expected = {path.relative_to(library).as_posix() for path in files if path.suffix != ".pyc"}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert f"glmtune-{__version__}.dist-info/METADATA" in names


def test_the_installed_library_is_the_one_that_is_imported(run: Run, tmp_path: Path) -> None:
    code = "import glmtune; print(glmtune.__file__); glmtune.load_model, glmtune.chat"
    place = Path(run(sys.executable, "-c", code, folder=tmp_path).stdout.strip())
    assert place.is_file()
    assert ROOT not in place.parents


def test_the_installed_command_explains_itself_and_lists_models(run: Run, tmp_path: Path) -> None:
    assert run("glmtune", "--version", folder=tmp_path).stdout == f"glmtune {__version__}\n"
    assert "usage: glmtune COMMAND" in run("glmtune", "--help", folder=tmp_path).stdout
    missing = run("glmtune", "models", folder=tmp_path, ok=False)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: results")
    assert "Traceback" not in missing.stderr
    write_results(tmp_path / "results", "chatglm2-6b")
    lines = run("glmtune", "models", folder=tmp_path).stdout.splitlines()
    tuned = {f"chatglm2-6b/{method}" for method in METHODS}
    assert {line.split()[0] for line in lines} >= tuned
