"""Machines with GPUs, pretended by a program `nvidia-smi` that lists them."""

from __future__ import annotations

import os
from pathlib import Path

TWO_CARDS = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaaaaaa-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbbbbbb-1111-1111-1111-111111111111)
"""
A, B = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-1111-1111-1111-111111111111")


def machine_with(gpus: str, folder: Path, visible: str | None = None) -> dict[str, str]:
    """The environment of a process on a machine whose `nvidia-smi -L` prints `gpus`.

    Its locks are in `folder`, too; `visible` is CUDA_VISIBLE_DEVICES.
    """
    program = folder / "nvidia-smi"
    if not program.exists():
        program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {folder}/listed\n')
        program.chmod(0o755)
    (folder / "listed").write_text(gpus)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    environment = {"PATH": path, "TMPDIR": str(folder)}
    return environment if visible is None else environment | {"CUDA_VISIBLE_DEVICES": visible}
