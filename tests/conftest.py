"""What several test files share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# Before torch is imported. A test's numbers and its CPU time are those of one thread, so that
# as many tests as there are cores can run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # a failure shows what went wrong, not progress bars

import hypothesis
import pytest
from workspaces import Workspace, new_workspace

from glmtune.params.presets import preset_text

ROOT = Path(__file__).resolve().parents[1]
# A folder that holds reference/; another machine may have it elsewhere.
SHARED = Path(os.environ.get("GLMTUNE_SHARED", ROOT.parent / "shared"))

# The same examples in every run, so that a failure is one of the change at hand. How long one takes
# says nothing about the code: a machine is busy, a first import slow.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Keep what was imported out of each garbage collection: a training asks for several."""
    gc.freeze()


@pytest.fixture(scope="session")
def preset_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The params.yaml that a preset stands for, by its name."""
    folder = tmp_path_factory.mktemp("presets")

    def merged(name: str) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(preset_text(ROOT, name), encoding="utf-8")
        return path

    return merged


@pytest.fixture(scope="session")
def full_reference() -> Path:
    """All golden data of the official code; a clone elsewhere does not have it."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the full golden data of the official code is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def committed_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of it that is in tests/fixtures, in the same layout."""
    from golden_files import expand

    return expand(tmp_path_factory.mktemp("golden") / "reference")


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Path:
    """The golden data: all of it where it is, else the part in tests/fixtures."""
    is_here = (SHARED / "reference").is_dir()
    return request.getfixturevalue("full_reference" if is_here else "committed_reference")


@pytest.fixture(scope="session", params=["committed", "full"])
def goldens(request: pytest.FixtureRequest) -> Path:
    """The part in tests/fixtures, and all of it where it is."""
    return request.getfixturevalue(f"{request.param}_reference")


@pytest.fixture(scope="session")
def samples() -> Path:
    """Adapters, conversations and broken files as users have them; not in a clone elsewhere."""
    folder = SHARED / "samples"
    if not folder.is_dir():
        pytest.skip("samples of users' files are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after `snakemake`, its state committed to git. Tests work on copies."""
    workspace = new_workspace(tmp_path_factory.mktemp("recorded") / "project")
    workspace.snakemake("--cores", "2", "results/report.md")
    workspace.commit("first results")
    return workspace


@pytest.fixture
def workspace(recorded: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the recorded workspace."""
    return recorded.copy_to(tmp_path / "project")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small results tree, which tests only read."""
    from report_tree import write_tree

    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Path:
    """The same results tree, which a test may change."""
    return Path(shutil.copytree(tree, tmp_path / "copy"))
