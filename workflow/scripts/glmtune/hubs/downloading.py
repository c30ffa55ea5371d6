"""Downloads a model into a folder: resumed after a kill, verified, and recorded.

    <folder>/config.json, …     the model's files, each complete and verified
             download.json      where they are from, their SHA-256, whether these are all
             .download/         files that are not complete yet

A file counts only with the content that its site states: SHA-256 of large files, and for small
ones on the Hugging Face Hub git's hash. What was recorded once is compared ever after.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glmtune.checkpoints.weight_files import weight_files
from glmtune.content_hashes import hash_files
from glmtune.downloading import open_url, pieces_of
from glmtune.errors import DataError, ResourceError, WeightsError
from glmtune.files import locked, read_json, write_json
from glmtune.hubs.sites import Listing, RemoteFile, Site

RECORD, PARTS = "download.json", ".download"
# A connection that breaks is opened again as long as each brings this much.
PROGRESS_BYTES = 1 << 20
TRIES, BACKOFF_S = 3, 1.0


class _RefusedError(DataError):
    """A site answered that it does not give a file."""


@dataclass(frozen=True)
class _Task:
    """A model's files, and the sites that have them, in order."""

    listing: Listing
    sites: Mapping[str, Site]
    folder: Path


def download_model(
    model: str, folder: Path, sites: Mapping[str, Site], revision: str | None = None
) -> Listing:
    """Download a model's files that `folder` lacks, and verify all of them.

    `sites` are tried in order; a folder stays with the repository and revision it began with.
    Raises WeightsError if no site has the model or its files are not what was stated or recorded,
    ResourceError if the disk is too small.
    """
    with locked(folder / PARTS, "downloads into this folder"):
        try:
            listing = _download(model, folder, sites, revision)
        except BaseException:
            _remove_if_empty(folder)
            raise
        shutil.rmtree(folder / PARTS)
    return listing


def is_complete(folder: Path) -> bool:
    """Whether a download has ended, and its files are those that were recorded; asks no site."""
    record = _read_record(folder / RECORD) or {}
    files = {folder / name: digest for name, digest in record.get("files", {}).items()}
    is_there = record.get("complete") is True and all(path.is_file() for path in files)
    return is_there and hash_files(files) == files


def _download(model: str, folder: Path, sites: Mapping[str, Site], revision: str | None) -> Listing:
    record = _read_record(folder / RECORD)
    task = _find(model, folder, _same_kind(sites, record, folder), revision, record)
    record = record or _record_of(task)
    missing = [file for file in task.listing.files if not _has(task.folder, file, record)]
    _check_disk(folder, missing)
    write_json(folder / RECORD, record)
    for file in missing:
        _fetch(task, file).replace(folder / file.name)
        _remember(folder, file, record)
    weight_files(folder)  # an index may name files that the repository lacks
    write_json(folder / RECORD, record | {"complete": True})
    return task.listing


def _remove_if_empty(folder: Path) -> None:
    """Remove what a failed download made before anything arrived."""
    if not any(_size(part) > 0 for part in (folder / PARTS).iterdir()):
        shutil.rmtree(folder / PARTS)
        if not any(folder.iterdir()):
            folder.rmdir()


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record, texts = read_json(path), ("repository", "revision", "protocol")
    is_record = isinstance(record, dict) and isinstance(record.get("files"), dict)
    if not is_record or not all(isinstance(record.get(key), str) for key in texts):
        raise WeightsError(f"{path}: not the record of a download; remove it and run again")
    return dict(record)


def _same_kind(
    sites: Mapping[str, Site], record: Mapping[str, Any] | None, folder: Path
) -> Mapping[str, Site]:
    """The sites that have the repository which a folder began with."""
    if record is None:
        return sites
    same = {name: site for name, site in sites.items() if site.protocol == record["protocol"]}
    if not same:
        raise WeightsError(
            f"{folder / RECORD}: found {record['repository']} of another kind of site "
            f"({record['protocol']}); expected {' or '.join(sites)}; choose another folder (--out)"
        )
    return same


def _find(
    model: str,
    folder: Path,
    sites: Mapping[str, Site],
    revision: str | None,
    record: Mapping[str, Any] | None,
) -> _Task:
    """The model's files, as the first site that has it lists them."""
    failures = []
    for name, site in sites.items():
        try:
            if record and site.repository(model) != record["repository"]:
                raise _other(folder, record, site.repository(model))
            wanted = revision or (record["revision"] if record else None)
            listing = site.list_files(model, wanted)
        except DataError as error:
            failures.append(f"{name} ({site.base}): {error}")
            continue
        if record and listing.revision != record["revision"]:
            raise _other(folder, record, f"revision {listing.revision}")
        size = sum(file.size for file in listing.files)
        print(
            f"{listing.repository} at {listing.revision[:12]} from {name}: "
            f"{len(listing.files)} files, {size / 1e9:.1f} GB",
            file=sys.stderr,
        )
        return _Task(listing, _alike(sites, site), folder)
    others = "--from chooses a site, and HF_ENDPOINT names a mirror of the hub"
    if len(sites) == 1:
        others = f"{site.variable} names another address of the site"
    raise WeightsError(
        f"{model}: {_text(failures)}check the name, the revision and the network; behind a proxy, "
        f"set HTTPS_PROXY; {others}"
    )


def _text(failures: list[str]) -> str:
    """What the sites answered: one in its sentence, several in lines of their own."""
    if len(failures) == 1:
        return f"{failures[0]}; "
    return "\n  - ".join(["no site gave it:", *failures]) + "\n"


def _other(folder: Path, record: Mapping[str, Any], found: str) -> WeightsError:
    return WeightsError(
        f"{folder / RECORD}: records {record['repository']} at {record['revision']}; found "
        f"{found}; choose another folder (--out), or remove this one to replace what it holds"
    )


def _alike(sites: Mapping[str, Site], chosen: Site) -> dict[str, Site]:
    """The chosen site, then the others that have the same commits."""
    alike = [(name, site) for name, site in sites.items() if site.protocol == chosen.protocol]
    return dict(sorted(alike, key=lambda pair: pair[1] is not chosen))


def _record_of(task: _Task) -> dict[str, Any]:
    (site, *_) = task.sites.values()
    about = {"repository": task.listing.repository, "revision": task.listing.revision}
    return {**about, "protocol": site.protocol, "files": {}}


def _has(folder: Path, file: RemoteFile, record: dict[str, Any]) -> bool:
    """Whether a file is there already, as it was recorded and is stated.

    Raises WeightsError for a local file, or a statement, that is another.
    """
    path, known = folder / file.name, record["files"].get(file.name)
    if known and file.algorithm == "sha256" and known != file.digest:
        raise WeightsError(
            f"{folder / RECORD}: records {file.name} with SHA-256 {known[:12]}…; the site now "
            f"states {file.digest[:12]}… for the same revision; a branch or tag can move, a commit "
            "cannot; do not use it before you know why"
        )
    if not path.is_file():
        return False
    if not _is_in(file, path) or (known and hash_files([path])[path] != known):
        raise WeightsError(
            f"{path}: found another content than {file.digest[:12]}…, which its site states "
            f"({file.algorithm}); remove it to download it again"
        )
    _remember(folder, file, record)
    return True


def _is_in(file: RemoteFile, path: Path) -> bool:
    """As `RemoteFile.is_in`, but a large file that did not change is not read again."""
    if file.algorithm == "sha256":
        return path.stat().st_size == file.size and hash_files([path])[path] == file.digest
    return file.is_in(path)


def _remember(folder: Path, file: RemoteFile, record: dict[str, Any]) -> None:
    path, is_sha256 = folder / file.name, file.algorithm == "sha256"
    record["files"][file.name] = file.digest if is_sha256 else hash_files([path])[path]
    write_json(folder / RECORD, record)


def _check_disk(folder: Path, files: list[RemoteFile]) -> None:
    here = [folder / PARTS / file.name for file in files]
    started = sum(part.stat().st_size for part in here if part.is_file())
    needed = sum(file.size for file in files) - started
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{folder}: {needed / 1e9:.1f} GB are still to be downloaded, {free / 1e9:.1f} GB are "
            "free; free some space, or use a folder on another disk (--out, or a link in its place)"
        )


def _fetch(task: _Task, file: RemoteFile) -> Path:
    """The complete and verified file, from the first site that has it."""
    part, failures = task.folder / PARTS / file.name, []
    for name, site in task.sites.items():
        try:
            _complete(site.file_url(task.listing, file), file, part)
            return part
        except DataError as error:
            print(f"{file.name}: {name}: {error}", file=sys.stderr)
            failures.append(f"{name} ({site.base}): {error}")
    raise WeightsError(
        f"{task.folder / file.name}: {_text(failures)}run the same command again: what has arrived "
        "is kept"
    )


def _complete(url: str, file: RemoteFile, part: Path) -> None:
    """Download what `part` lacks; DataError if it cannot be had or is not what was stated."""
    failures = 0
    while _size(part) != file.size:
        before = _size(part)
        try:
            _append(url, file, part)
        except _RefusedError:  # the next site is more promising
            raise
        except DataError:
            failures = 0 if _size(part) >= before + PROGRESS_BYTES else failures + 1
            if failures == TRIES:
                raise
            time.sleep(BACKOFF_S)
    if not file.is_in(part):
        part.unlink()
        raise DataError(
            f"{file.size:,} bytes arrived, but not those whose {file.algorithm} hash "
            f"{file.digest[:12]}… is stated; removed them"
        )


def _append(url: str, file: RemoteFile, part: Path) -> None:
    start = max(0, _size(part))
    headers = {"Range": f"bytes={start}-"} if start else {}
    with open_url(url, headers) as response:
        if response.status_code not in (200, 206):
            reason = f"HTTP {response.status_code} {response.reason}"
            if response.status_code == 416:  # what has arrived is no beginning of this file
                part.unlink(missing_ok=True)
                raise DataError(reason)
            raise _RefusedError(reason)
        # ModelScope answers a range with status 200, and Content-Range says that it is one.
        sent = response.headers.get("Content-Range")
        goes_on = response.status_code == 206 or sent is not None
        if goes_on and not (sent or "").startswith(f"bytes {start}-"):
            raise DataError("the site sent another part of the file than was asked for")
        size = start if goes_on else 0  # a site without ranges sends all of it again
        with (
            part.open("ab" if goes_on else "wb") as out,
            tqdm(total=file.size, initial=size, desc=file.name, unit="B", unit_scale=True) as bar,
        ):
            for piece in pieces_of(response.raw):
                size += len(piece)
                if size > file.size:
                    out.truncate(0)
                    raise DataError(f"more than the {file.size:,} bytes that are stated")
                out.write(piece)
                bar.update(len(piece))
    if size < file.size:
        raise DataError(f"the connection ended after {size:,} of {file.size:,} bytes")


def _size(part: Path) -> int:
    """Bytes that have arrived; -1 without the file, since a file may be empty."""
    return part.stat().st_size if part.is_file() else -1
