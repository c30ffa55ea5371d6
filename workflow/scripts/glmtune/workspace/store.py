"""Finished and unfinished results outside the workspace, each under a hash of all that decides it.

Snakemake and DVC delete a rule's outputs before they make them again, and `dvc exp run` starts from
the last recorded state. Slow results are therefore kept here as well: a result with the same key is
reused, an unfinished training with the same key resumes, other keys are never touched.

    <store>/<step>/<key>/key.json       what the key is made of, to read
                         contents.json  SHA-256 of every file of `done/`; present once complete
                         done/          the outputs
                         work/          what an unfinished run resumes from
                         lock           held by the process that computes
    <store>/owners/<output>             which process may write an output: the last to start
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.errors import DataError, ResourceError
from glmtune.files import (
    atomic_path,
    hash_folder,
    locked,
    read_json,
    remove_leftovers,
    sha256_of,
    write_json,
)
from glmtune.workspace.code_inputs import hash_code
from glmtune.workspace.provenance import DECIDING_PACKAGES, installed_versions

WORK = "is computing the same result"  # what a second process waits for


@dataclass(frozen=True)
class Entry:
    """The place of one result in the store."""

    folder: Path
    identity: Mapping[str, Any]

    @property
    def done(self) -> Path:
        """The folder of the finished outputs."""
        return self.folder / "done"

    @property
    def work(self) -> Path:
        """The folder an unfinished run resumes from."""
        return self.folder / "work"

    def is_whole(self) -> bool:
        """Whether the outputs are complete and unchanged since they were stored."""
        try:
            return read_json(self.folder / "contents.json") == hash_folder(self.done)
        except DataError:  # missing or damaged
            return False


def entry_for(
    store: Path, script: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]
) -> Entry:
    """The entry of a script's result for these settings and the contents of these input files."""
    identity = {
        "script": script,
        "settings": settings,
        "inputs": {name: sha256_of(path) for name, path in inputs.items()},
        "code": hash_code(script),
        "versions": installed_versions(DECIDING_PACKAGES),
        "python": ".".join(map(str, sys.version_info[:2])),
    }
    text = json.dumps(identity, ensure_ascii=False, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Entry(Path(store) / Path(script).stem / key, identity)


def reuse_or_compute(
    store: Path,
    entry: Entry,
    outputs: Mapping[str, Path],
    compute: Callable[[Path, Path], None],
    *,
    reuse: bool = True,
) -> bool:
    """Put an entry's files at `outputs` ({name in the entry: path}), computing them if need be.

    `compute(done, work)` writes every name into the folder `done`; `work` survives a kill.
    Returns whether the result was reused. A second process with the same key waits for the first;
    one whose outputs a newer process has claimed does not write them.
    """
    token = _claim(store, outputs)
    with locked(entry.folder, WORK):
        remove_leftovers(entry.folder)  # the process that left them is dead: it held the lock
        reused = reuse and entry.is_whole()
        if reused:
            print(f"reused: {entry.folder}", file=sys.stderr)
        else:
            _compute(entry, compute)
        # Still locked: who computes the same anew would remove these files.
        with _owned(store, outputs, token):
            for name, path in outputs.items():
                _link_into_place(entry.done / name, path)
    return reused


def _compute(entry: Entry, compute: Callable[[Path, Path], None]) -> None:
    (entry.folder / "contents.json").unlink(missing_ok=True)
    shutil.rmtree(entry.done, ignore_errors=True)
    entry.work.mkdir(parents=True, exist_ok=True)
    write_json(entry.folder / "key.json", entry.identity)
    with atomic_path(entry.done) as done:
        done.mkdir()
        compute(done, entry.work)
    write_json(entry.folder / "contents.json", hash_folder(entry.done))
    shutil.rmtree(entry.work)


def _link_into_place(source: Path, target: Path) -> None:
    """Make `target` the same file or folder as `source`, by hard links where the disk allows."""
    with atomic_path(target) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=_link_or_copy)
        else:
            _link_or_copy(source, temporary)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _owner_file(store: Path, outputs: Mapping[str, Path]) -> Path:
    paths = "\n".join(sorted(str(path.resolve()) for path in outputs.values()))
    return Path(store) / "owners" / hashlib.sha256(paths.encode()).hexdigest()[:32]


def _claim(store: Path, outputs: Mapping[str, Path]) -> str:
    """Become the owner of these outputs, instead of any process left over from a killed run."""
    file = _owner_file(store, outputs)
    token = f"{os.getpid()} {os.urandom(8).hex()}"
    with locked(file.parent, WORK):
        file.write_text(token)
    return token


@contextmanager
def _owned(store: Path, outputs: Mapping[str, Path], token: str) -> Iterator[None]:
    file = _owner_file(store, outputs)
    with locked(file.parent, WORK):
        if not file.is_file() or file.read_text() != token:
            where = ", ".join(map(str, outputs.values()))
            raise ResourceError(f"{where}: another run has taken over these outputs; stopping")
        yield
