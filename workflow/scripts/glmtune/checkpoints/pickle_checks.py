"""What a pickle of plain tensors could still do: take all memory, or for ever.

torch's reader of plain tensors runs no code, but it makes bytearrays of any size, and it hashes
tuples that hold each other twice, which doubles the time at each level. No weights need either.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from glmtune.errors import WeightsError

# The arguments of a tensor hold its storage and its shape.
MOST_NESTED = 20
# torch before 1.6: magic number, protocol, system, weights, keys; then the numbers themselves.
PICKLES_OF_OLD_FILES = 5


def check_pickle(path: Path) -> None:
    """WeightsError for a pickle that asks for what no weights need.

    Raises whatever the readers of zip files and pickles raise about damaged bytes.
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
    depths: dict[Any, int] = {}  # number in the pickle's memory -> levels of tuples
    deepest = 0  # of what was taken from there since something was last put there
    is_tuple = False
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if isinstance(argument, str) and argument.split(" ")[-1] == "bytearray":
            raise WeightsError(f"{path}: asks for a bytearray; expected a file of plain tensors")
        if name.endswith("GET"):
            deepest = max(deepest, depths.get(argument, 0))
        elif name.endswith("PUT") or name == "MEMOIZE":
            number = len(depths) if name == "MEMOIZE" else argument
            depths[number] = deepest + 1 if is_tuple else 0
            deepest = 0
            if depths[number] > MOST_NESTED:
                raise WeightsError(
                    f"{path}: tuples in {MOST_NESTED} levels; expected a file of plain tensors"
                )
        is_tuple = name.startswith("TUPLE")
