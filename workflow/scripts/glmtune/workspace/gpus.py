"""One GPU for each process that computes: found, leased, and free again when the process ends.

Snakemake counts the jobs that use a GPU but gives them none in particular. So the process itself
locks a file of the machine that is named after the card. The lock is the operating system's: it
ends with the process, however that ends, and lasts as long as a training that outlives Snakemake.
It is seen by every run on the machine with the same folder for temporary files.

CUDA reads CUDA_VISIBLE_DEVICES when it is first used, so a lease comes before that.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from glmtune.errors import ResourceError

VISIBLE = "CUDA_VISIBLE_DEVICES"
# A line of `nvidia-smi -L`; the MIG devices of a card follow it, indented.
LISTED = re.compile(r"(?P<kind>GPU|MIG) .*\(UUID: (?P<uuid>[^)]+)\)")
SECONDS_BETWEEN_TRIES = 1.0


def visible_gpus() -> list[str]:
    """The UUIDs of the GPUs that a job may use, `[]` without any.

    These are the cards of `nvidia-smi -L`, or the MIG devices of a card that is split, and only
    those of CUDA_VISIBLE_DEVICES where it is set: by number in nvidia-smi's order, or by the
    beginning of a UUID.

    Raises ResourceError for a card in CUDA_VISIBLE_DEVICES that is not there.
    """
    cards = _installed_cards()
    wanted = os.environ.get(VISIBLE)
    if wanted is None or not cards:
        return [device for devices in cards.values() for device in devices]
    found: dict[str, None] = {}
    for name in map(str.strip, wanted.split(",")):
        if name in ("", "-1", "NoDevFiles"):  # the end of the list, for CUDA as well
            break
        found |= dict.fromkeys(_devices_named(name, cards))
    return list(found)


def lease_gpu() -> str | None:
    """Hold a GPU that no other run holds, and let CUDA see it alone; its UUID, None without GPUs.

    It is held until this process ends, since CUDA holds memory on it as long. Waits while other
    runs hold all of them. Raises what `visible_gpus` does.
    """
    gpus = visible_gpus()
    if not gpus:
        return None
    gpu = _wait_for_one(gpus)
    os.environ[VISIBLE] = gpu
    print(f"GPU: {gpu}", file=sys.stderr)
    return gpu


def _installed_cards() -> dict[str, list[str]]:
    """Of each card, by UUID, what a process can use: the card itself, or its MIG devices."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:  # no driver here
        return {}
    cards: dict[str, list[str]] = {}
    for line in LISTED.finditer(done.stdout if done.returncode == 0 else ""):
        if line["kind"] == "GPU":
            card = line["uuid"]
            cards[card] = []
        else:
            cards[card].append(line["uuid"])
    return {card: devices or [card] for card, devices in cards.items()}


def _devices_named(name: str, cards: Mapping[str, list[str]]) -> list[str]:
    """What one entry of CUDA_VISIBLE_DEVICES means."""
    if name.isdecimal() and int(name) < len(cards):
        return list(cards.values())[int(name)]
    named = [devices for card, devices in cards.items() if card.startswith(name)]
    named += [[uuid] for devices in cards.values() for uuid in devices if uuid.startswith(name)]
    if name.isdecimal() or not named:
        raise ResourceError(
            f"{VISIBLE}: found {name!r}; expected numbers from 0 to {len(cards) - 1} or UUIDs, as "
            "`nvidia-smi -L` lists them; correct it, or `unset CUDA_VISIBLE_DEVICES` to use all"
        )
    return named[0]


def _wait_for_one(gpus: Sequence[str]) -> str:
    """Hold the first of these GPUs that is free, as soon as one is."""
    if gpu := next(filter(_hold, gpus), None):
        return gpu
    print(f"other runs hold all {len(gpus)} GPUs; waiting for one", file=sys.stderr)
    while not (gpu := next(filter(_hold, gpus), None)):
        time.sleep(SECONDS_BETWEEN_TRIES)
    return gpu


def _hold(gpu: str) -> bool:
    """Lock the file of a GPU unless another process holds it; left open, it stays locked."""
    file = os.open(_lock_file(gpu), os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True


def _lock_file(gpu: str) -> Path:
    """The file of a GPU, made if need be; every user of the machine can read and so lock it."""
    folder = Path(tempfile.gettempdir(), "glmtune-gpus")
    path = folder / gpu.replace("/", "_")  # older drivers have slashes in the names of MIG devices
    if not path.exists():
        with suppress(FileExistsError):  # of another run, just now
            folder.mkdir()
            folder.chmod(0o1777)
        with suppress(FileExistsError):
            path.touch(0o644, exist_ok=False)
            path.chmod(0o644)
    return path
