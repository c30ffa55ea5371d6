"""Make a base model ready: train a miniature, or find and hash the weights of any other source.

Reads   nothing (miniature, random), a local model folder, or a hub's model
Writes  the model's folder (the model itself, or where it is), a manifest that identifies it,
        the runtime

    python workflow/scripts/prepare_model.py
        --settings .glmtune/settings/<hash>.json
        --model results/models/chatglm2-6b
        --manifest results/models/chatglm2-6b.json
        --runtime results/runtime/prepare_model/chatglm2-6b.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glmtune.checkpoints.sources import vocabulary_files
from glmtune.errors import run_script
from glmtune.locations import store_folder
from glmtune.miniatures.settings import MiniatureSettings, ModelSettings
from glmtune.workspace.step_settings import read_settings, typed
from glmtune.workspace.store import entry_for, reuse_or_compute


def main() -> None:
    """Read the flags and run the step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", type=read_settings, required=True, help="a JSON file")
    parser.add_argument("--store", type=Path, default=store_folder(Path.cwd()))
    for output in ("model", "manifest", "runtime"):
        parser.add_argument(f"--{output}", type=Path, required=True)
    flags = parser.parse_args()

    settings = typed(ModelSettings, flags.settings, miniature=MiniatureSettings)

    def compute(out_dir: Path, resume_dir: Path) -> None:
        # Imported here: a reused result needs no torch.
        from glmtune.steps.preparing import prepare

        prepare(settings, out_dir, resume_dir)

    # Others than miniatures are found and hashed anew each time: it is quick, and a folder or file
    # of the user's can change without any parameter changing.
    vocabulary = {path.name: path for path in vocabulary_files(settings.tokenizer)}
    entry = entry_for(flags.store, Path(__file__).name, flags.settings, vocabulary)
    outputs = {
        "model": flags.model,
        "manifest.json": flags.manifest,
        "runtime.json": flags.runtime,
    }
    is_miniature = settings.source == "miniature"
    reuse_or_compute(flags.store, entry, outputs, compute, reuse=is_miniature)


if __name__ == "__main__":
    run_script(main)
