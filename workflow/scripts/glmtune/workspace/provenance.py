"""How a result was computed: time, memory, versions, hardware, git commit.

It differs from run to run, so it must not be in a file that another step depends on.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glmtune.files import write_json

# Packages whose version can change a number, and all that are recorded.
DECIDING_PACKAGES = ("torch", "transformers", "peft", "accelerate", "sentencepiece", "bitsandbytes")
PACKAGES = (*DECIDING_PACKAGES, "deepspeed", "snakemake", "dvc")

# They choose the kernels of matrix products and element-wise operations on a CPU.
KERNEL_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE"),
)


@contextmanager
def recorded_runtime(path: Path | None) -> Iterator[dict[str, Any]]:
    """Measure the enclosed work and write it to `path`; the yielded dict takes further figures.

    Its `earlier_seconds`, those of killed processes that this one resumes, are added to the time.
    Without a path nothing is written.
    """
    figures: dict[str, Any] = {}
    start = time.perf_counter()
    yield figures
    seconds = time.perf_counter() - start + figures.pop("earlier_seconds", 0.0)
    runtime = {
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak_memory_mib()),
        "hardware": describe_hardware(),
        **describe_arithmetic(),
        "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
        "git_commit": git_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if path is not None:
        write_json(path, runtime | figures)


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed, without importing them."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_hardware() -> str:
    """The processor and its cores, e.g. `x86_64, 2 cores`; with the GPU's name if torch has one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor_name()}, {os.cpu_count()} cores"


def describe_arithmetic() -> dict[str, Any]:
    """What decides the order in which the CPU adds, and so the last digits of every number.

    Example: {"cpu_capability": "AVX2", "blas": "MKL", "torch_threads": 1}, and the variables that
    choose kernels, where they are set; nothing without torch.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    chosen = {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": blas[1].upper() if blas else "unknown",
        "torch_threads": torch.get_num_threads(),
        **({"kernel_variables": chosen} if chosen else {}),
    }


def git_commit() -> str | None:
    """The commit of the code, `+dirty` when files differ from it; None outside a repository."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+dirty" if _git(folder, "status", "--porcelain", "-uno") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def peak_memory_mib() -> float:
    """Peak memory in MiB: allocated on the GPU if one is used, else resident in RAM."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
