"""The GPUs of a job: found, leased, and free again when its process ends.

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
from random import SystemRandom
from typing import Literal

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


def lease_gpus(wanted: int | Literal["all"] = 1) -> list[str]:
    """Hold GPUs that no other run holds, and let CUDA see only them; their UUIDs, [] without GPUs.

    They are held until this process ends, since CUDA holds memory on them as long. Waits while
    other runs hold them. Raises what `visible_gpus` does, and ResourceError if there are too few.
    """
    gpus = visible_gpus()
    if not gpus:
        return []
    count = len(gpus) if wanted == "all" else wanted
    if count > len(gpus):
        raise ResourceError(
            f"params.yaml: launcher.processes: found {count}; expected at most {len(gpus)}, the "
            "GPUs that this job may use, or all; lower it, check CUDA_VISIBLE_DEVICES, or have the "
            f"cluster give the job more (--set-resources finetune_model:gpu={count})"
        )
    if count > 1 and any(gpu.startswith("MIG-") for gpu in gpus):
        raise ResourceError(
            f"params.yaml: launcher.processes: found {wanted}; expected 1, because a training "
            "cannot use several MIG devices; set it to 1, or use whole cards"
        )
    held = _wait_for(gpus, count)
    os.environ[VISIBLE] = ",".join(held)
    print(f"GPU: {', '.join(held)}", file=sys.stderr)
    return held


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


def _wait_for(gpus: Sequence[str], count: int) -> list[str]:
    """Hold the first `count` of these GPUs that are free, as soon as there are enough."""
    has_said = False
    while len(held := _hold(gpus, count)) < count:
        if not has_said:
            print(f"other runs hold GPUs; waiting for {count} of {len(gpus)}", file=sys.stderr)
            has_said = True
        time.sleep(SECONDS_BETWEEN_TRIES * (1 + SystemRandom().random()))  # not in step with others
    return held


def _hold(gpus: Sequence[str], count: int) -> list[str]:
    """Lock the files of the first `count` GPUs that are free; of none if there are fewer.

    Left open, a file stays locked.
    """
    files: dict[str, int] = {}
    for gpu in gpus:
        if len(files) == count:
            break
        file = os.open(_lock_file(gpu), os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files[gpu] = file
        except BlockingIOError:
            os.close(file)
    if len(files) < count:
        for file in files.values():
            os.close(file)
        return []
    return list(files)


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
