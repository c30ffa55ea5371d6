"""Encode the data set with a model's tokenizer and prompts.

Reads   <data>/train.jsonl, <data>/dev.jsonl, the vocabulary of the prepared model
Writes  <out-dir>/train.safetensors, dev.safetensors, manifest.json

    python workflow/scripts/tokenize_dataset.py --data data/dataset
        --model results/models/chatglm2-6b --generation chatglm2-6b
        --max-source-tokens 96 --max-target-tokens 128
        --out-dir data/tokenized/chatglm2-6b
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.encoding import encode_split
from glmtune.errors import run_script
from glmtune.families import get_family
from glmtune.files import read_jsonl, write_json
from glmtune.sources import open_tokenizer
from glmtune.tokenized import write_tokenized


def main() -> None:
    """Read the flags and run the step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev")
    parser.add_argument("--model", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--generation", required=True, help="e.g. chatglm2-6b")
    parser.add_argument("--max-source-tokens", type=int, required=True)
    parser.add_argument("--max-target-tokens", type=int, required=True)
    parser.add_argument("--out-dir", type=Path, required=True)
    flags = parser.parse_args()

    family = get_family(flags.generation)
    tokenizer = open_tokenizer(flags.model, family.name)
    manifest = {"pad_token_id": tokenizer.pad_token_id, "splits": {}}
    for split in ("train", "dev"):
        rows, summary = encode_split(
            family,
            tokenizer,
            read_jsonl(flags.data / f"{split}.jsonl"),
            max_source_tokens=flags.max_source_tokens,
            max_target_tokens=flags.max_target_tokens,
        )
        path = flags.out_dir / f"{split}.safetensors"
        write_tokenized(path, rows)
        manifest["splits"][split] = summary
    write_json(flags.out_dir / "manifest.json", manifest)


if __name__ == "__main__":
    run_script(main)
