"""Find, fetch and identify the files of a model, without torch.

A prepared model is a folder. A miniature's folder holds the model itself; that of any other source
holds `location.json`, so that gigabytes are neither copied nor put under version control:

    {"folder": "../weights/chatglm2-6b"}               a local folder, as params.yaml names it
    {"hub": "owner/name", "revision": "<40 digits>"}   a downloaded snapshot in the hub's cache
    {"modelscope": "owner/name", "revision": "v1.0"}   a download below weights/modelscope
    {"random": {config values}, "seed": 42}            rebuilt at each opening; vocabulary here
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glmtune.content_hashes import hash_files
from glmtune.errors import WeightsError, first_line
from glmtune.families.loading import load_tokenizer
from glmtune.families.tokenizers import Tokenizer
from glmtune.files import read_json
from glmtune.locations import MODELSCOPE, kind_of_source, user_path

LOCATION = "location.json"
VOCABULARY_FILES = ("*.model", "tokenizer.json", "tokenizer_config.json")
MODEL_FILES = ("config.json", "pytorch_model*.bin*", "model*.safetensors*", *VOCABULARY_FILES)


def model_files(folder: Path) -> list[Path]:
    """The model's files in a folder: config, weights, vocabulary; sorted."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def fingerprint(source: str, tokenizer: str | None = None) -> dict[str, str]:
    """`{file name: SHA-256}` of a local source; when it changes, its results are computed again.

    `source` and `tokenizer` are keys of an entry of `models:`. Raises WeightsError if the folder
    does not exist.
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
    """Refuse a prepared model whose files do not match its manifest, before and after its use.

    Raises WeightsError, also for files replaced during the enclosed work: its result would not
    belong to the model that the manifest names.
    """
    check_model(folder, manifest)
    yield
    check_model(folder, manifest)


def check_model(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the files of a prepared model match its manifest."""
    fix = "restore it, or run `snakemake` again, which starts from the current files"
    _check(model_folder(folder), hash_model(folder), manifest["files"], fix)


def check_checkpoint(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the files of a checkpoint match its training's manifest."""
    # Snakemake keeps the time of a folder in a hidden file.
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
            f"with config.json, weights and a vocabulary, or `miniature`, `random`, a hub id, or "
            f"{MODELSCOPE}owner/name"
        )
    return folder


def read_location(folder: Path) -> dict[str, Any]:
    """The content of `location.json`; `{}` for a folder that holds the model itself."""
    file = folder / LOCATION
    return read_json(file) if file.is_file() else {}


def model_folder(folder: Path) -> Path:
    """The folder with the model's files: `folder` itself, or where its `location.json` points."""
    location = read_location(folder)
    if "folder" in location:
        found = user_path(location["folder"])
    elif "hub" in location:
        found = hub_snapshot(location["hub"], location["revision"], local_only=True)
    elif "modelscope" in location:
        name, revision = location["modelscope"], location["revision"]
        found = modelscope_folder(name, revision)
        if not found.is_dir():
            raise _not_here(f"{name} at {revision}: not in {found}")
    else:
        found = folder
    if not found.is_dir():
        raise WeightsError(f"{found}: no such folder; expected a model with config and weights")
    return found


def modelscope_folder(name: str, revision: str) -> Path:
    """Where a model from ModelScope is, or is downloaded to: below the repository's `weights/`."""
    return user_path(f"weights/modelscope/{name}/{revision}")


def hub_snapshot(name: str, revision: str, *, local_only: bool = False) -> Path:
    """The folder of a hub model at a commit, downloaded if needed.

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
    except Exception as error:  # the library's own, HTTP and operating system errors
        if "No space left" in str(error):
            raise
        if local_only:
            where = "not in this machine's hub cache"
            raise _not_here(f"{name} at {revision[:12]}: {where}") from None
        raise WeightsError(
            f"{name} at {revision[:12]}: download failed ({type(error).__name__}: "
            f"{first_line(error)}); check the name, the revision and the network, or download it "
            f"another way and set source to that folder"
        ) from None
    return Path(folder)


def _not_here(found: str) -> WeightsError:
    """After `dvc pull`, which brings the results without the weights."""
    return WeightsError(
        f"{found}; fetch it with `snakemake --forcerun prepare_model --until prepare_model`, then "
        "run again"
    )


def open_tokenizer(folder: Path, family: str) -> Tokenizer:
    """Load the tokenizer of a prepared folder."""
    return load_tokenizer(model_folder(folder), family)


def vocabulary_files(tokenizer: str | None) -> list[Path]:
    """The vocabulary files that a model's `tokenizer:` names; [] for None."""
    if tokenizer is None:
        return []
    source = user_path(tokenizer)
    files = [source]
    if source.is_dir():
        files = sorted(path for pattern in VOCABULARY_FILES for path in source.glob(pattern))
    if not any(is_vocabulary(path) and path.is_file() for path in files):
        raise WeightsError(
            f"{source}: no vocabulary; expected ice_text.model, tokenizer.model or tokenizer.json"
        )
    return files


def is_vocabulary(path: Path) -> bool:
    """Whether a file has a vocabulary's name."""
    return path.suffix == ".model" or path.name == "tokenizer.json"


def copy_vocabulary(folder: Path, target: Path) -> None:
    """Copy a prepared model's vocabulary, so that `target` is self-contained."""
    for pattern in VOCABULARY_FILES:
        for path in model_folder(folder).glob(pattern):
            shutil.copyfile(path, target / path.name)
