"""Find the weight files of a folder and check that they are complete.

A folder may have both formats, as one file or in shards, or an incomplete set: small files come
with git, large ones are downloaded by hand. The first complete set is used.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from glmtune.errors import WeightsError, shown_name
from glmtune.files import LFS_POINTER, is_lfs_pointer

# In order of preference: a folder with both formats holds the same weights twice.
WEIGHT_FILES = (
    *("model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors"),
    *("pytorch_model.bin.index.json", "pytorch_model.bin", "adapter_model.bin"),
)
# Files an index may name: a model's hashes cover these (`sources.MODEL_FILES`).
SHARD_NAMES = ("model*.safetensors", "pytorch_model*.bin")
LONGEST_NAME = 200


def weight_files(source: Path) -> list[Path]:
    """The weight files of `source`, which is a folder or such a file itself.

    Raises WeightsError with what is missing, or what the folder holds instead.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise WeightsError(f"{source}: no such folder; expected one with weights")
    found = [source / name for name in WEIGHT_FILES if (source / name).is_file()]
    for file in found:
        files = _files_of(file)
        if all(path.is_file() and not _is_pointer(path) for path in files):
            if file != found[0]:
                why = f"because the files of {found[0].name} are incomplete"
                print(f"{source}: reading {file.name}, {why}", file=sys.stderr)
            return files
    if shards := _shards_without_index(source):
        return shards
    if not found:
        raise _no_weights(source)
    files = _files_of(found[0])
    if missing := [path.name for path in files if not path.is_file()]:
        raise WeightsError(
            f"{found[0]}: {len(missing)} of {len(files)} files are missing: "
            f"{', '.join(missing[:5])}; download them into the same folder"
        )
    return files  # Git left pointers in their place; reading one reports it


def check_is_content(path: Path) -> None:
    """Raise WeightsError for an empty file, or a pointer that git left in its place."""
    if _is_pointer(path):
        raise WeightsError(
            f"{path}: a Git-LFS pointer, not the file itself; run `git lfs pull` in its repository "
            "or download the file"
        )
    if not path.stat().st_size:
        raise WeightsError(f"{path}: an empty file; download it again")


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; WeightsError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a JSON document ({error}); download it again") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: found {type(value).__name__}; expected a JSON object")
    return value


def _files_of(file: Path) -> list[Path]:
    """A file itself, or the shards that an index names."""
    if not file.name.endswith(".index.json"):
        return [file]
    check_is_content(file)
    weight_map = read_object(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{file}: found no weight_map; download the file again")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        _check_is_beside(file, name)
    return [file.parent / name for name in names]


def _check_is_beside(index: Path, name: str) -> None:
    """Refuse shards outside the index's folder: the model's hashes only cover that folder."""
    is_known = any(fnmatchcase(name, pattern) for pattern in SHARD_NAMES)
    if "/" in name or not is_known or len(name) > LONGEST_NAME:
        raise WeightsError(
            f"{index}: found shard name {shown_name(name)!r}; expected files in the same folder, "
            f"{' or '.join(SHARD_NAMES)}"
        )
    folder, path = index.parent.resolve(), index.parent / name
    homes = [folder]
    if folder.parent.name == "snapshots":  # in the hub's cache: links to files in blobs/
        homes.append(folder.parent.parent / "blobs")
    if path.exists() and path.resolve().parent not in homes:
        raise WeightsError(
            f"{index}: {shown_name(name)!r} links to a file outside the folder; expected the file "
            "itself"
        )


def _shards_without_index(folder: Path) -> list[Path]:
    """Shards whose names tell how many there should be; [] if there are none."""
    for start, ending in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        count = "[0-9]" * 5
        shards = sorted(folder.glob(f"{start}-{count}-of-{count}{ending}"))
        if not shards:
            continue
        stated = int(shards[0].stem[-5:])
        if len(shards) == stated:
            return shards
        raise WeightsError(
            f"{folder}: found {len(shards)} shards like {shards[0].name}; expected {stated}, as "
            f"their names say; download the others and {start}{ending}.index.json"
        )
    return []


def _no_weights(folder: Path) -> WeightsError:
    if (folder / "zero_to_fp32.py").is_file() or any(folder.glob("global_step*")):
        return WeightsError(
            f"{folder}: found a DeepSpeed checkpoint, whose weights are partitioned; merge them "
            "with `python zero_to_fp32.py . pytorch_model.bin` in that folder"
        )
    return WeightsError(
        f"{folder}: found no weights; expected pytorch_model.bin or model.safetensors, or their "
        "shards with an index"
    )


def _is_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer, which git left in place of its content."""
    with path.open("rb") as stream:
        return is_lfs_pointer(stream.read(len(LFS_POINTER)))
