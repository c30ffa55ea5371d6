"""AdvertiseGen (ADGEN), fetched from whichever place answers and used only if it is the original.

A place that gives anything else is named with what differs, and the next one is tried. What was
fetched stays in a folder of the caller's and is verified again at each use:

    <folder>/train.json, dev.json   the verified files
             AdvertiseGen.tar.gz    what a user puts here by hand: an archive, or both files
             partial/               what an interrupted download goes on from
             lock                   held by the process that fetches
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.data.adgen.archives import extract
from glmtune.data.adgen.downloading import download
from glmtune.data.adgen.identity import ADGEN, Identity, is_original, make_original
from glmtune.data.adgen.patience import Patience
from glmtune.errors import DataError
from glmtune.locations import user_path

# An address that ends in "/" is a folder with train.json and dev.json, any other an archive.
# The first and the last are THUDM's (ptuning/README.md of ChatGLM-6B), the last but two PaddleNLP's
# (columns src and tgt), the last but one EasyNLP's. What a mirror holds is verified.
SOURCES = (
    "https://cloud.tsinghua.edu.cn/f/b3f119a008264b1cabd1/?dl=1",
    "https://huggingface.co/datasets/shibing624/AdvertiseGen/resolve/main/",
    "https://hf-mirror.com/datasets/shibing624/AdvertiseGen/resolve/main/",
    "https://www.modelscope.cn/datasets/lvjianjin/AdvertiseGen/resolve/master/",
    "https://bj.bcebos.com/paddlenlp/datasets/examples/AdvertiseGen.tar.gz",
    "https://atp-modelzoo-sh.oss-cn-shanghai.aliyuncs.com/release/datasets/text_generation/"
    "advertisement_generation/AdvertiseGen.zip",
    "https://drive.google.com/uc?export=download&id=13_vf0xRTQsyneRKdD1bZIr93vBGOczrk",
)
ARCHIVE_NAMES = ("AdvertiseGen.tar.gz", "AdvertiseGen.tar", "AdvertiseGen.zip")
# Of one download and of what it unpacks to; some five times the real size (54 MB unpacked).
MOST_BYTES = 1 << 28

LICENCE = (
    "AdvertiseGen (Shao et al., EMNLP 2019; Tsinghua CoAI) is not part of this project. No licence "
    "comes with the archive, and mirrors state different ones (CC BY 4.0, CC BY-NC 4.0, none): "
    "whether your use is allowed is for you to settle."
)


@dataclass(frozen=True)
class AdgenFiles:
    """The verified files, JSON Lines of {"content", "summary"}."""

    train: Path
    dev: Path
    source: dict[str, Any]
    """For a manifest: what the files are, not where they came from."""


def fetch_adgen(
    folder: Path,
    *,
    sources: Sequence[str] | None = None,
    known: Sequence[str] = SOURCES,
    identity: Identity = ADGEN,
    patience: Patience | None = None,
) -> AdgenFiles:
    """The original train.json and dev.json in `folder`, fetched if they are not there yet.

    `sources` are tried before the `known` ones: addresses as in `SOURCES`, archives, folders.
    Raises one DataError that lists every place with what was wrong there.
    """
    folder = folder.resolve()
    with _alone(folder):
        if not all(is_original(folder / file.name, file) for file in identity.files):
            places = dict.fromkeys((*_left_by_hand(folder, identity), *(sources or ()), *known))
            _fetch_from_any(list(places), folder, identity, patience or Patience())
            shutil.rmtree(folder / "partial", ignore_errors=True)
    train, dev = identity.train, identity.dev
    facts = {
        "kind": "adgen",
        "train": {"rows": train.rows, train.algorithm: train.digest},
        "dev": {"rows": dev.rows, dev.algorithm: dev.digest},
    }
    return AdgenFiles(folder / train.name, folder / dev.name, facts)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch; the operating system lets go when that process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process fetches AdvertiseGen; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- trying the places ---------------------------------------------------------------------------


def _left_by_hand(folder: Path, identity: Identity) -> list[str]:
    """The folder itself, if somebody put an archive or files there."""
    names = (*ARCHIVE_NAMES, "AdvertiseGen", *(file.name for file in identity.files))
    return [str(folder)] if any((folder / name).exists() for name in names) else []


def _fetch_from_any(
    places: Sequence[str], folder: Path, identity: Identity, patience: Patience
) -> None:
    """Put both files into `folder` from the first place that has them."""
    failures = []
    for place in places:
        work = folder / "partial" / hashlib.sha256(place.encode()).hexdigest()[:12]
        work.mkdir(parents=True, exist_ok=True)
        print(f"AdvertiseGen: trying {place}", file=sys.stderr)
        try:
            _gather(place, work, identity, patience)
        except DataError as error:
            reason = str(error) if str(error).startswith(place) else f"{place}: {error}"
            print(f"AdvertiseGen: {reason}", file=sys.stderr)
            failures.append(reason)
            _keep_only_unfinished(work)
            continue
        for file in identity.files:
            os.replace(work / file.name, folder / file.name)
        return
    raise DataError(_nowhere(failures, folder, identity))


def _keep_only_unfinished(work: Path) -> None:
    """Remove what arrived whole and was wrong: the mirror may be mended by the next time."""
    for path in work.iterdir():
        if not path.name.endswith((".part", ".part.json")):
            path.unlink()
    if not any(work.iterdir()):
        work.rmdir()


def _nowhere(failures: Sequence[str], folder: Path, identity: Identity) -> str:
    wanted = " and ".join(f"{file.name} with {file.rows:,} rows" for file in identity.files[::-1])
    tried = "".join(f"\n  - {failure}" for failure in failures)
    return (
        f"dataset adgen: no place has the original AdvertiseGen ({wanted}):{tried}\n"
        f"By hand: download one of them with a browser, {SOURCES[0]} for instance, and put "
        f"AdvertiseGen.tar.gz, or train.json and dev.json, into {folder}, or name the place in "
        f"params.yaml, data: {{adgen_sources: [path/to/AdvertiseGen.tar.gz]}} (an archive, a "
        f"folder with both files, or an address). Then run the same command again; "
        f"interrupted downloads go on. Behind a proxy, set HTTPS_PROXY. To use another version of "
        f"the data: dataset: {{train: path/to/train.json, dev: path/to/dev.json}}"
    )


# --- one place -----------------------------------------------------------------------------------


def _gather(place: str, work: Path, identity: Identity, patience: Patience) -> None:
    """Put the two verified files of a place into `work`; DataError if it does not have them."""
    if "://" not in place:
        _gather_local(user_path(place), work, identity)
    elif place.endswith("/"):
        for file in identity.files:
            _download_once(place + file.name, work / file.name, patience)
            make_original(work / file.name, file, identity)
    else:
        archive = work / "archive"
        _download_once(place, archive, patience)
        try:
            _gather_local(archive, work, identity)
        except DataError as error:  # a user knows the file by its address
            raise DataError(f"{place}: {str(error).removeprefix(f'{archive}: ')}") from None


def _download_once(url: str, target: Path, patience: Patience) -> None:
    # It is there if the program was killed just after; it is verified like a new one.
    if not target.is_file():
        download(url, target, most_bytes=MOST_BYTES, patience=patience)


def _gather_local(path: Path, work: Path, identity: Identity) -> None:
    """The same from an archive, or from a folder with the files or the archive in it."""
    names = [file.name for file in identity.files]
    holder = _find(path, names)
    if holder.is_dir():
        for name in names:
            shutil.copyfile(holder / name, work / name)
    else:
        extract(holder, names, work / "unpacked")
        for name in names:
            os.replace(work / "unpacked" / name, work / name)
        (work / "unpacked").rmdir()
    for file in identity.files:
        make_original(work / file.name, file, identity)


def _find(path: Path, names: Sequence[str]) -> Path:
    """What a local path means: a folder that has the files themselves, or an archive."""
    if path.is_file():
        return path
    for folder in (path, path / "AdvertiseGen"):
        if all((folder / name).is_file() for name in names):
            return folder
    for name in ARCHIVE_NAMES:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise DataError(f"{path}: expected {' and '.join(names)}, or {ARCHIVE_NAMES[0]}, in it")
    raise DataError(f"{path}: no such file or folder; expected an archive or a folder")
