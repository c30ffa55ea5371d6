"""The sites that publish models: how each lists a repository's files, with sizes and hashes.

A repository is `owner/name`. Only files that a model is made of are listed, never code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from glmtune.checkpoints.sources import MODEL_FILES
from glmtune.downloading import download, download_pages
from glmtune.errors import DataError, ParamsError
from glmtune.locations import PLAIN_NAME

COMMIT = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
# The types of entries that are no files, on the Hugging Face Hub and on ModelScope.
FOLDERS = ("directory", "tree")


@dataclass(frozen=True)
class RemoteFile:
    """A file as a site states it."""

    name: str
    size: int
    """In bytes."""
    algorithm: str
    """`sha256`, or `git_blob`: the SHA-1 that `git hash-object` prints."""
    digest: str

    def is_in(self, path: Path) -> bool:
        """Whether a local file has this content."""
        if path.stat().st_size != self.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, self._hasher).hexdigest() == self.digest

    def _hasher(self) -> Any:
        if self.algorithm == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """The files of a model at a revision."""

    repository: str
    revision: str
    """On the Hugging Face Hub a commit; on ModelScope what was asked for."""
    files: list[RemoteFile]


@dataclass(frozen=True)
class Protocol:
    """How sites of a kind are asked."""

    owner: str
    """Who publishes ChatGLM there."""
    revision: str
    """What is downloaded unless a revision is named."""
    list_files: Callable[[str, str, str], Listing]
    """Of (base URL, repository, revision); DataError for an answer that cannot be used."""
    file_path: str
    """Path of a file's contents, with {repository}, {revision} and {name}."""


@dataclass(frozen=True)
class Site:
    """A site; an environment variable may name another base URL for it."""

    url: str
    variable: str
    protocol: str

    @property
    def base(self) -> str:
        """The URL that every address begins with."""
        return (os.environ.get(self.variable) or self.url).rstrip("/")

    def repository(self, model: str) -> str:
        """`owner/name` of a model; a name alone is one of the publisher's."""
        return model if "/" in model else f"{PROTOCOLS[self.protocol].owner}/{model}"

    def list_files(self, model: str, revision: str | None) -> Listing:
        """The files of a model, weights in one format only.

        Raises DataError for a site that cannot be reached, answers nonsense, or has no such model.
        """
        protocol = PROTOCOLS[self.protocol]
        repository = self.repository(model)
        found = protocol.list_files(self.base, repository, revision or protocol.revision)
        files = _without_second_format(found.files)
        if not any(file.name.startswith(WEIGHTS) for file in files):
            raise DataError(f"{repository} has no model*.safetensors and no pytorch_model*.bin")
        return Listing(found.repository, found.revision, files)

    def file_url(self, listing: Listing, file: RemoteFile) -> str:
        """Where a file's contents are."""
        path = PROTOCOLS[self.protocol].file_path.format(
            repository=listing.repository, revision=quote(listing.revision, ""), name=file.name
        )
        return f"{self.base}/{path}"


WEIGHTS = ("model", "pytorch_model")


def _without_second_format(files: list[RemoteFile]) -> list[RemoteFile]:
    """Leave out pickles where the same weights are there as safetensors."""
    if not any(file.name.endswith(".safetensors") for file in files):
        return files
    return [file for file in files if not file.name.startswith("pytorch_model")]


def _list_hugging_face(base: str, repository: str, revision: str) -> Listing:
    about = f"{base}/api/models/{repository}"
    commit = _json(download(f"{about}/revision/{quote(revision, '')}")).get("sha")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise DataError(f"no commit of 40 hexadecimal digits for revision {revision}")
    pages = download_pages(f"{about}/tree/{commit}")
    entries = [entry for page in pages for entry in _json(page, list)]
    return Listing(repository, commit, list(_read(entries, _of_hugging_face)))


def _of_hugging_face(entry: dict[str, Any]) -> RemoteFile:
    if large := entry.get("lfs"):
        return RemoteFile(entry["path"], large["size"], "sha256", large["oid"])
    return RemoteFile(entry["path"], entry["size"], "git_blob", entry["oid"])


def _list_modelscope(base: str, repository: str, revision: str) -> Listing:
    url = f"{base}/api/v1/models/{repository}/repo/files?Revision={quote(revision, '')}"
    data = _json(download(url)).get("Data")
    entries = data.get("Files", ()) if isinstance(data, dict) else ()
    if entries is None:  # with HTTP 200, as if all were well
        raise DataError(f"no revision {revision}")
    if not isinstance(entries, list):
        raise DataError("no list of files in the answer")
    return Listing(repository, revision, list(_read(entries, _of_modelscope)))


def _of_modelscope(entry: dict[str, Any]) -> RemoteFile:
    return RemoteFile(entry["Path"], entry["Size"], "sha256", entry["Sha256"])


def _json(content: bytes, kind: type = dict) -> Any:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise DataError("the answer is not JSON: a login page, or another kind of site") from None
    if not isinstance(answer, kind):
        raise DataError(f"found {type(answer).__name__} in the answer; expected {kind.__name__}")
    return answer


def _read(entries: list[Any], read: Callable[[dict[str, Any]], RemoteFile]) -> Iterator[RemoteFile]:
    """The files of a model among a list; a file without size and hash is none that we accept."""
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("type", entry.get("Type")) in FOLDERS:
            continue
        name = entry.get("path", entry.get("Path"))
        if not isinstance(name, str) or not _is_of_model(name):
            continue
        try:
            file = read(entry)
        except (KeyError, TypeError):
            raise DataError(f"no size or no hash for {name} in the list of files") from None
        wanted = SHA256 if file.algorithm == "sha256" else COMMIT
        is_hash = isinstance(file.digest, str) and wanted.fullmatch(file.digest)
        if type(file.size) is not int or file.size < 0 or not is_hash:
            raise DataError(f"no size or no hash for {name} in the list of files")
        yield file


def _is_of_model(name: str) -> bool:
    is_plain = PLAIN_NAME.fullmatch(name) is not None  # so it is in the top folder
    return is_plain and any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


# Each after its site's documentation and clients.
PROTOCOLS = {
    "hugging-face": Protocol(
        owner="THUDM",
        revision="main",
        list_files=_list_hugging_face,
        file_path="{repository}/resolve/{revision}/{name}",
    ),
    "modelscope": Protocol(
        owner="ZhipuAI",
        revision="master",
        list_files=_list_modelscope,
        file_path="api/v1/models/{repository}/repo?Revision={revision}&FilePath={name}",
    ),
}
# In the order in which they are tried.
SITES = {
    "huggingface": Site("https://huggingface.co", "HF_ENDPOINT", "hugging-face"),
    "hf-mirror": Site("https://hf-mirror.com", "HF_MIRROR_ENDPOINT", "hugging-face"),
    "modelscope": Site("https://www.modelscope.cn", "MODELSCOPE_ENDPOINT", "modelscope"),
}


def check_model(model: str) -> None:
    """Raise ParamsError for what is neither a name nor `owner/name`."""
    *owner, name = model.split("/")
    if len(owner) > 1 or not all(map(PLAIN_NAME.fullmatch, (*owner, name))):
        raise ParamsError(
            f"found {model[:100]!r}; expected a name such as chatglm3-6b-base, or owner/name"
        )
