"""What a run with nothing to do costs, as the number of jobs grows.

    python tools/bench_noop.py [--jobs 40 400 4000] [--repeats 3]

For each size: a copy of the project whose `methods:` are a sweep of lr x pre_seq_len, tuned with
two seeds; its outputs are made up, and `snakemake --touch` records them as made, which takes
minutes for thousands. Prints CPU seconds and peak memory of the best repeat as a table, and asserts
nothing.
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
from bench_costs import Cost, cheapest, environment, print_head, print_row
from run_smoke import copy_project

SEEDS = [42, 43]
# Of any size: fetch, report; prepare and tokenise the model; generate and score it untuned.
JOBS_WITHOUT_TUNING, JOBS_OF_A_TUNING = 6, 3
FILES = {".csv", ".html", ".json", ".jsonl", ".md", ".safetensors", ".svg"}
COMMANDS = ("snakemake -n", "snakemake", "dvc repro")
SHUFFLED = "`snakemake -n`, every file with another time"


def main() -> None:
    """Read the flags, measure each size, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, nargs="+", default=[40, 400, 4000])
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    print_head(["jobs", *(f"`{command}`" for command in COMMANDS), SHUFFLED])
    for jobs in flags.jobs:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder)
            jobs = make_workspace(workspace, jobs)
            print_row([jobs, *costs_of_nothing(workspace, flags.repeats)])


def costs_of_nothing(workspace: Path, repeats: int) -> list[Cost]:
    """What each command costs where nothing is left to do."""
    costs = [cheapest(repeats, command.split(), workspace) for command in COMMANDS]
    shuffle_times(workspace)
    return [*costs, cheapest(1, COMMANDS[0].split(), workspace)]


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


def run(command: str, folder: Path) -> str:
    """Run a command line with the environment of this Python; its output."""
    identity = {
        f"GIT_{who}_{what}": "bench@example.invalid"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment() | identity,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{shlex.quote(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
