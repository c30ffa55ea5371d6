"""What hashing a model's weights costs: the first time, and when they have not changed since.

    python tools/bench_hashing.py [--gigabytes 12] [--files 7]

The files are sparse, in a temporary folder: they take no room on the disk, and reading them takes
no time of the disk. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from bench_costs import cost_of, print_head, print_row

from glmtune.content_hashes import TICK_NS
from glmtune.errors import run_script

HASH = """
import sys
from pathlib import Path
from glmtune.content_hashes import hash_files

hash_files(map(Path, sys.argv[1:]), Path("store"))
"""


def main() -> None:
    """Read the flags, make the files, hash them twice, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=12)
    parser.add_argument("--files", type=int, default=7, help="as ChatGLM2-6B's")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"pytorch_model-{index}.bin" for index in range(flags.files)]
        for name in names:
            with (Path(folder) / name).open("wb") as file:
                os.truncate(file.fileno(), int(flags.gigabytes * 1e9 / flags.files))
        time.sleep(1.1 * TICK_NS / 1e9)  # the hash of a file just written is not remembered
        print_head(["hashing", "CPU s", "peak MiB"])
        for title, files in (("nothing", []), ("first", names), ("again", names)):
            cost = cost_of(["python", "-c", HASH, *files], Path(folder))
            print_row([title, f"{cost.cpu:.2f}", f"{cost.peak:.0f}"])


if __name__ == "__main__":
    run_script(main)
