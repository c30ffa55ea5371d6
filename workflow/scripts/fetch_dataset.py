"""Write a data set: the project's own sample, or a user's files checked and normalised.

Reads:  nothing (--sample), or two files in ADGEN's format (--train, --dev)
Writes: OUT_DIR/train.jsonl, OUT_DIR/dev.jsonl, OUT_DIR/manifest.json (rows and SHA-256 of both)

    python workflow/scripts/fetch_dataset.py --sample --train-rows 3000 --dev-rows 200 --seed 42 \
        --out-dir data/sample
    python workflow/scripts/fetch_dataset.py --train my_train.json --dev my_dev.json \
        --out-dir data/mine
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.data import Columns, read_rows, write_dataset
from glmtune.errors import ParamsError, run_script
from glmtune.grammar import sample_rows


def main() -> None:
    """Run one of the two uses."""
    flags = parse_flags()
    if flags.sample:
        train, dev = sample_rows(flags.train_rows, flags.dev_rows, flags.seed)
        source = {"kind": "sample", "seed": flags.seed}
    else:
        refuse_to_overwrite(flags.out_dir, (flags.train, flags.dev))
        columns = Columns(flags.prompt_column, flags.response_column)
        train, dev = read_rows(flags.train, columns), read_rows(flags.dev, columns)
        source = {"kind": "files", "format": "adgen"}
    write_dataset(flags.out_dir, train, dev, source)
    print(f"{flags.out_dir}: {len(train)} train rows, {len(dev)} dev rows")


def parse_flags() -> argparse.Namespace:
    """The flags, with the two uses kept apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    sample = parser.add_argument_group("the project's own sample")
    sample.add_argument("--sample", action="store_true", help="write the synthetic data set")
    sample.add_argument("--train-rows", type=int, help="1 or more")
    sample.add_argument("--dev-rows", type=int, help="1 or more")
    sample.add_argument("--seed", type=int, help="another seed draws other rows")
    files = parser.add_argument_group("your own files")
    files.add_argument("--train", type=Path, help="JSON Lines or a JSON array, UTF-8")
    files.add_argument("--dev", type=Path, help="the same, to score on")
    files.add_argument("--prompt-column", default="content", help="default: content")
    files.add_argument("--response-column", default="summary", help="default: summary")
    flags = parser.parse_args()
    check_flags(flags, parser)
    return flags


def check_flags(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Stop unless the flags describe exactly one use."""
    numbers = (flags.train_rows, flags.dev_rows, flags.seed)
    paths = (flags.train, flags.dev)
    if flags.sample and (None in numbers or paths != (None, None)):
        parser.error("--sample takes --train-rows, --dev-rows and --seed, and no files")
    if flags.sample and min(flags.train_rows, flags.dev_rows) < 1:
        parser.error("--train-rows and --dev-rows: expected 1 or more")
    if not flags.sample and (None in paths or numbers != (None, None, None)):
        parser.error("name both --train FILE and --dev FILE, or use --sample")


def refuse_to_overwrite(out_dir: Path, inputs: tuple[Path, ...]) -> None:
    """Raise ParamsError where a user's own file would be replaced by the normalised one."""
    for path in inputs:
        if path.resolve() in {(out_dir / name).resolve() for name in ("train.jsonl", "dev.jsonl")}:
            raise ParamsError(
                f"--out-dir {out_dir}: would overwrite your file {path}; expected another folder; "
                "choose one that does not hold your data"
            )


if __name__ == "__main__":
    run_script(main)
