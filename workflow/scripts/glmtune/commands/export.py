"""Exports a model, with its tuned weights, for other tools (docs/formats.md).

glmtune export chatglm2-6b/lora --format transformers --out exported/chatglm2-6b-lora
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glmtune.commands.flags import DTYPES, add_model, choose, parser

# As glmtune.export has them.
FORMATS = ("official", "transformers", "gguf", "thudm-prefix")
QUANTIZED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def main(arguments: Sequence[str]) -> None:
    """Write the folder."""
    flags = parser("export", __doc__)
    add_model(flags)
    flags.add_argument("--format", choices=FORMATS, required=True)
    flags.add_argument("--out", type=Path, required=True, help="a new folder")
    types = (*DTYPES, *QUANTIZED)
    explained = "default: as in config.json; those with q are for gguf"
    flags.add_argument("--dtype", choices=types, help=explained)
    given = flags.parse_args(arguments)
    _, served = choose(given)
    # Imported here: help and wrong flags are answered without waiting for torch.
    from glmtune.checkpoints.prepared import ModelRef
    from glmtune.export.exporting import export_model

    model = ModelRef(served.folder, served.prefix, served.adapter, served.family)
    export_model(model, given.format, given.out, dtype=given.dtype)
    print(f"wrote {given.out}")
