"""Fetches AdvertiseGen (ADGEN) from the first source that has the original.

Mirrors may silently differ: train.json is a copy of dev.json, or rows are missing. A source with
other content is reported, and the next one is tried. Fetched files stay in the caller's folder and
are verified again at each use.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.data.adgen.archives import read_members
from glmtune.data.rows import shorten
from glmtune.downloading import download
from glmtune.errors import DataError
from glmtune.files import atomic_path, locked
from glmtune.locations import user_path

# A URL that ends in "/" is a folder with train.json and dev.json; any other is an archive.
# The first and the last are THUDM's (ptuning/README.md of ChatGLM-6B), the third to last is
# PaddleNLP's (columns src and tgt), the second to last EasyNLP's. All content is verified.
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
ARCHIVE = "AdvertiseGen.tar.gz"
LICENCE = (
    "AdvertiseGen (Shao et al., EMNLP 2019; Tsinghua CoAI) is not part of this project. Its "
    "archive contains no license, and mirrors state different ones (CC BY 4.0, CC BY-NC 4.0, "
    "none): check whether your use is allowed."
)


@dataclass(frozen=True)
class KnownFile:
    """The facts that identify an original file."""

    name: str
    rows: int
    algorithm: str
    """`sha256`, or `git_blob`: the SHA-1 that `git hash-object` prints."""
    digest: str

    def is_in(self, content: bytes) -> bool:
        """Whether these bytes are the file."""
        if self.algorithm == "git_blob":
            # Git's hash predates the break of SHA-1; no second-preimage attack is known.
            blob = b"blob %d\0" % len(content) + content
            return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.digest
        return hashlib.new(self.algorithm, content).hexdigest() == self.digest


DEV_SHA256 = "96b63cfd9fd0faca122a5747597f46ff835f19d9b1d3634f4b71f8a5f9487cc1"
# For train.json, only the git hash is known from several sources. The small file comes first: it
# reveals a wrong mirror before the large one is downloaded.
ADGEN = (
    KnownFile("dev.json", 1_070, "sha256", DEV_SHA256),
    KnownFile("train.json", 114_599, "git_blob", "45a137ea5034e4cd0ec37c25ce21a9cf2b4f396a"),
)


@dataclass(frozen=True)
class AdgenFiles:
    """The verified files, JSON Lines of {"content", "summary"}."""

    train: Path
    dev: Path
    source: dict[str, Any]  # for a manifest: what the files are, not where they came from


def fetch_adgen(
    folder: Path,
    *,
    sources: Sequence[str] = (),
    known: Sequence[str] = SOURCES,
    files: Sequence[KnownFile] = ADGEN,
) -> AdgenFiles:
    """Return the original train.json and dev.json in `folder`, fetching them if missing.

    Files that a user put into `folder` are tried first, then `sources` (URLs as in `SOURCES`,
    archives, folders), then the `known` ones. Raises one DataError that lists all failures.
    """
    folder = folder.resolve()
    paths = {file.name: folder / file.name for file in files}
    with locked(folder, "fetches AdvertiseGen"):
        if not all(paths[f.name].is_file() and f.is_in(paths[f.name].read_bytes()) for f in files):
            by_hand = [str(folder) for name in (ARCHIVE, *paths) if (folder / name).exists()]
            contents = _fetch_from_any([*by_hand, *sources, *known], folder, files)
            for name, content in contents.items():
                with atomic_path(paths[name]) as temporary:
                    temporary.write_bytes(content)
    facts = {f.name.removesuffix(".json"): {"rows": f.rows, f.algorithm: f.digest} for f in files}
    return AdgenFiles(paths["train.json"], paths["dev.json"], {"kind": "adgen", **facts})


def _fetch_from_any(
    places: Sequence[str], folder: Path, files: Sequence[KnownFile]
) -> dict[str, bytes]:
    """The contents of both files from the first source that has them."""
    failures = ""
    for place in dict.fromkeys(places):
        print(f"AdvertiseGen: trying {place}", file=sys.stderr)
        try:
            contents = zip(files, _read_place(place, [file.name for file in files]), strict=True)
            return {file.name: _verified_original(content, file) for file, content in contents}
        except (DataError, OSError) as error:
            print(f"AdvertiseGen: {place}: {error}", file=sys.stderr)
            failures += f"\n  - {place}: {error}"
    wanted = " and ".join(f"{file.name} with {file.rows:,} rows" for file in reversed(files))
    raise DataError(
        f"dataset adgen: no source has the original AdvertiseGen ({wanted}):{failures}\n"
        f"By hand: download one of them with a browser, for instance {SOURCES[0]}, and put "
        f"{ARCHIVE}, or train.json and dev.json, into {folder}, or name the source in "
        f"params.yaml, data: {{adgen_sources: [path/to/{ARCHIVE}]}} (an archive, a "
        f"folder with both files, or a URL). Then run the same command again. "
        f"Behind a proxy, set HTTPS_PROXY. To use another version of the data: "
        f"dataset: {{train: path/to/train.json, dev: path/to/dev.json}}"
    )


def _read_place(place: str, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the content of each named file of a source, fetched on demand."""
    path = user_path(place)
    if place.endswith("/") and "://" in place:
        yield from (download(place + name) for name in names)
    elif all((path / name).is_file() for name in names):
        yield from ((path / name).read_bytes() for name in names)
    else:
        local = path / ARCHIVE if path.is_dir() else path
        members = read_members(download(place) if "://" in place else local.read_bytes(), names)
        yield from (members[name] for name in names)


def _verified_original(content: bytes, file: KnownFile) -> bytes:
    """Return the original content, even if line endings or column names differ."""
    unix = content.replace(b"\r\n", b"\n")
    for candidate in (content, unix, _with_original_columns(unix)):
        if file.is_in(candidate):
            return candidate
    first, rows = content.partition(b"\n")[0].decode(errors="replace"), content.count(b"\n")
    raise DataError(
        f"{file.name}: a different file with {rows:,} lines, beginning '{shorten(first)}'; "
        f"expected {file.rows:,} lines with the {file.algorithm} hash {file.digest[:12]}…"
    )


def _with_original_columns(content: bytes) -> bytes:
    """Rename PaddleNLP's src and tgt to content and summary, serialized like the original."""
    try:
        rows = (json.loads(line) for line in content.split(b"\n") if line)
        renamed = ({"content": row["src"], "summary": row["tgt"]} for row in rows)
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in renamed)
    except (ValueError, LookupError, TypeError, RecursionError):
        return content
    return text.encode("utf-8", "surrogatepass")
