"""Tokenize the data set with a model's tokenizer and prompt format.

Reads   <data>/manifest.json, train.jsonl, dev.jsonl and, if the data set has it, valid.jsonl, the
        vocabulary of the prepared model and its manifest
Writes  <out-dir>/train.safetensors, dev.safetensors, perhaps valid.safetensors, manifest.json

    python workflow/scripts/tokenize_dataset.py --data data/dataset
        --model results/models/chatglm2-6b --model-manifest results/models/chatglm2-6b.json
        --family chatglm2-6b
        --max-source-tokens 96 --max-target-tokens 128 --long-history shorten
        --out-dir data/tokenized/chatglm2-6b
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from glmtune.checkpoints.sources import check_model
from glmtune.errors import run_script
from glmtune.families.long_history import LONG_HISTORY
from glmtune.files import read_json, write_json
from glmtune.steps.tokenizing import Encoder, describe, encode_file
from glmtune.training.notes import coverage_notes


def main() -> None:
    """Read the flags and run the step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev")
    parser.add_argument("--model", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--model-manifest", type=Path, required=True)
    parser.add_argument("--family", required=True, help="e.g. chatglm2-6b")
    parser.add_argument("--template", help="prompt template; default: the family's first")
    parser.add_argument("--max-source-tokens", type=int, required=True)
    parser.add_argument("--max-target-tokens", type=int, required=True)
    parser.add_argument(
        "--long-history",
        choices=LONG_HISTORY,
        required=True,
        help="drop the oldest turns of a prompt over its limit, or truncate it as THUDM does",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--out-dir", type=Path, required=True)
    flags = parser.parse_args()

    encoder = Encoder(
        flags.model,
        flags.family,
        flags.template,
        flags.max_source_tokens,
        flags.max_target_tokens,
        flags.long_history,
    )
    check_model(flags.model, read_json(flags.model_manifest))
    template, tokenizer = encoder.open()
    print(encoder.describe())
    manifest: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "template": template.name,
        "trains_on": template.trains_on,
        "splits": {},
    }
    dataset = read_json(flags.data / "manifest.json")
    for split in filter(dataset.get, ("train", "dev", "valid")):
        summary = encode_file(
            encoder,
            flags.data / f"{split}.jsonl",
            flags.out_dir / f"{split}.safetensors",
            rows=dataset[split]["rows"],
            workers=flags.workers,
        )
        manifest["splits"][split] = summary
        print(f"{split}: {describe(summary, encoder)}")
    for note in coverage_notes(manifest["splits"]["train"]):
        print(f"warning: {note}", file=sys.stderr)
    write_json(flags.out_dir / "manifest.json", manifest)


if __name__ == "__main__":
    run_script(main)
