"""Tune one model with one method; only the method's own weights are trained and kept.

Reads   the prepared model and its manifest, the tokenised data
Writes  the checkpoint folder, a manifest that identifies it, the loss curve, the runtime

    python workflow/scripts/finetune_model.py --model results/models/chatglm2-6b
        --model-manifest results/models/chatglm2-6b.json --data data/tokenized/chatglm2-6b
        --settings .glmtune/settings/<hash>.json
        --checkpoint results/checkpoints/chatglm2-6b/lora
        --manifest results/training/chatglm2-6b/lora.json
        --curve results/curves/chatglm2-6b/lora.csv
        --runtime results/runtime/finetune_model/chatglm2-6b/lora.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.errors import run_script
from glmtune.locations import store_folder
from glmtune.tuning.settings import settings_class
from glmtune.workspace.step_settings import read_settings, typed
from glmtune.workspace.store import entry_for, reuse_or_compute


def main() -> None:
    """Read the flags and run the step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--model-manifest", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tokenised data")
    parser.add_argument("--settings", type=read_settings, required=True, help="a JSON file")
    parser.add_argument("--store", type=Path, default=store_folder(Path.cwd()))
    for output in ("checkpoint", "manifest", "curve", "runtime"):
        parser.add_argument(f"--{output}", type=Path, required=True)
    flags = parser.parse_args()

    settings = typed(settings_class(flags.settings), flags.settings)

    def compute(out_dir: Path, resume_dir: Path) -> None:
        # Imported here: a reused result needs no torch.
        from glmtune.steps.finetuning import finetune
        from glmtune.steps.handed import ModelFiles, Outputs

        finetune(
            model=ModelFiles(folder=flags.model, manifest=flags.model_manifest),
            data=flags.data,
            settings=settings,
            outputs=Outputs(out_dir=out_dir, resume_dir=resume_dir),
        )

    inputs = {"model": flags.model_manifest, "data": flags.data / "manifest.json"}
    entry = entry_for(flags.store, Path(__file__).name, flags.settings, inputs)
    outputs = {
        "checkpoint": flags.checkpoint,
        "manifest.json": flags.manifest,
        "curve.csv": flags.curve,
        "runtime.json": flags.runtime,
    }
    reuse_or_compute(flags.store, entry, outputs, compute)


if __name__ == "__main__":
    run_script(main)
