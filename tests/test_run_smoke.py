"""`make smoke`: what its command line means; the run itself is a journey."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import run_smoke  # noqa: E402


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(run_smoke, "copy_project", lambda folder, *, preset: None)
    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize(
    ("flags", "cores"),
    [([], ["--cores", "2"]), (["-n", "--cores", "8"], ["-n", "--cores", "8"])],
)
def test_flags_behind_the_folder_are_snakemake_s(
    flags: list[str], cores: list[str], ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_smoke.py", "folder", *flags])
    assert run_smoke.main() == 0
    assert ran == [["snakemake", *cores, "--", "results/report.md"]]


def test_help_starts_no_run(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_smoke.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        run_smoke.main()
    assert (ended.value.code, ran) == (0, [])
    assert "for snakemake; default: --cores 2" in capsys.readouterr().out
