"""Generate with one model, tuned or untuned: dev rows, examples and general questions.

Reads   the prepared model and its manifest, the checkpoint and its manifest (unless untuned),
        the dev rows
Writes  predictions, example answers and the answers to the project's own general questions as
        JSON Lines in the order of the prompts (docs/formats.md describes the keys), the runtime

    python workflow/scripts/generate_predictions.py --model results/models/chatglm2-6b
        --model-manifest results/models/chatglm2-6b.json --method lora
        --checkpoint results/checkpoints/chatglm2-6b/lora
        --training-manifest results/training/chatglm2-6b/lora.json
        --dev data/dataset/dev.jsonl --examples prompts.json
        --settings .glmtune/settings/<hash>.json
        --predictions results/predictions/chatglm2-6b/lora.jsonl
        --example-answers results/examples/chatglm2-6b/lora.jsonl
        --probe results/probe/chatglm2-6b/lora.jsonl
        --runtime results/runtime/generate_predictions/chatglm2-6b/lora.json
"""

from __future__ import annotations

from pathlib import Path

from glmtune.errors import run_script
from glmtune.generation.settings import PredictionSettings
from glmtune.steps.inputs_outputs import ModelFiles, Outputs
from glmtune.workspace.cached_step import reuse_or_run, step_parser
from glmtune.workspace.fork_server import call_in_fork
from glmtune.workspace.gpus import lease_gpus
from glmtune.workspace.step_settings import read_settings, typed

# Name in the store -> flag.
OUTPUTS = {
    "predictions.jsonl": "predictions",
    "examples.jsonl": "example-answers",
    "probe.jsonl": "probe",
    "runtime.json": "runtime",
}


def main() -> None:
    """Read the flags and run the step."""
    parser = step_parser(__doc__, OUTPUTS)
    parser.add_argument("--model", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--model-manifest", type=Path, required=True)
    parser.add_argument("--method", required=True, help="none, ptuning, lora or full")
    parser.add_argument("--checkpoint", type=Path, help="folder of the tuned weights")
    parser.add_argument(
        "--training-manifest", type=Path, nargs="?", help="default: none, the untuned model"
    )
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument(
        "--examples", type=read_settings, required=True, help="prompts: a JSON file"
    )
    flags = parser.parse_args()

    settings = typed(PredictionSettings, flags.settings)

    def compute(out_dir: Path, resume_dir: Path) -> None:
        lease_gpus()
        model = ModelFiles(
            folder=flags.model,
            manifest=flags.model_manifest,
            method=flags.method,
            checkpoint=flags.checkpoint if flags.training_manifest else None,
            training_manifest=flags.training_manifest,
        )
        call_in_fork(
            "glmtune.steps.predicting",
            "predict",
            model=model,
            dev=flags.dev,
            examples=flags.examples,
            settings=settings,
            outputs=Outputs(out_dir=out_dir, resume_dir=resume_dir),
        )

    inputs = {"model": flags.model_manifest, "dev": flags.dev}
    if flags.training_manifest:
        inputs["training"] = flags.training_manifest
    identity = {"method": flags.method, "examples": flags.examples, **flags.settings}
    reuse_or_run(__file__, flags, OUTPUTS, compute, settings=identity, inputs=inputs)


if __name__ == "__main__":
    run_script(main)
