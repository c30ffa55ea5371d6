"""Checkpoints on the disk: sealed when they are whole, found again, and the older ones removed.

A seal names the files of a checkpoint with their sizes. It is written when all of them have reached
the disk, so that neither a kill nor a power cut leaves a checkpoint that only looks whole.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from glmtune.files import write_json

SEAL = "files.json"


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint whole; the others beside it are not needed any more and go."""
    files = sorted(checkpoint.iterdir())
    for file in files:
        _reach_disk(file)
    write_json(checkpoint / SEAL, {file.name: file.stat().st_size for file in files})
    for path in (checkpoint / SEAL, checkpoint, checkpoint.parent):
        _reach_disk(path)
    for other in checkpoints_in(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def last_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint in `work`; newer ones that a kill cut off are removed."""
    for checkpoint in reversed(checkpoints_in(work)):
        if _is_whole(checkpoint):
            return checkpoint
        print(f"{checkpoint.name} is incomplete: not resumed from", file=sys.stderr)
        shutil.rmtree(checkpoint)
    return None


def checkpoints_in(work: Path) -> list[Path]:
    """All checkpoints, by step: times lie where a clock was set back."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError):
        return False


def _reach_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
