"""Where a model's files come from: finding, fetching and naming them without torch.

A prepared model is a folder. That of a miniature holds the model itself; that of any other source
holds `location.json`, so that gigabytes are neither copied nor put under version control:

    {"folder": "../weights/chatglm2-6b"}               a local folder, as params.yaml names it
    {"hub": "owner/name", "revision": "<40 digits>"}   a downloaded snapshot in the hub's cache
    {"random": {config values}, "seed": 42}            built anew at each opening, vocabulary here
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glmtune.content_hashes import hash_files
from glmtune.errors import WeightsError
from glmtune.families.loading import load_tokenizer
from glmtune.families.tokenizers import Tokenizer
from glmtune.files import read_json
from glmtune.locations import kind_of_source, user_path

LOCATION = "location.json"
VOCABULARY_FILES = ("*.model", "tokenizer_config.json")
MODEL_FILES = ("config.json", "pytorch_model*.bin*", "model*.safetensors*", *VOCABULARY_FILES)


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that are the model: config, weights, vocabulary; sorted."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def fingerprint(source: str, tokenizer: str | None = None) -> dict[str, str]:
    """`{file name: SHA-256}` of a local source: what is made of it is made again when it changes.

    `source` and `tokenizer` are keys of an entry of `models:`. Raises WeightsError when the folder
    is not there.
    """
    files = vocabulary_files(tokenizer)
    if kind_of_source(source) == "folder":
        files += model_files(local_folder(source))
    return {path.name: digest for path, digest in hash_files(files).items()}


def hash_model(folder: Path) -> dict[str, str]:
    """`{file name: SHA-256}` of a prepared model, wherever its files are."""
    files = hash_files(model_files(model_folder(folder)))
    return {path.name: digest for path, digest in files.items()}


@contextmanager
def unchanged(folder: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """Refuse a prepared model whose files are not its manifest's, before and after it is used.

    Raises WeightsError, also for files that were replaced during the enclosed work: its result is
    not of the model that the manifest names.
    """
    check_model(folder, manifest)
    yield
    check_model(folder, manifest)


def check_model(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the files of a prepared model are those of its manifest."""
    fix = "put it back, or run `snakemake` again: it starts from the files as they are"
    _check(model_folder(folder), hash_model(folder), manifest["files"], fix)


def check_checkpoint(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the files of a checkpoint are those of its training's manifest."""
    # Snakemake notes the time of a folder in a hidden file.
    paths = (path for path in folder.rglob("[!.]*") if path.is_file())
    files = hash_files(paths)
    found = {path.relative_to(folder).as_posix(): digest for path, digest in files.items()}
    fix = f"remove {folder} and run `snakemake` again"
    _check(folder, found, manifest["checkpoint"], fix)


def _check(folder: Path, found: Mapping[str, str], expected: Mapping[str, str], fix: str) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            now, then = (
                f"SHA-256 {each[name][:12]}…" if name in each else "no such file"
                for each in (found, expected)
            )
            raise WeightsError(f"{folder / name}: found {now}; its manifest has {then}; {fix}")


def local_folder(source: str) -> Path:
    """The local folder that a model's source names."""
    folder = user_path(source)
    if not folder.is_dir():
        raise WeightsError(
            f"params.yaml: models: source {source!r}: no such folder ({folder}); expected a folder "
            f"with config.json, weights and a vocabulary, or `miniature`, `random`, or a hub id"
        )
    return folder


def read_location(folder: Path) -> dict[str, Any]:
    """What `location.json` says; `{}` for a folder that holds the model itself."""
    file = folder / LOCATION
    return read_json(file) if file.is_file() else {}


def model_folder(folder: Path) -> Path:
    """The folder with the model's files; `folder` itself unless it says that they are elsewhere."""
    location = read_location(folder)
    if "folder" in location:
        found = user_path(location["folder"])
    elif "hub" in location:
        found = hub_snapshot(location["hub"], location["revision"], local_only=True)
    else:
        found = folder
    if not found.is_dir():
        raise WeightsError(f"{found}: no such folder; expected a model with config and weights")
    return found


def hub_snapshot(name: str, revision: str, *, local_only: bool = False) -> Path:
    """The folder of a hub's model at a commit, downloaded if need be.

    Weights, config and vocabulary only: the repository's Python files are never fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(MODEL_FILES),
            local_files_only=local_only,
        )
    except Exception as error:  # its own, its HTTP libraries' and the operating system's
        if "No space left" in str(error):
            raise
        if local_only:  # results that came by `dvc pull`: the weights did not come with them
            raise WeightsError(
                f"{name} at {revision[:12]}: not in this machine's cache of the hub; fetch it with "
                f"`snakemake --forcerun prepare_model --until prepare_model`, then run again"
            ) from None
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{name} at {revision[:12]}: not downloaded ({type(error).__name__}: {reason}); check "
            f"the name, the revision and the network, or download it by other means and set source "
            f"to that folder"
        ) from None
    return Path(folder)


def open_tokenizer(folder: Path, family: str) -> Tokenizer:
    """The tokenizer of a prepared folder."""
    return load_tokenizer(model_folder(folder), family)


def vocabulary_files(tokenizer: str | None) -> list[Path]:
    """The files of the vocabulary that a model's `tokenizer:` names; [] for None."""
    if tokenizer is None:
        return []
    source = user_path(tokenizer)
    files = [source]
    if source.is_dir():
        files = sorted(path for pattern in VOCABULARY_FILES for path in source.glob(pattern))
    if not any(path.suffix == ".model" and path.is_file() for path in files):
        raise WeightsError(f"{source}: no vocabulary; expected ice_text.model or tokenizer.model")
    return files


def copy_vocabulary(folder: Path, target: Path) -> None:
    """Copy a prepared model's vocabulary, so that `target` is complete by itself."""
    for pattern in VOCABULARY_FILES:
        for path in model_folder(folder).glob(pattern):
            shutil.copyfile(path, target / path.name)
