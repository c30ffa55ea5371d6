"""Rows a second and peak memory of tokenising a data set of AdvertiseGen's size.

    python tools/bench_tokenising.py --vocabulary chatglm2-6b=FILE.model [--rows 114599]
        [--workers 1] [--data train.jsonl]

Writes rows of the project's own grammar, two ads joined to one so that they are as long as ADGEN's,
or repeats the rows of `--data`; encodes them in a process of its own, a quarter of them first: the
memory must not grow with the rows. Prints figures and asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from glmtune.errors import run_script
from glmtune.families.registry import get_family
from glmtune.files import read_jsonl, write_jsonl
from glmtune.steps.tokenizing import Encoder, encode_file
from glmtune.synthetic.grammar import sample_rows

ADGEN_ROWS = 114_599  # the training rows of AdvertiseGen
LIMITS = (64, 128)  # THUDM's train.sh for ChatGLM2-6B


def main() -> None:
    """Read the flags, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", nargs="+", required=True, metavar="FAMILY=FILE")
    parser.add_argument("--rows", type=int, default=ADGEN_ROWS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path, help="JSON Lines with content and summary to repeat")
    flags = parser.parse_args()
    rows = read_jsonl(flags.data) if flags.data else joined_rows()
    with tempfile.TemporaryDirectory() as folder:
        for count in (flags.rows // 4, flags.rows):
            source = Path(folder) / "rows.jsonl"
            write_jsonl(source, islice(cycle(rows), count))
            for entry in flags.vocabulary:
                family, _, file = entry.partition("=")
                model = folder_with(Path(file), family, Path(folder))
                encoder = Encoder(model, family, None, *LIMITS, "official")
                print(json.dumps(measure(encoder, source, count, flags.workers)), flush=True)


def folder_with(vocabulary: Path, family: str, parent: Path) -> Path:
    """A model folder that has nothing but the vocabulary."""
    folder = parent / family
    folder.mkdir(exist_ok=True)
    shutil.copyfile(vocabulary, folder / get_family(family).tokenizer_class.file_name)
    return folder


def joined_rows(count: int = 4000) -> list[dict[str, Any]]:
    """Rows of the grammar, each of two."""
    rows, _ = sample_rows(2 * count, 1, seed=1)
    return [
        {
            "content": one["content"] + "*" + two["content"],
            "summary": one["summary"] + two["summary"],
        }
        for one, two in zip(rows[:count], rows[count:], strict=True)
    ]


def measure(encoder: Encoder, source: Path, rows: int, workers: int) -> dict[str, Any]:
    """What one encoding takes, in a process of its own: peak memory never falls again."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_encode, args=(queue, encoder, source, rows, workers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{encoder.family}: exit code {process.exitcode}")
    return {"family": encoder.family, "rows": rows, "workers": workers, **queue.get()}


def _encode(queue: Any, encoder: Encoder, source: Path, rows: int, workers: int) -> None:
    start = time.perf_counter()
    summary = encode_file(
        encoder, source, source.with_suffix(".safetensors"), rows=rows, workers=workers
    )
    seconds = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    queue.put(
        {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(sum((*own[:2], *children[:2])), 2),
            "rows_per_second": round(rows / seconds),
            "tokens": summary["tokens"],
            "peak_mib": round(own.ru_maxrss / 1024),
            "largest_worker_mib": round(children.ru_maxrss / 1024),
        }
    )


if __name__ == "__main__":
    run_script(main)
