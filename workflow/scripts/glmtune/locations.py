"""Locate the repository of a workspace, its store, and the sources of models and data."""

from __future__ import annotations

import os
import re
from pathlib import Path

# What `dataset:` may name instead of a file.
SAMPLE, ADGEN, GENERAL = OWN_DATA = ("sample", "adgen", "general")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What `source:` of a model on ModelScope begins with.
MODELSCOPE = "modelscope:"
# A name that means nothing else to a file system.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,199}", re.ASCII)


def main_repository(workspace: Path) -> Path:
    """The repository a workspace belongs to: itself, or the one that queued it as an experiment.

    `dvc exp run --queue` and `--temp` work in `<repository>/.dvc/tmp/exps/[standalone/]<name>`.
    """
    for parent in workspace.resolve().parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return workspace.resolve()


def user_path(path: str) -> Path:
    """Resolve a path of params.yaml: relative ones start at the repository, wherever it runs."""
    return main_repository(Path.cwd()) / Path(path).expanduser()


def store_folder(workspace: Path) -> Path:
    """The folder of finished results; the environment variable GLMTUNE_STORE overrides it."""
    return Path(
        os.environ.get("GLMTUNE_STORE") or main_repository(workspace) / ".glmtune" / "store"
    )


def kind_of_source(source: str) -> str:
    """The kind of `models.<name>.source`: miniature, random, modelscope, hub or folder."""
    if source in ("miniature", "random"):
        return source
    if source.startswith(MODELSCOPE):
        return "modelscope"
    is_hub_id = HUB_ID.fullmatch(source) and not user_path(source).exists()
    return "hub" if is_hub_id else "folder"
