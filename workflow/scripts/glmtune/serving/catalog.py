"""What can be served, by name: the base models of a results folder and all that was tuned on them.

    chatglm2-6b            the untuned model (also chatglm2-6b/none)
    chatglm2-6b/ptuning    with what this method trained

What a checkpoint is, its files say. Needs no torch.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmtune.checkpoints.sources import model_folder, read_location
from glmtune.errors import ParamsError, WeightsError, shown_name
from glmtune.families.loading import detect_family
from glmtune.locations import user_path

UNTUNED = "none"
# (file, size, time of change) of each
Stamp = tuple[tuple[str, int, int], ...]
SUGGESTIONS = 3


@dataclass(frozen=True)
class Served:
    """A model that can be served."""

    name: str
    family: str
    """A key of FAMILIES."""
    folder: Path
    """Of the weights in memory: the base model, or all weights that a method trained."""
    prefix: Path | None = None
    adapter: Path | None = None
    stamp: Stamp = ()
    """Its files as they were when it was found."""

    @property
    def is_tuned(self) -> bool:
        """Whether a method was at work."""
        return "/" in self.name

    @property
    def kind(self) -> str:
        """Its kind, in a word."""
        if self.prefix or self.adapter:
            return "prefix" if self.prefix else "adapter"
        return "full" if self.is_tuned else "base"


Catalog = dict[str, Served]


def read_results(results: Path) -> Catalog:
    """All models below a results folder, the untuned one before its methods."""
    found: Catalog = {}
    bases = results / "models"
    for base in sorted(path for path in bases.glob("*") if path.is_dir()):
        family = family_of(base)
        found[base.name] = Served(base.name, family, base)
        for checkpoint in sorted((results / "checkpoints" / base.name).glob("[!.]*")):
            name = f"{base.name}/{checkpoint.name}"
            found[name] = tuned(name, family, base, checkpoint)
    if not found:
        raise ParamsError(
            f"{results}: found no models; expected models/ and checkpoints/ as `make report` "
            "writes them; run it first, or name a results folder with --results"
        )
    return _stamped(found)


def read_folder(folder: Path, prefix: Path | None = None, adapter: Path | None = None) -> Catalog:
    """A model folder by itself, and with a prefix or an adapter if one is given."""
    folder = folder.resolve()
    family = family_of(folder)
    found = {folder.name: Served(folder.name, family, folder)}
    for kind, part in (("prefix", prefix), ("adapter", adapter)):
        if part is not None:
            if not part.is_dir():
                raise WeightsError(f"--{kind} {part}: no such folder; expected a trained {kind}")
            name = f"{folder.name}/{part.resolve().name}"
            parts: dict[str, Any] = {kind: part.resolve()}
            found[name] = Served(name, family, folder, **parts)
    return _stamped(found)


def stamp_of(served: Served) -> Stamp:
    """What its files look like now; missing folders have none."""
    elsewhere = read_location(served.folder).get("folder")
    base = user_path(elsewhere) if elsewhere else served.folder
    folders, found = (base, served.prefix, served.adapter), []
    for path in sorted(path for folder in filter(None, folders) for path in folder.glob("[!.]*")):
        state = path.stat()
        found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)


def _stamped(catalog: Catalog) -> Catalog:
    return {name: replace(served, stamp=stamp_of(served)) for name, served in catalog.items()}


def find(catalog: Catalog, name: str) -> Served:
    """The model of that name; ParamsError with the names that are nearest for any other."""
    name = name.rstrip("/").removesuffix(f"/{UNTUNED}")
    if name in catalog:
        return catalog[name]
    near = difflib.get_close_matches(name, catalog, SUGGESTIONS, cutoff=0.4)
    raise ParamsError(
        f"unknown model {shown_name(name)!r}; expected one of {', '.join(near or catalog)}; "
        "`glmtune models` lists all"
    )


def tuned(name: str, family: str, base: Path, checkpoint: Path) -> Served:
    """What a method left in `checkpoint`: an adapter, a whole model, or a prefix."""
    if (checkpoint / "adapter_config.json").is_file():
        return Served(name, family, base, adapter=checkpoint)
    if (checkpoint / "config.json").is_file():
        return Served(name, family, checkpoint)
    return Served(name, family, base, prefix=checkpoint)


def family_of(folder: Path) -> str:
    """The family of a prepared folder or of any model folder."""
    manifest = folder.parent / f"{folder.name}.json"
    if manifest.is_file():
        values = json.loads(manifest.read_text(encoding="utf-8"))
        if isinstance(values, dict) and "family" in values:
            return str(values["family"])
    return read_location(folder).get("family") or detect_family(model_folder(folder))
