"""Remove results from the store: all of them, the oldest until few enough remain, or old ones.

python tools/clean_store.py [--keep 20GB] [--age 30d]

A file that results/ shares with the store by a hard link takes its place on the disk until both are
gone. Results that a running step uses stay.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from glmtune.errors import ParamsError, run_script, shown_name  # noqa: E402
from glmtune.locations import store_folder  # noqa: E402

BYTES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BYTES |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SECONDS = {"H": 3600, "D": 86400, "W": 7 * 86400}
# Folders of the store that hold no results; `adgen` is the download, one entry.
OWNERS, HASHES, DOWNLOAD = "owners", "hashes", "adgen"


@dataclass(frozen=True)
class Stored:
    """A result in the store: its folder, its bytes on the disk, when a step last asked for it."""

    folder: Path
    size: int
    last_used: float


@dataclass(frozen=True)
class Cleaned:
    """What was found in the store, and what of it was removed or is in use."""

    found: list[Stored]
    removed: list[Stored]
    in_use: list[Stored]

    def __str__(self) -> str:
        left = [stored for stored in self.found if stored not in self.removed]
        used = f"; {len(self.in_use)} not removed: a running step uses them" if self.in_use else ""
        removed, found = _size(self.removed), _size(self.found)
        return f"removed {removed} of {found}; {_size(left)} left{used}"


def clean(store: Path, keep: float | None = None, age: float | None = None) -> Cleaned:
    """Remove what was not asked for in `age` seconds, then the oldest until `keep` bytes are left.

    Without both, everything. Never a result that a running step uses.
    """
    everything = keep is None and age is None
    oldest = time.time() - (age or 0)
    removed, in_use = [], []
    with _no_step_begins(store):
        found = sorted(_stored(store), key=lambda stored: stored.last_used)
        left = sum(stored.size for stored in found)
        claimed = _first_living_claim(store)
        for stored in found:
            is_old = age is not None and stored.last_used < oldest
            if not (everything or is_old or (keep is not None and left > keep)):
                continue
            if stored.last_used < claimed and _remove(stored.folder):
                removed.append(stored)
                left -= stored.size
            else:
                in_use.append(stored)
    if everything:
        shutil.rmtree(store / HASHES, ignore_errors=True)
    return Cleaned(found, removed, in_use)


def _stored(store: Path) -> Iterator[Stored]:
    folders = [store / DOWNLOAD]
    if store.is_dir():
        folders += store.glob("*/" + 32 * "[0-9a-f]")
    for folder in folders:
        lock = folder / "lock"
        # Opened for writing by each step that asks for the result, which sets its time.
        if lock.is_file() and folder.parent.name != OWNERS:
            size = _bytes_of(folder)
            if size or any(path != lock for path in folder.iterdir()):
                yield Stored(folder, size, lock.stat().st_mtime)


def _bytes_of(folder: Path) -> int:
    """Bytes on the disk, a file with several names once."""
    found = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
    return sum({status.st_ino: 512 * status.st_blocks for status in found}.values())


@contextmanager
def _no_step_begins(store: Path) -> Iterator[None]:
    """Hold the lock under which steps claim their outputs and put results there (store.py)."""
    owners = store / OWNERS
    if not owners.is_dir():
        yield
        return
    with (owners / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_living_claim(store: Path) -> float:
    """When the first step that still runs began; what was asked for since then may be in use."""
    claims = [path for path in (store / OWNERS).glob("*") if path.name != "lock"]
    living = [path.stat().st_mtime for path in claims if _is_alive(path.read_text().split())]
    return min(living, default=float("inf"))


def _is_alive(claim: list[str]) -> bool:
    """Whether the process of a claim, `<process id> <random digits>`, runs on this machine."""
    try:
        os.kill(int(claim[0]), 0)
    except (IndexError, ValueError, ProcessLookupError):
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def _remove(folder: Path) -> bool:
    """Empty an entry unless a process holds it. Its lock stays: a process may wait for it."""
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (folder / "contents.json").unlink(missing_ok=True)  # from now on it counts as unfinished
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    return True


def parse(flag: str, text: str, units: Mapping[str, float], example: str) -> float:
    """A number with a unit, e.g. "20GB" -> 2e10. Raises ParamsError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*?)B?", text.strip().upper(), re.ASCII)
    if not match or match[2] not in units:
        known = ", ".join(unit.lower() for unit in units if unit)
        raise ParamsError(
            f"{flag}: found {shown_name(text)!r}; expected a number with one of the units {known}; "
            f"write e.g. {flag}={example}"
        )
    return float(match[1]) * units[match[2]]


def _size(results: list[Stored]) -> str:
    size = sum(stored.size for stored in results)
    return f"{len(results)} results ({size / 1e9:.2f} GB)"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", default="", help="remove the oldest until this is left: 20GB")
    parser.add_argument("--age", default="", help="remove what was unused for this long: 30d")
    flags = parser.parse_args()
    keep = parse("KEEP", flags.keep, BYTES, "20GB") if flags.keep else None
    age = parse("AGE", flags.age, SECONDS, "30d") if flags.age else None
    store = store_folder(ROOT)
    print(f"{store}: {clean(store, keep, age)}")


if __name__ == "__main__":
    run_script(main)
