"""Run the numeric tests as other CPUs would: with the kernels of older instruction sets.

    python tools/run_numeric_tests.py [pytest flags]

PyTorch, MKL and oneDNN choose kernels by the CPU's instruction sets; each set adds products in
another order, so every number differs in its last digits. Tests that hold under all of them hold
on any x86-64 CPU. Another architecture has no such variables: the tests run once, as they are.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
KERNELS = {
    "default": {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"MKL_CBWR": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}


def main() -> int:
    """Run pytest once a capability; 1 if any run failed."""
    failed = [name for name in capabilities() if run_tests(name, sys.argv[1:])]
    if failed:
        print(f"numeric tests failed with the kernels of: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def capabilities() -> list[str]:
    """The capabilities of this CPU, oldest first: what it has includes all before it."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    if platform.machine() != "x86_64" or own not in KERNELS:
        return [own]
    names = list(KERNELS)
    return names[: names.index(own) + 1]


def run_tests(capability: str, flags: list[str]) -> int:
    """Pytest's exit code with the kernels of a capability."""
    print(f"== numeric tests with the kernels of {capability}", flush=True)
    chosen = (
        {"ATEN_CPU_CAPABILITY": capability, **KERNELS[capability]} if capability in KERNELS else {}
    )
    command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow", "-q", *flags]
    return subprocess.run(command, cwd=ROOT, env=os.environ | chosen, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
