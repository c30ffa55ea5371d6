"""`make preset` replaces params.yaml, and never edits that are nowhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glmtune.errors import ParamsError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from use_preset import use_preset  # noqa: E402

from glmtune.params.presets import merge_texts  # noqa: E402

CHOICES = "expected one of default, large, small"
DEFAULT = """\
# Of the file.

# Peak.
lr: 1
# Those to compare.
models:
  # The first.
  a:
    source: miniature
  b: {source: miniature}

# How long.
training:
  steps: 10
  # Rows.
  batch: 4
examples:
  - 类型#裙
"""
PRESET = """\
# Of the preset.

models:
  # From a folder.
  a:
    source: ./a
training:
  # More.
  batch: 8
  seed: 1
examples:
  - 类型#鞋
"""
MERGED = """\
# Of the preset.

# Of the file.

# Peak.
lr: 1
# Those to compare.
models:
  # The first.
  # From a folder.
  a:
    source: ./a

# How long.
training:
  steps: 10
  # Rows.
  # More.
  batch: 8
  seed: 1
examples:
  - 类型#鞋
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the default, two presets and a committed params.yaml."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/default.yaml").write_text("# Peak.\nlr: 3\nseed: 42\n")
    (tmp_path / "presets/large.yaml").write_text("lr: 1\n")
    (tmp_path / "presets/small.yaml").write_text("lr: 2\n")
    (tmp_path / "params.yaml").write_text("# Peak.\nlr: 3\nseed: 42\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *command: str) -> None:
    me = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *me, *command], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "params")


def params(project: Path) -> str:
    return (project / "params.yaml").read_text()


def test_what_is_committed_is_replaced(project: Path) -> None:
    use_preset(project, "large")
    assert params(project) == "# Peak.\nlr: 1\nseed: 42\n"


def test_an_untouched_preset_is_replaced_by_another(project: Path) -> None:
    use_preset(project, "large")
    use_preset(project, "small")
    assert params(project) == "# Peak.\nlr: 2\nseed: 42\n"


def test_the_default_comes_back_whatever_was_used_and_committed(project: Path) -> None:
    use_preset(project, "large")
    commit(project)
    use_preset(project, "default")
    assert params(project) == (project / "presets/default.yaml").read_text()


def test_sections_are_merged_lists_and_named_entries_replaced_comments_kept() -> None:
    assert merge_texts(DEFAULT, PRESET) == MERGED


def test_edits_are_kept_and_the_message_says_how_to_go_on(project: Path) -> None:
    (project / "params.yaml").write_text("lr: 4\n")
    with pytest.raises(ParamsError) as caught:
        use_preset(project, "large")
    assert str(caught.value) == (
        "params.yaml: found uncommitted edits; expected none, because a preset replaces "
        "the whole file; keep them with `git commit params.yaml`, or discard them with "
        "`make preset NAME=large FORCE=1`"
    )
    assert params(project) == "lr: 4\n"


def test_committed_edits_are_replaced(project: Path) -> None:
    (project / "params.yaml").write_text("lr: 4\n")
    commit(project)
    use_preset(project, "large")
    assert params(project) == "# Peak.\nlr: 1\nseed: 42\n"


def test_force_discards_edits(project: Path) -> None:
    (project / "params.yaml").write_text("lr: 4\n")
    use_preset(project, "large", force=True)
    assert params(project) == "# Peak.\nlr: 1\nseed: 42\n"


def test_without_a_repository_an_own_file_is_kept(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / "params.yaml").write_text("lr: 4\n")
    with pytest.raises(ParamsError, match="found uncommitted edits"):
        use_preset(project, "large")


def test_a_missing_file_is_written(project: Path) -> None:
    (project / "params.yaml").unlink()
    use_preset(project, "small")
    assert params(project) == "# Peak.\nlr: 2\nseed: 42\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", f"NAME is missing; {CHOICES}; e.g. make preset NAME=default"),
        (
            "lagre",
            f"found no preset 'lagre'; {CHOICES}; did you mean large?",
        ),
        (
            "../params",
            f"found no preset '../params'; {CHOICES}; e.g. make pr",
        ),
    ],
)
def test_a_name_that_is_none_lists_the_presets(project: Path, name: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        use_preset(project, name)
    assert str(caught.value).startswith(f"presets/: {message}")
    assert params(project) == "# Peak.\nlr: 3\nseed: 42\n"


def test_the_command_ends_with_code_2_and_one_line() -> None:
    command = [sys.executable, str(ROOT / "tools/use_preset.py"), "nothing-like-it"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: presets/: found no preset 'nothing-like-it'; expected")
    assert done.stderr.count("\n") == 1
