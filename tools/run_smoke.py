"""Run the whole workflow with almost no work in any step, in a folder of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.params.presets import preset_text  # noqa: E402


def main() -> int:
    """Copy the project there, with the smallest parameters, and run it; Snakemake's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the project is copied there, its results stay")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="for snakemake; default: --cores 2")
    given = parser.parse_args()
    folder = given.folder
    copy_project(folder, preset="smoke")
    environment = {**os.environ, "GLMTUNE_STORE": str(folder.resolve() / ".glmtune" / "store")}
    command = ["snakemake", *(given.flags or ["--cores", "2"]), "--", "results/report.md"]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def copy_project(folder: Path, *, preset: str | None = None) -> None:
    """Copy what git tracks or would track, as it is now; `preset` becomes its params.yaml."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(".dvc/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    if preset:
        text = preset_text(ROOT, preset)
        (folder / "params.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
