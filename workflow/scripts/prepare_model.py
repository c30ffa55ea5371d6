"""Prepare a base model: train a miniature, or locate and hash the weights of another source.

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

from pathlib import Path

from glmtune.checkpoints.sources import vocabulary_files
from glmtune.errors import run_script
from glmtune.miniatures.settings import MiniatureSettings, ModelSettings
from glmtune.workspace.cached_step import reuse_or_run, step_parser
from glmtune.workspace.step_settings import typed

# Name in the store -> flag.
OUTPUTS = {"model": "model", "manifest.json": "manifest", "runtime.json": "runtime"}


def main() -> None:
    """Read the flags and run the step."""
    flags = step_parser(__doc__, OUTPUTS).parse_args()
    settings = typed(ModelSettings, flags.settings, miniature=MiniatureSettings)

    def compute(out_dir: Path, resume_dir: Path) -> None:
        # Imported here: a reused result needs no torch.
        from glmtune.steps.preparing import prepare

        prepare(settings, out_dir, resume_dir)

    # Other sources than miniatures are located and hashed every time: it is quick, and the user's
    # files can change while the parameters stay the same.
    is_miniature = settings.source == "miniature"
    vocabulary = {path.name: path for path in vocabulary_files(settings.tokenizer)}
    reuse_or_run(
        __file__,
        flags,
        OUTPUTS,
        compute,
        settings=flags.settings,
        inputs=vocabulary,
        reuse=is_miniature,
    )


if __name__ == "__main__":
    run_script(main)
