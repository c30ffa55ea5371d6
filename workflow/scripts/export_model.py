"""Write a model, with the adapter that was tuned on it, for other tools.

Reads   a base model's folder (prepared, official or ours), a PEFT adapter or a P-Tuning v2 prefix
Writes  a new folder: `official` (the published layout, LoRA merged), `transformers` (its own
        GlmForCausalLM, no remote code, LoRA merged), `gguf` (a file for llama.cpp, LoRA merged)
        or `thudm-prefix` (THUDM's checkpoint)

    python workflow/scripts/export_model.py
        --model results/models/chatglm2-6b
        --adapter results/checkpoints/chatglm2-6b/lora
        --format transformers
        --out exported/chatglm2-6b-lora
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.errors import run_script

DTYPE_HELP = "float32, float16, bfloat16, or of gguf q8_0 …; default: as in config.json"


def main() -> None:
    """Read the flags and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--prefix", type=Path)
    parser.add_argument(
        "--format", required=True, help="official, transformers, gguf or thudm-prefix"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", help="needed only if the folder does not show it")
    parser.add_argument("--dtype", help=DTYPE_HELP)
    flags = parser.parse_args()
    # Imported here: help and wrong flags are answered without waiting for torch.
    from glmtune.checkpoints.prepared import ModelRef
    from glmtune.export.exporting import export_model

    model = ModelRef(flags.model, flags.prefix, flags.adapter, flags.family)
    export_model(model, flags.format, flags.out, dtype=flags.dtype)
    print(f"wrote {flags.out}")


if __name__ == "__main__":
    run_script(main)
