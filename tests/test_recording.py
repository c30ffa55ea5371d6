"""What is recorded in dvc.lock, and when: after a run, after a killed one, never twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glmtune.errors import ParamsError
from glmtune.workspace import recording

PutDvc = Callable[..., None]

# What `dvc status --json` says where every output is recorded, and where one is not.
RECORDED = '{"workflow": [{"changed deps": {"workflow": "modified"}}]}'
CHANGED = '{"workflow": [{"changed outs": {"results/report.md": "modified"}}]}'
DVC = """#!/bin/sh
echo "$@" >> called
case $1 in status) echo '{status}'; exit 0;; *) exit {code};; esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with parameters, code, git and DVC, outside DVC."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "params.yaml").write_text("lr: 1")
    script = tmp_path / "workflow/scripts/step.py"
    script.parent.mkdir(parents=True)
    script.write_text("lr = 1")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return tmp_path


@pytest.fixture
def put_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PutDvc:
    """Put a program of that name on the PATH: what it says of the outputs, how recording ends."""

    def put(status: str = CHANGED, code: int = 0) -> None:
        program = folder / "bin/dvc"
        program.parent.mkdir(exist_ok=True)
        program.write_text(DVC.replace("{status}", status).replace("{code}", str(code)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return put


def calls(folder: Path) -> list[str]:
    """The commands of DVC that were run."""
    file = folder / "called"
    return file.read_text().splitlines() if file.is_file() else []


def killed_run(folder: Path) -> dict[Path, bytes]:
    """Leave what a run leaves that was killed before it was recorded; its inputs."""
    inputs = recording.snapshot_inputs(folder)
    recording.mark_unrecorded(folder, inputs)
    return inputs


def is_marked(folder: Path) -> bool:
    return (folder / recording.MARK).exists()


def test_inside_dvc_nothing_is_recorded(
    folder: Path, put_dvc: PutDvc, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dvc()
    monkeypatch.setenv("DVC_STAGE", "workflow")
    inputs = killed_run(folder)
    recording.record_in_dvc(folder, inputs)
    recording.record_left_over(folder, inputs)
    assert calls(folder) == []
    assert is_marked(folder)  # DVC may be killed before it has recorded


def test_without_dvc_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(recording.subprocess, "run", lambda *a, **k: pytest.fail("ran dvc"))
    killed_run(tmp_path)
    assert not is_marked(tmp_path)
    recording.record_in_dvc(tmp_path, {})
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    recording.record_in_dvc(tmp_path, {})


@pytest.mark.parametrize(("code", "said"), [(0, "recorded in dvc.lock"), (1, "DVC failed")])
def test_the_mark_of_a_run_goes_only_when_dvc_has_recorded_it(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    put_dvc(code=code)
    recording.record_in_dvc(folder, killed_run(folder))
    assert calls(folder) == ["commit -f"]
    assert said in "".join(capsys.readouterr())
    assert is_marked(folder) == bool(code)


def test_what_a_killed_run_made_is_recorded_by_the_next_one(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str]
) -> None:
    put_dvc(CHANGED)
    recording.record_left_over(folder, killed_run(folder))
    assert calls(folder) == ["status --json", "commit -f"]
    assert "the last run ended before it was recorded" in capsys.readouterr().err
    assert not is_marked(folder)
    recording.record_left_over(folder, recording.snapshot_inputs(folder))
    assert len(calls(folder)) == 2


def test_what_dvc_recorded_itself_is_not_recorded_again(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str]
) -> None:
    """After an experiment, or the checkout of another commit: outputs are what dvc.lock says."""
    put_dvc(RECORDED)
    killed_run(folder)
    (folder / "params.yaml").write_text("lr: 2")
    recording.record_left_over(folder, recording.snapshot_inputs(folder))
    assert calls(folder) == ["status --json"]
    assert "".join(capsys.readouterr()) == ""
    assert not is_marked(folder)


@pytest.mark.parametrize("edited", ["params.yaml", "workflow/scripts/step.py"])
def test_what_was_made_from_other_inputs_is_not_recorded_but_explained(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str], edited: str
) -> None:
    put_dvc(CHANGED)
    killed_run(folder)
    (folder / edited).write_text("lr: 2")
    recording.record_left_over(folder, recording.snapshot_inputs(folder))
    assert calls(folder) == ["status --json"]
    said = capsys.readouterr().err
    assert "params.yaml or code changed since" in said
    assert "`dvc commit -f` records" in said
    assert is_marked(folder)


@pytest.mark.parametrize("left", ["", "schema: '2.0'\nstages:\n  work"])
def test_a_lock_that_a_kill_cut_short_is_written_anew(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    put_dvc(RECORDED)
    (folder / "dvc.lock").write_text(left)
    recording.record_left_over(folder, killed_run(folder))
    assert calls(folder) == ["commit -f"]
    assert not (folder / "dvc.lock").exists()  # this dvc writes none
    assert "dvc.lock is incomplete" in capsys.readouterr().err


def test_what_was_edited_meanwhile_is_not_recorded(
    folder: Path,
    put_dvc: PutDvc,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_dvc()
    for edited in ("params.yaml", "workflow/scripts/step.py"):
        made_from = killed_run(folder)
        (folder / edited).write_text("lr: 2")
        with monkeypatch.context() as outside:
            outside.delenv("DVC_STAGE", raising=False)
            recording.record_in_dvc(folder, made_from)
        assert "code changed during the run" in capsys.readouterr().err
        with monkeypatch.context() as inside:
            inside.setenv("DVC_STAGE", "workflow")
            with pytest.raises(ParamsError, match="code changed during the run"):
                recording.record_in_dvc(folder, made_from)
    assert calls(folder) == []
    assert is_marked(folder)


def test_a_downloaded_archive_is_told_what_dvc_needs(
    folder: Path, put_dvc: PutDvc, capsys: pytest.CaptureFixture[str]
) -> None:
    put_dvc()
    (folder / ".git").rmdir()
    recording.record_in_dvc(folder, recording.snapshot_inputs(folder))
    assert calls(folder) == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "git init && git add -A && git commit -m start, then `dvc commit -f`" in said


def test_who_told_dvc_to_work_without_git_is_recorded(folder: Path, put_dvc: PutDvc) -> None:
    put_dvc()
    (folder / ".git").rmdir()
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    recording.record_in_dvc(folder, recording.snapshot_inputs(folder))
    assert calls(folder) == ["commit -f"]
