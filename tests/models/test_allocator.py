"""A training keeps the memory that it frees, unless the user has told glibc otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import psutil, torch
from glmtune.training.allocator import keep_freed_memory
keep_freed_memory()
before = psutil.Process().memory_info().rss
block = torch.ones(25 << 20)  # 100 MiB
del block
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
@pytest.mark.parametrize(
    "own", [None, "MALLOC_MMAP_MAX_=65536", "GLIBC_TUNABLES=glibc.malloc.mmap_max=65536"]
)
def test_a_freed_block_stays_unless_the_user_says_otherwise(own: str | None) -> None:
    environment = {
        k: v for k, v in os.environ.items() if k[:7] != "MALLOC_" and k != "GLIBC_TUNABLES"
    }
    if own is not None:
        name, _, value = own.partition("=")
        environment[name] = value
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    kept = int(done.stdout) > 50 << 20
    assert kept == (own is None)
