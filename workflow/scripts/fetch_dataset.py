"""Write a data set: the project's own sample, ADGEN, or a user's files checked and normalised.

Reads   nothing (--sample), a download (--adgen), or files (--train, --mix, --dev, --valid)
Writes  OUT_DIR/train.jsonl, dev.jsonl, with --valid or --valid-share valid.jsonl, manifest.json
        (rows and SHA-256 of each), card.json (what the rows are like), left_out.jsonl (the number
        of every row left out, and why)

    python workflow/scripts/fetch_dataset.py --sample --train-rows 3000 --dev-rows 200 --seed 42 \
        --out-dir data/sample
    python workflow/scripts/fetch_dataset.py --train my_train.json --dev my_dev.json \
        --out-dir data/mine
    python workflow/scripts/fetch_dataset.py --train my.json --dev-share 0.1 \
        --mix general.json --share 0.2 --seed 42 --out-dir data/mixed
    python workflow/scripts/fetch_dataset.py --adgen --out-dir data/adgen
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glmtune.data.formats import FORMATS, Columns
from glmtune.data.origins import Opener, Request, Source, from_parts
from glmtune.data.reading import ReadOptions
from glmtune.data.splits import DataSet, Subset, write_dataset
from glmtune.errors import run_script
from glmtune.locations import ADGEN, OWN_DATA, SAMPLE, store_folder

# Chance repeats are rarer, and one file under two names is above it.
MAX_LEAKAGE = 0.05


def main() -> None:
    """Run one of the uses."""
    flags = parse_flags()
    origin = from_parts(request(flags), opener(flags), flags.out_dir)
    dataset = write_dataset(
        flags.out_dir,
        origin.train,
        origin.dev,
        origin.source,
        valid=origin.valid,
        subset=Subset(flags.max_train_rows, flags.max_dev_rows, flags.seed or 0),
        max_leakage=flags.max_leakage,
        licence=origin.licence,
    )
    report(flags.out_dir, dataset)


def request(flags: argparse.Namespace) -> Request:
    """What the flags ask for."""
    if flags.sample or flags.adgen:
        name = SAMPLE if flags.sample else ADGEN
        return Request((name,), name)
    mixed = zip(flags.mix, flags.share, strict=True)
    dev = flags.dev or flags.dev_share
    return Request(flags.train, dev, flags.valid or flags.valid_share, tuple(mixed))


def opener(flags: argparse.Namespace) -> Opener:
    """How the files are read, and what the project's own sources need."""
    columns = Columns(flags.prompt_column, flags.response_column, flags.history_column)
    return Opener(
        ReadOptions(
            columns,
            flags.format,
            skip_bad_rows=flags.on_bad_rows == "skip",
            takes_tools=not flags.no_tools,
        ),
        seed=flags.seed or 0,
        train_rows=flags.train_rows or 0,
        dev_rows=flags.dev_rows or 0,
        adgen_folder=store_folder(Path.cwd()) / "adgen",
        adgen_sources=flags.adgen_source,
    )


def report(folder: Path, dataset: DataSet) -> None:
    """Print what was written, and what a user should know about it."""
    splits = {name: entry for name, entry in dataset.manifest.items() if name != "source"}
    counts = ", ".join(f"{entry['rows']} {name} rows" for name, entry in splits.items())
    print(f"{folder}: {counts}")
    for split, entry in splits.items():
        for part in (entry, *entry.get("parts", ())):
            for line in notes_on(part, folder):
                print(f"{split}: {line}")
    leaking, rows = dataset.card["leakage"]["pairs"], splits["dev"]["rows"]
    if leaking:
        seen = f"{leaking} of {rows} rows also appear in train"
        print(f"dev: {seen}; scores on them measure memorisation")


def notes_on(part: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What a user should know about a split or one of its parts."""
    if "share" in part:
        rows, of = part["rows"], part["chosen_from"]["rows"]
        repeated = f", each {rows / of:.1f} times on average" if rows > of else ""
        yield f"mixed in {rows} rows, a share of {part['share']:g}, of {of}{repeated}"
    if "skipped" in part:
        skipped = part["skipped"]
        first = f"{skipped['unit']} {', '.join(map(str, skipped['first']))}"
        listed = folder / "left_out.jsonl"
        yield f"dropped {skipped['rows']} unusable rows, first {first}; all: {listed}"
    for note, rows in part.get("notes", {}).items():
        yield f"{rows} rows: {note}"


def parse_flags() -> argparse.Namespace:
    """The flags, with the uses kept apart."""
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
    names = f"or one of {', '.join(OWN_DATA)}"
    add("--train", type=source, action="append", default=[], help=f"a file of rows, {names}")
    add("--mix", type=source, action="append", default=[], help=f"to mix in: a file, {names}")
    add("--share", type=float, action="append", default=[], help="of the training rows, per --mix")
    add("--dev", type=source, help="a file for scoring, or a name as above")
    add("--dev-share", type=float, help="hold out this share of --train instead; needs --seed")
    add("--valid", type=source, help="rows that choose the best step; default: dev")
    add("--valid-share", type=float, help="hold out this share of --train for it; needs --seed")
    add("--format", choices=list(FORMATS), help="default: recognised")
    add("--no-tools", action="store_true", help="for prompts without a place for tools")
    add("--prompt-column", help="default: recognised")
    add("--response-column", help="default: recognised")
    add("--history-column", help="default: history, if there is one")
    flags = parser.parse_args()
    check_flags(flags, parser)
    if flags.max_leakage is None:  # a user who gives one file twice means to
        is_meant = isinstance(flags.dev, Path) and flags.train == [flags.dev]
        flags.max_leakage = 1.0 if is_meant else MAX_LEAKAGE
    return flags


def source(text: str) -> Source:
    """A name of the project's own, or a file under the name that the user knows behind a link."""
    if text in OWN_DATA:
        return text
    path = Path(text)
    return path.resolve() if path.is_symlink() else path


def check_flags(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Stop unless the flags describe exactly one use."""
    sizes = (flags.train_rows, flags.dev_rows)
    subset = (flags.max_train_rows, flags.max_dev_rows)
    held_out = (flags.dev_share, flags.valid_share)
    named = (*flags.train, *flags.mix, flags.dev, flags.valid)
    has_parts = any(each is not None for each in (*named, *flags.share, *held_out))
    takes_sample = flags.sample or SAMPLE in named
    if flags.sample and (has_parts or flags.adgen):
        parser.error("--sample takes --train-rows, --dev-rows and --seed, and no files")
    if takes_sample and None in (*sizes, flags.seed):
        parser.error("--sample takes --train-rows, --dev-rows and --seed, and no files")
    if not takes_sample and sizes != (None, None):
        parser.error("--train-rows and --dev-rows: only for --sample; else --max-train-rows")
    if flags.adgen and has_parts:
        parser.error("--adgen takes no files; name local copies with --adgen-source")
    if not flags.sample and not flags.adgen and not (flags.train and (flags.dev or held_out[0])):
        parser.error("name both --train FILE and --dev FILE, or use --sample or --adgen")
    if None not in (flags.dev, flags.dev_share) or None not in (flags.valid, flags.valid_share):
        parser.error("--dev and --dev-share, --valid and --valid-share: expected one of the two")
    if len(flags.mix) != len(flags.share):
        parser.error("--mix and --share: expected one --share for each --mix")
    if not all(0 <= share < 1 for share in flags.share) or sum(flags.share) >= 1:
        parser.error("--share: expected shares from 0, together less than 1")
    if not all(share is None or 0 < share < 1 for share in held_out):
        parser.error("--dev-share and --valid-share: expected a share between 0 and 1")
    if any(number is not None and number < 1 for number in (*sizes, *subset)):
        parser.error("--train-rows and the other numbers of rows: expected 1 or more")
    if subset != (None, None) and flags.seed is None:
        parser.error("--max-train-rows and --max-dev-rows need --seed")
    if (flags.mix or held_out != (None, None)) and flags.seed is None:
        parser.error("--mix, --dev-share and --valid-share need --seed")
    if flags.max_leakage is not None and not 0 <= flags.max_leakage <= 1:
        parser.error("--max-leakage: expected a share from 0 to 1")


if __name__ == "__main__":
    run_script(main)
