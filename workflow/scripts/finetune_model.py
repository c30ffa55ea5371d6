"""Fine-tune one model with one method; only the method's own weights are trained and saved.

Reads   the prepared model and its manifest, the tokenised data
Writes  the checkpoint folder, a manifest that identifies it, the loss curve, the runtime

    python workflow/scripts/finetune_model.py --model results/models/chatglm2-6b
        --model-manifest results/models/chatglm2-6b.json --data data/tokenized/chatglm2-6b
        --method lora --lr 1e-2 --max-steps 160 --batch-size 16 --seed 42
        --settings .glmtune/settings/<hash>.json
        --checkpoint results/checkpoints/chatglm2-6b/lora
        --manifest results/training/chatglm2-6b/lora.json
        --curve results/curves/chatglm2-6b/lora.csv
        --runtime results/runtime/finetune_model/chatglm2-6b/lora.json

`--report-to tensorboard` also shows the losses while it trains, as chatglm2-6b/lora.
`--processes 8 --sharding zero3` trains on eight GPUs (docs/cluster.md); the results are the same.
"""

from __future__ import annotations

from pathlib import Path

from glmtune.errors import run_script
from glmtune.steps.inputs_outputs import ModelFiles, Outputs, Tracking
from glmtune.training.settings import ZERO_STAGES
from glmtune.tuning.settings import SETTINGS, settings_class
from glmtune.workspace.cached_step import reuse_or_run, step_parser
from glmtune.workspace.fork_server import call_in_fork
from glmtune.workspace.gpus import lease_gpus
from glmtune.workspace.step_settings import typed, with_flags
from glmtune.workspace.torchrun import call_in_processes, number_or_all, require_sharding
from glmtune.workspace.trackers import TRACKERS, require_trackers, tracker_folder

# Name in the store -> flag.
OUTPUTS = {
    "checkpoint": "checkpoint",
    "manifest.json": "manifest",
    "curve.csv": "curve",
    "runtime.json": "runtime",
}


def main() -> None:
    """Read the flags and run the step."""
    parser = step_parser(__doc__, OUTPUTS)
    parser.add_argument("--model", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--model-manifest", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tokenised data")
    parser.add_argument("--method", choices=SETTINGS, required=True)
    parser.add_argument("--lr", type=float, required=True, help="peak learning rate")
    parser.add_argument("--max-steps", type=int, required=True, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, required=True, help="rows per pass")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--report-to", nargs="*", choices=TRACKERS, default=[], metavar="TRACKER")
    parser.add_argument("--processes", type=number_or_all, default=1, help="each on its own GPU")
    parser.add_argument("--sharding", choices=ZERO_STAGES, default="none")
    parser.add_argument("--nodes", type=int, default=1, help="machines that train together")
    parser.add_argument("--starter", default="", help="runs a command on each of them: srun …")
    flags = parser.parse_args()

    values = with_flags(flags, "method", "lr", "max_steps", "batch_size", "seed")
    settings = typed(settings_class(values), values)
    require_trackers(flags.report_to)
    require_sharding(flags.sharding)
    tracking = Tracking(
        trackers=flags.report_to,
        run="/".join(flags.checkpoint.parts[-2:]),
        folder=tracker_folder(Path.cwd()),
    )

    is_alone = flags.processes == flags.nodes == 1

    def compute(out_dir: Path, resume_dir: Path) -> None:
        arguments = {
            "model": ModelFiles(folder=flags.model, manifest=flags.model_manifest),
            "data": flags.data,
            "settings": settings,
            "outputs": Outputs(out_dir=out_dir, resume_dir=resume_dir),
            "tracking": tracking,
            "sharding": "none" if is_alone else flags.sharding,
        }
        if is_alone:
            lease_gpus()
            call_in_fork("glmtune.steps.finetuning", "finetune", **arguments)
        else:
            call_in_processes(
                "glmtune.steps.finetuning",
                "finetune",
                processes=flags.processes,
                nodes=flags.nodes,
                starter=flags.starter,
                **arguments,
            )

    inputs = {"model": flags.model_manifest, "data": flags.data / "manifest.json"}
    reuse_or_run(__file__, flags, OUTPUTS, compute, settings=values, inputs=inputs)


if __name__ == "__main__":
    run_script(main)
