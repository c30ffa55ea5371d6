"""Steps whose results are kept in the store: the flags they share, and how they run.

A script lists its outputs once, as {name in the store: flag}: {"manifest.json": "manifest"}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glmtune.locations import store_folder
from glmtune.workspace.step_settings import read_settings
from glmtune.workspace.store import entry_for, reuse_or_compute


def step_parser(doc: str | None, outputs: Mapping[str, str]) -> argparse.ArgumentParser:
    """A parser with `--settings`, `--store` and a flag for the path of each output."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", type=read_settings, required=True, help="settings (JSON)")
    parser.add_argument("--store", type=Path, default=store_folder(Path.cwd()))
    for flag in outputs.values():
        parser.add_argument(f"--{flag}", type=Path, required=True)
    return parser


def reuse_or_run(
    script: str,
    flags: argparse.Namespace,
    outputs: Mapping[str, str],
    compute: Callable[[Path, Path], None],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    reuse: bool = True,
) -> None:
    """Put the outputs where `flags` say: from the store, or by `compute(out_dir, resume_dir)`.

    `script` is the script's file; with the `settings` and the contents of `inputs` it decides the
    result. Without `reuse` the result is always computed.
    """
    entry = entry_for(flags.store, Path(script).name, settings, inputs)
    paths = {name: getattr(flags, flag.replace("-", "_")) for name, flag in outputs.items()}
    reuse_or_compute(flags.store, entry, paths, compute, reuse=reuse)
