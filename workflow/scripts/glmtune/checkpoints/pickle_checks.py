"""Refuse pickles of plain tensors that would exhaust memory or never finish loading.

torch's reader of plain tensors runs no code, but it creates bytearrays of any size, and it hashes
nested tuples: if each contains the one below it twice, every level doubles the time. No weights
need either.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from glmtune.errors import WeightsError

# Levels of tuples: a tensor's arguments only nest its storage and its shape.
MOST_NESTED = 20
# torch before 1.6: magic number, protocol, system, weights, keys; then the raw values.
PICKLES_OF_OLD_FILES = 5


def check_pickle(path: Path) -> None:
    """Raise WeightsError for a pickle that requests what no weights need.

    For corrupt files it raises whatever the readers of zip files and pickles raise.
    """
    for stream in _pickles(path):
        _check(path, stream)


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as stream:
                        yield stream
        return
    with path.open("rb") as stream:
        for _ in range(PICKLES_OF_OLD_FILES):
            yield stream  # reading one leaves the stream at the next


def _check(path: Path, stream: IO[bytes]) -> None:
    depths: dict[Any, int] = {}  # index in the pickle's memo -> levels of tuples
    deepest = 0  # of the entries read from the memo since the last one was stored
    is_tuple = False
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if isinstance(argument, str) and argument.split(" ")[-1] == "bytearray":
            raise WeightsError(f"{path}: found a bytearray; expected a file of plain tensors")
        if name.endswith("GET"):
            deepest = max(deepest, depths.get(argument, 0))
        elif name.endswith("PUT") or name == "MEMOIZE":
            number = len(depths) if name == "MEMOIZE" else argument
            depths[number] = deepest + 1 if is_tuple else 0
            deepest = 0
            if depths[number] > MOST_NESTED:
                raise WeightsError(
                    f"{path}: found tuples nested more than {MOST_NESTED} levels deep; expected a "
                    "file of plain tensors"
                )
        is_tuple = name.startswith("TUPLE")
