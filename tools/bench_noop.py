"""How long a run with nothing to do takes, as the number of steps grows.

    python tools/bench_noop.py [--jobs 40 200 400] [--repeats 3]

For each size: a copy of the project whose `methods:` are a sweep of lr x pre_seq_len, tuned with
two seeds; its outputs are made up, and `snakemake --touch` records them as made. Prints the best of
the repeats as a table, in seconds, and asserts nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from run_smoke import copy_project

SEEDS = [42, 43]
# Of any size: fetch, report; prepare and tokenise the model; generate and score it untuned.
JOBS_WITHOUT_TUNING, JOBS_OF_A_TUNING = 6, 3
FILES = {".csv", ".html", ".json", ".jsonl", ".md", ".safetensors", ".svg"}
COMMANDS = ("snakemake -n", "snakemake", "dvc repro")


def main() -> None:
    """Read the flags, measure each size, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, nargs="+", default=[40, 200, 400])
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    columns = [*COMMANDS, "snakemake -n, every file with another time"]
    print(f"| jobs | {' | '.join(columns)} |\n|---:|{'---:|' * len(columns)}", flush=True)
    for jobs in flags.jobs:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder)
            jobs = make_workspace(workspace, jobs)
            times = [best_of(flags.repeats, command, workspace) for command in COMMANDS]
            shuffle_times(workspace)
            times.append(best_of(1, COMMANDS[0], workspace))
        print(f"| {jobs} | {' | '.join(f'{seconds:.1f}' for seconds in times)} |", flush=True)


def make_workspace(folder: Path, jobs: int) -> int:
    """A workspace of about `jobs` jobs, all done and recorded; returns their exact number."""
    copy_project(folder, preset="smoke")
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    tunings = max(1, round((jobs - JOBS_WITHOUT_TUNING) / JOBS_OF_A_TUNING / len(SEEDS)))
    params |= {
        "models": {"chatglm2-6b": {"source": "miniature"}},
        "methods": {"none": {}, **sweep(tunings)},
        "seeds": SEEDS,
    }
    text = yaml.safe_dump(params, allow_unicode=True, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    run("git init -q && dvc init -q && git add -A && git commit -q -m project", folder)
    for line in run("snakemake --summary", folder).splitlines()[1:]:
        make_up(folder / line.split("\t")[0])
    run("snakemake --touch --forceall", folder)
    return JOBS_WITHOUT_TUNING + JOBS_OF_A_TUNING * len(SEEDS) * tunings


def sweep(count: int) -> dict[str, dict[str, Any]]:
    """`count` entries of `methods:`, each with values of its own."""
    rates, lengths = (0.005, 0.01, 0.02, 0.05), itertools.count(1)
    pairs = ((length, rate) for length in lengths for rate in rates)
    return {
        f"ptuning-{length}-{index}": {
            "method": "ptuning",
            "lr": rate,
            "pre_seq_len": length,
            "prefix_projection": True,
            "prefix_dropout": 0.1,
        }
        for index, (length, rate) in enumerate(itertools.islice(pairs, count))
    }


def make_up(output: Path) -> None:
    """An output that nobody reads: Snakemake and DVC look at its bytes only."""
    if output.suffix not in FILES:  # a folder
        output /= "model.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"made up: {output}\n" * 1000)


def shuffle_times(folder: Path) -> None:
    """Times as after a checkout or a pull: any order, so that contents have to be compared."""
    paths = [path for name in ("data", "results") for path in (folder / name).rglob("*.*")]
    random.Random(0).shuffle(paths)
    for seconds, path in enumerate(paths):
        os.utime(path, (time.time() - seconds,) * 2)


def best_of(repeats: int, command: str, folder: Path) -> float:
    """The shortest of some times, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(command, folder)
        times.append(time.perf_counter() - start)
    return min(times)


def run(command: str, folder: Path) -> str:
    """Run a command line with the environment of this Python; its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    identity = {
        f"GIT_{who}_{what}": "bench@example.invalid"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | identity | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{shlex.quote(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
