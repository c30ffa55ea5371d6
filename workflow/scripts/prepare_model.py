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
from glmtune.steps.inputs_outputs import Outputs
from glmtune.workspace.cached_step import reuse_or_run, step_parser
from glmtune.workspace.fork_server import call_in_fork
from glmtune.workspace.gpus import lease_gpus
from glmtune.workspace.step_settings import typed

# Name in the store -> flag.
OUTPUTS = {"model": "model", "manifest.json": "manifest", "runtime.json": "runtime"}


def main() -> None:
    """Read the flags and run the step."""
    flags = step_parser(__doc__, OUTPUTS).parse_args()
    settings = typed(ModelSettings, flags.settings, miniature=MiniatureSettings)
    is_miniature = settings.source == "miniature"

    def compute(out_dir: Path, resume_dir: Path) -> None:
        if is_miniature:
            lease_gpus()
        outputs = Outputs(out_dir=out_dir, resume_dir=resume_dir)
        call_in_fork("glmtune.steps.preparing", "prepare", settings=settings, outputs=outputs)

    # Other sources than miniatures are located and hashed every time: it is quick, and the user's
    # files can change while the parameters stay the same.
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
