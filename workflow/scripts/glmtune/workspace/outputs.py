"""The results tree, as the rules' own patterns describe it: `results/scores/{model}/{method}.json`.

Makes its folders, and removes what no rule would write now. The rules are the only list of these
paths; a test compares dvc.yaml with them.
"""

from __future__ import annotations

import shutil
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from glmtune.files import remove_leftovers
from glmtune.params.values import Params


def make_folders(workspace: Path, patterns: Iterable[str]) -> None:
    """Make the folders of outputs by run: DVC records them even if they stay empty.

    Without a method that trains, nothing is written below `results/checkpoints`.
    """
    for folder in _folders_by_run(workspace, patterns):
        folder.mkdir(parents=True, exist_ok=True)


def prune(workspace: Path, patterns: Iterable[str], params: Params) -> list[Path]:
    """Remove outputs, and their provenance, of models and methods that params no longer name.

    Also removes half-written files of killed steps, which DVC would version.
    """
    patterns = list(patterns)
    for folder in {_folder_of(workspace, pattern) for pattern in patterns}:
        remove_leftovers(folder)
    named = set(_named_outputs(workspace, patterns, params))
    around = {folder for path in named for folder in path.parents}
    removed: list[Path] = []
    for folder in sorted(_folders_by_run(workspace, patterns)):
        removed += _remove_unnamed(workspace, folder, named, around)
    return removed


def _folder_of(workspace: Path, pattern: str) -> Path:
    """The folder of all outputs of a pattern.

    Example: results/scores/{model}/{method}.json -> results/scores
    """
    fixed, _, _ = pattern.partition("{")
    return (workspace / f"{fixed}name").parent


def _folders_by_run(workspace: Path, patterns: Iterable[str]) -> set[Path]:
    """The folders of the outputs that differ by model or method."""
    return {_folder_of(workspace, pattern) for pattern in patterns if "{" in pattern}


def _named_outputs(workspace: Path, patterns: Iterable[str], params: Params) -> Iterator[Path]:
    """Every output of the models and methods of params, whether it exists or not."""
    for pattern in patterns:
        for run in params.runs:
            yield workspace / pattern.format(model=run.model, method=run.method)


def _remove_unnamed(
    workspace: Path, folder: Path, named: Set[Path], around: Set[Path]
) -> Iterator[Path]:
    """Remove what is below `folder`, unless it is an output of `named` or a folder `around` one."""
    for path in sorted(folder.glob("[!.]*")):
        if path in named:
            continue
        if path in around and path.is_dir():
            yield from _remove_unnamed(workspace, path, named, around)
        else:
            _remove_provenance(workspace, path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            print(f"pruned: {path.relative_to(workspace)}", file=sys.stderr)
            yield path


def _remove_provenance(workspace: Path, path: Path) -> None:
    """Delete Snakemake's records of an output and of everything below it."""
    outputs = [path, *path.rglob("*")] if path.is_dir() else [path]
    for output in outputs:
        name = output.relative_to(workspace).as_posix()
        record = urlsafe_b64encode(name.encode()).decode()
        (workspace / ".snakemake" / "metadata" / record).unlink(missing_ok=True)
