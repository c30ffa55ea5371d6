"""Write a data set: the project's own sample, ADGEN, or a user's files checked and normalised.

Reads   nothing (--sample), a download (--adgen), or two files (--train, --dev)
Writes  OUT_DIR/train.jsonl, dev.jsonl, manifest.json (rows and SHA-256 of both), card.json (what
        the rows are like), left_out.jsonl (the number of every row left out, and why)

    python workflow/scripts/fetch_dataset.py --sample --train-rows 3000 --dev-rows 200 --seed 42 \
        --out-dir data/sample
    python workflow/scripts/fetch_dataset.py --train my_train.json --dev my_dev.json \
        --out-dir data/mine
    python workflow/scripts/fetch_dataset.py --adgen --out-dir data/adgen
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.data.formats import FORMATS, Columns
from glmtune.data.origins import Origin, from_adgen, from_files, from_sample
from glmtune.data.reading import ReadOptions
from glmtune.data.splits import DataSet, Subset, write_dataset
from glmtune.errors import run_script
from glmtune.locations import store_folder

# Chance repeats are rarer, and one file under two names is above it.
MAX_LEAKAGE = 0.05


def main() -> None:
    """Run one of the three uses."""
    flags = parse_flags()
    origin = read_origin(flags)
    dataset = write_dataset(
        flags.out_dir,
        origin.train,
        origin.dev,
        origin.source,
        subset=Subset(flags.max_train_rows, flags.max_dev_rows, flags.seed or 0),
        max_leakage=flags.max_leakage,
        licence=origin.licence,
    )
    report(flags.out_dir, dataset)


def read_origin(flags: argparse.Namespace) -> Origin:
    """The rows that the flags ask for."""
    if flags.sample:
        return from_sample(flags.train_rows, flags.dev_rows, flags.seed)
    columns = Columns(flags.prompt_column, flags.response_column, flags.history_column)
    options = ReadOptions(
        columns,
        flags.format,
        skip_bad_rows=flags.on_bad_rows == "skip",
        takes_tools=not flags.no_tools,
    )
    if flags.adgen:
        return from_adgen(store_folder(Path.cwd()) / "adgen", flags.adgen_source, options)
    return from_files(flags.train, flags.dev, options, flags.out_dir)


def report(folder: Path, dataset: DataSet) -> None:
    """Print what was written, and what a user should know about it."""
    train, dev = dataset.manifest["train"], dataset.manifest["dev"]
    print(f"{folder}: {train['rows']} train rows, {dev['rows']} dev rows")
    for split, entry in (("train", train), ("dev", dev)):
        if "skipped" in entry:
            skipped = entry["skipped"]
            first = f"{skipped['unit']} {', '.join(map(str, skipped['first']))}"
            listed = folder / "left_out.jsonl"
            print(f"{split}: dropped {skipped['rows']} unusable rows, first {first}; all: {listed}")
        for note, rows in entry.get("notes", {}).items():
            print(f"{split}: {rows} rows: {note}")
    leaking = dataset.card["leakage"]["pairs"]
    if leaking:
        seen = f"{leaking} of {dev['rows']} rows also appear in train"
        print(f"dev: {seen}; scores on them measure memorisation")


def parse_flags() -> argparse.Namespace:
    """The flags, with the three uses kept apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out-dir", type=Path, required=True, help="folder to write")
    add("--seed", type=int, help="seed of the sample and of random subsets")
    add("--max-train-rows", type=int, help="keep a random subset of this size; needs --seed")
    add("--max-dev-rows", type=int, help="the same for dev")
    add("--max-leakage", type=float, help=f"share of dev rows in train; default: {MAX_LEAKAGE}")
    add("--on-bad-rows", choices=("error", "skip"), default="error", help="skip: drop them")
    add = parser.add_argument_group("the project's own sample").add_argument
    add("--sample", action="store_true", help="write the synthetic data set")
    add("--train-rows", type=int, help="1 or more")
    add("--dev-rows", type=int, help="1 or more")
    add = parser.add_argument_group("AdvertiseGen").add_argument
    add("--adgen", action="store_true", help="download it, or use an earlier download")
    add("--adgen-source", action="append", default=[], help="URL or archive to try first")
    add = parser.add_argument_group("your own files (docs/data.md)").add_argument
    add("--train", type=own_path, help="JSON Lines, JSON, CSV or Parquet; text in UTF-8")
    add("--dev", type=own_path, help="the same, for scoring")
    add("--format", choices=list(FORMATS), help="default: recognised")
    add("--no-tools", action="store_true", help="for prompts without a place for tools")
    add("--prompt-column", help="default: recognised")
    add("--response-column", help="default: recognised")
    add("--history-column", help="default: history, if there is one")
    flags = parser.parse_args()
    check_flags(flags, parser)
    if flags.max_leakage is None:  # a user who gives one file twice means to
        flags.max_leakage = 1.0 if flags.train and flags.train == flags.dev else MAX_LEAKAGE
    return flags


def own_path(text: str) -> Path:
    """A user's file under the name that the user knows, where a link leads to it."""
    path = Path(text)
    return path.resolve() if path.is_symlink() else path


def check_flags(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Stop unless the flags describe exactly one use."""
    sizes = (flags.train_rows, flags.dev_rows)
    paths = (flags.train, flags.dev)
    subset = (flags.max_train_rows, flags.max_dev_rows)
    if flags.sample and (None in (*sizes, flags.seed) or paths != (None, None) or flags.adgen):
        parser.error("--sample takes --train-rows, --dev-rows and --seed, and no files")
    if not flags.sample and sizes != (None, None):
        parser.error("--train-rows and --dev-rows: only for --sample; else --max-train-rows")
    if flags.adgen and paths != (None, None):
        parser.error("--adgen takes no files; name local copies with --adgen-source")
    if not flags.sample and not flags.adgen and None in paths:
        parser.error("name both --train FILE and --dev FILE, or use --sample or --adgen")
    if any(number is not None and number < 1 for number in (*sizes, *subset)):
        parser.error("--train-rows and the other numbers of rows: expected 1 or more")
    if subset != (None, None) and flags.seed is None:
        parser.error("--max-train-rows and --max-dev-rows need --seed")
    if flags.max_leakage is not None and not 0 <= flags.max_leakage <= 1:
        parser.error("--max-leakage: expected a share from 0 to 1")


if __name__ == "__main__":
    run_script(main)
