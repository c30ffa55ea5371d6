"""AdvertiseGen (ADGEN), fetched from whichever place answers and used only if it is the original.

A place that gives anything else is named with what differs, and the next one is tried. What was
fetched stays in a folder of the caller's and is verified again at each use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtune.data.adgen.downloading import download, read_members
from glmtune.data.adgen.identity import ADGEN, KnownFile, make_original
from glmtune.errors import DataError
from glmtune.files import atomic_path, locked
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
ARCHIVE = "AdvertiseGen.tar.gz"
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
    source: dict[str, Any]  # for a manifest: what the files are, not where they came from


def fetch_adgen(
    folder: Path,
    *,
    sources: Sequence[str] = (),
    known: Sequence[str] = SOURCES,
    files: Sequence[KnownFile] = ADGEN,
) -> AdgenFiles:
    """The original train.json and dev.json in `folder`, fetched if they are not there yet.

    `sources` are tried before the `known` ones: addresses as in `SOURCES`, archives, folders; and
    before them what a user put into `folder` by hand. Raises one DataError with all that is wrong.
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
    """Both contents from the first place that has them."""
    failures = ""
    for place in dict.fromkeys(places):
        print(f"AdvertiseGen: trying {place}", file=sys.stderr)
        try:
            contents = zip(files, _contents(place, [file.name for file in files]), strict=True)
            return {file.name: make_original(content, file, files) for file, content in contents}
        except (DataError, OSError) as error:
            print(f"AdvertiseGen: {place}: {error}", file=sys.stderr)
            failures += f"\n  - {place}: {error}"
    wanted = " and ".join(f"{file.name} with {file.rows:,} rows" for file in reversed(files))
    raise DataError(
        f"dataset adgen: no place has the original AdvertiseGen ({wanted}):{failures}\n"
        f"By hand: download one of them with a browser, {SOURCES[0]} for instance, and put "
        f"{ARCHIVE}, or train.json and dev.json, into {folder}, or name the place in "
        f"params.yaml, data: {{adgen_sources: [path/to/{ARCHIVE}]}} (an archive, a "
        f"folder with both files, or an address). Then run the same command again. "
        f"Behind a proxy, set HTTPS_PROXY. To use another version of the data: "
        f"dataset: {{train: path/to/train.json, dev: path/to/dev.json}}"
    )


def _contents(place: str, names: Sequence[str]) -> Iterator[bytes]:
    """What the place has under each name, fetched when it is asked for."""
    path = user_path(place)
    if place.endswith("/") and "://" in place:
        yield from (download(place + name) for name in names)
    elif all((path / name).is_file() for name in names):
        yield from ((path / name).read_bytes() for name in names)
    else:
        local = path / ARCHIVE if path.is_dir() else path
        members = read_members(download(place) if "://" in place else local.read_bytes(), names)
        yield from (members[name] for name in names)
